import type { Readable } from 'node:stream'
import { z } from 'zod'
import type { Role, VolumeUse, Visitor } from './access.ts'

/** The contents of an answer that is not JSON. */
export class RawAnswer {
  readonly contentType: string
  readonly content: string | Buffer | Readable
  /** Name under which a browser or curl -OJ saves it; '' for none. */
  readonly fileName: string
  constructor(contentType: string, content: string | Buffer | Readable, fileName: string = '') {
    this.contentType = contentType
    this.content = content
    this.fileName = fileName
  }
}

/**
 * One path and method of the API. The same schemas check requests, type the handler and become the
 * OpenAPI document. A path names its parameters as `{name}`.
 */
export interface Route {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
  /** Unique word for generated clients. */
  readonly operationId: string
  readonly summary: string
  /** Least role that may use it. */
  readonly role: Role
  /** What tokens of one volume may do with it. */
  readonly volumeUse: VolumeUse
  /** Fields of the body that tokens of one volume may not send. */
  readonly withheld: (body: unknown) => readonly string[]
  /** Does its use stand in the audit log? Whatever changes something does. */
  readonly audited: boolean
  /** What stands in the audit log beside path and query, of body and answer. Never a secret. */
  readonly tell: (body: unknown, answer: unknown) => Readonly<Record<string, unknown>>
  readonly params: z.ZodObject
  readonly query: z.ZodObject
  readonly body: z.ZodObject | null
  /** What comes is no JSON. */
  readonly takesBytes: boolean
  /** null: the answer is not JSON, see `contentType`. */
  readonly answer: z.ZodType | null
  readonly contentType: string
  readonly status: number
  readonly handle: (request: RouteRequest) => Promise<RouteAnswer>
}

export interface RouteRequest {
  readonly params: Record<string, unknown>
  readonly query: Record<string, unknown>
  readonly body: unknown
  /** What came, of a route that takes bytes. */
  readonly bytes: Buffer
  readonly visitor: Visitor
}

export interface RouteAnswer {
  readonly status: number
  /** JSON value, RawAnswer, or null for none. */
  readonly value: unknown
}

const nothing = z.strictObject({})

/** Describes a route with the types of its schemas in the handler's argument. */
export function route<
  Params extends z.ZodObject = typeof nothing,
  Query extends z.ZodObject = typeof nothing,
  Body extends z.ZodObject | null = null,
  Answer extends z.ZodType | null = null
>(given: {
  method: Route['method']
  path: string
  operationId: string
  summary: string
  role: Role
  volumeUse?: VolumeUse
  withheld?: (body: Body extends z.ZodObject ? z.output<Body> : null) => readonly string[]
  audited?: boolean
  tell?: (
    body: Body extends z.ZodObject ? z.output<Body> : null,
    /** Undefined for a request that failed. */
    answer: (Answer extends z.ZodType ? z.output<Answer> : null) | undefined
  ) => Record<string, unknown>
  params?: Params
  query?: Query
  body?: Body
  takesBytes?: boolean
  answer?: Answer
  contentType?: string
  status?: number
  handle: (request: {
    params: z.output<Params>
    query: z.output<Query>
    body: Body extends z.ZodObject ? z.output<Body> : null
    bytes: Buffer
    visitor: Visitor
  }) => Promise<Answer extends z.ZodType ? z.output<Answer> | WithStatus : RawAnswer | null>
}): Route {
  const { handle, tell, withheld, status = 200 } = given
  return {
    method: given.method,
    path: given.path,
    operationId: given.operationId,
    summary: given.summary,
    role: given.role,
    volumeUse: given.volumeUse ?? 'no',
    audited: given.audited ?? given.method !== 'GET',
    // The body was checked by the schema before.
    withheld: (body) => withheld?.(body as Parameters<typeof withheld>[0]) ?? [],
    // So it was here, and the answer is what `handle` gave.
    tell: (...given) => tell?.(...(given as Parameters<typeof tell>)) ?? {},
    params: given.params ?? nothing,
    query: given.query ?? nothing,
    body: given.body ?? null,
    takesBytes: given.takesBytes ?? false,
    answer: given.answer ?? null,
    contentType: given.contentType ?? 'application/json',
    status,
    handle: async (request) => {
      // Checked by the schemas of this very route just before.
      const value = await handle(request as unknown as Parameters<typeof handle>[0])
      return value instanceof WithStatus ? value : { status, value }
    }
  }
}

/** An answer with another status than the route's usual one. */
export class WithStatus implements RouteAnswer {
  readonly status: number
  readonly value: unknown
  constructor(status: number, value: unknown) {
    this.status = status
    this.value = value
  }
}
