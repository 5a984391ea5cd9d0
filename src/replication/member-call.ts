/** Calls between peers as bytes: JSON, and of answers packed data behind it. */
import { z } from 'zod'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { CHUNK_BLOCKS, SEQUENCE_MAX } from '../core/limits.ts'
import type { MemberAnswer, MemberCall } from './member.ts'
import { CALL_DATA_BYTES_MAX, CALL_JSON_BYTES_MAX, CALL_VOIDS_MAX } from './peer-limits.ts'
import { peerReportSchema } from './peer-report.ts'
import { SPACE_BRANCHES_MAX, SPACE_NODES_MAX } from './space-question.ts'

const id64 = z.string().regex(/^(?!0{16})[0-9a-f]{16}$/)
const u16 = z.number().int().min(0).max(0xffff)
const u32 = z.number().int().min(0).max(0xffff_ffff)
const groups = z.number().int().min(1).max(0x1_0000)
const shape = z.strictObject({ pool: u16, groups })
const sequence = z.number().int().min(0).max(SEQUENCE_MAX)
const withChecksums = z.literal(true).optional()

/** A call that is added to MemberCall fails to compile until it stands here. */
const calls: {
  readonly [Name in MemberCall['call']]: z.ZodType<Extract<MemberCall, { call: Name }>>
} = {
  fenceFamily: z.strictObject({ call: z.literal('fenceFamily'), family: id64, writerEpoch: u32 }),
  fenceGroup: z.strictObject({
    call: z.literal('fenceGroup'),
    id: z.strictObject({ pool: u16, group: u16 }),
    epoch: u32,
    parents: z
      .array(z.strictObject({ group: u16, epoch: u32 }))
      .max(16)
      .optional()
  }),
  groupSums: z.strictObject({
    call: z.literal('groupSums'),
    shape,
    family: id64,
    withHoles: z.boolean(),
    withChecksums
  }),
  chunkSums: z.strictObject({
    call: z.literal('chunkSums'),
    shape,
    group: u16,
    family: id64,
    withHoles: z.boolean(),
    withChecksums,
    after: z.strictObject({ layer: id64, chunk: u32 }).nullable(),
    limit: z.number().int().min(1)
  }),
  versions: z.strictObject({ call: z.literal('versions'), family: id64, layer: id64, chunk: u32 }),
  void: z.strictObject({
    call: z.literal('void'),
    pool: u16,
    group: u16,
    groupEpoch: u32,
    writerEpoch: u32,
    family: id64,
    layer: id64,
    chunk: u32,
    voids: z
      .array(
        z.strictObject({
          firstBlock: z
            .number()
            .int()
            .min(0)
            .max(CHUNK_BLOCKS - 1),
          blockCount: z.literal(1),
          writerEpoch: u32,
          sequence,
          floorEpoch: u32,
          floorSequence: sequence
        })
      )
      .min(1)
      .max(CALL_VOIDS_MAX)
  }),
  ping: z.strictObject({ call: z.literal('ping'), families: z.array(z.tuple([id64, u32])) }),
  space: z.strictObject({
    call: z.literal('space'),
    count: id64,
    question: z.strictObject({
      family: id64,
      branches: z
        .array(z.strictObject({ family: id64, layerHigh: u32, isOpen: z.boolean() }))
        .max(SPACE_BRANCHES_MAX),
      nodes: z.array(z.tuple([u32.or(z.literal(-1)), u16, u32])).max(SPACE_NODES_MAX),
      groups,
      wanted: z.array(u16)
    })
  }),
  chunks: z.strictObject({
    call: z.literal('chunks'),
    shape,
    wanted: z.array(z.tuple([u16, u32])),
    writerEpoch: u32,
    family: id64,
    layer: id64,
    since: id64.nullable(),
    first: u32,
    end: u32
  }),
  report: z.strictObject({ call: z.literal('report') })
}
const named = z.object({ call: z.enum(Object.keys(calls) as MemberCall['call'][]) })

const answerSchema = z.strictObject({
  fenced: z.array(id64).optional(),
  freeBytes: z.number().int().nonnegative().optional(),
  more: z.boolean().optional(),
  report: peerReportSchema.optional()
})

const failureSchema = z.object({ message: z.string() })

/** @throws StoreError LimitReached */
export function encodeCall(call: MemberCall): Buffer {
  return limited(JSON.stringify(call), `call ${call.call}`)
}

/** @throws StoreError InvalidArgument */
export function decodeCall(json: Buffer): MemberCall {
  const value = parse(json)
  const name = named.safeParse(value)
  const result = name.success ? calls[name.data.call].safeParse(value) : name
  if (result.success) return result.data as MemberCall
  const text = `not a call of this version: ${z.prettifyError(result.error)}`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

export const encodeFailure = (error: StoreError): Buffer =>
  Buffer.from(JSON.stringify({ message: error.message.slice(0, MESSAGE_CHARS_MAX) }))

const MESSAGE_CHARS_MAX = 4096

/** What the other side threw, thrown again here. */
export function decodeFailure(code: ErrorCode, json: Buffer): StoreError {
  const result = failureSchema.safeParse(parse(json))
  return new StoreError(code, result.success ? result.data.message : 'without a reason')
}

/** Payload of a call's answer. */
export class CallBody {
  readonly bytes: Buffer
  readonly jsonBytes: number

  private constructor(json: Buffer, data: Buffer) {
    this.bytes = data.length === 0 ? json : Buffer.concat([json, data])
    this.jsonBytes = json.length
  }

  /** @throws StoreError LimitReached */
  static encode(answer: MemberAnswer): CallBody {
    const { data, ...rest } = answer
    if (data.length > CALL_DATA_BYTES_MAX) {
      const text = `an answer has ${data.length} bytes of data, the limit is ${CALL_DATA_BYTES_MAX}`
      throw new StoreError(ErrorCode.LimitReached, text)
    }
    return new CallBody(limited(JSON.stringify(rest), 'an answer'), data)
  }

  /** @throws StoreError Corrupt */
  static decode(bytes: Buffer, jsonBytes: number): MemberAnswer {
    const result = answerSchema.safeParse(parse(bytes.subarray(0, jsonBytes)))
    if (!result.success || jsonBytes > bytes.length) {
      throw new StoreError(ErrorCode.Corrupt, 'a peer answered a call with something else')
    }
    const { fenced, freeBytes, more, report } = result.data
    return {
      ...(fenced === undefined ? {} : { fenced }),
      ...(freeBytes === undefined ? {} : { freeBytes }),
      ...(more === undefined ? {} : { more }),
      ...(report === undefined ? {} : { report }),
      data: bytes.subarray(jsonBytes)
    }
  }
}

function limited(json: string, what: string): Buffer {
  const bytes = Buffer.from(json)
  if (bytes.length <= CALL_JSON_BYTES_MAX) return bytes
  const text = `${what} has ${bytes.length} bytes of JSON, the limit is ${CALL_JSON_BYTES_MAX}`
  throw new StoreError(ErrorCode.LimitReached, text)
}

function parse(json: Buffer): unknown {
  try {
    return JSON.parse(json.toString('utf8'))
  } catch {
    return null
  }
}
