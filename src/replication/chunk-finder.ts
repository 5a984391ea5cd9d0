/** In which chunks of a volume there is anything: known before each of them is asked. */
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import type { Id64 } from '../core/id64.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { GROUP_BITS_PAGES } from '../shard/op.ts'
import { type BlockOp, OpFlag, OpKind } from './block-store.ts'
import { type LayerId, setLayer, type ShardQuestions } from './shard-questions.ts'

export interface ChunkQuestion extends LayerId {
  /** Only what is from layers above this one. */
  readonly since: Id64 | null
  readonly first: number
  /** Behind the last. */
  readonly end: number
}

/** What was written before the question is in it; what is written meanwhile may be. */
export interface ChunksFound {
  /** Ordered. Before `until` there is nothing in any other. */
  readonly chunks: Uint32Array
  readonly until: number
}

export interface ChunkFinder {
  /** null: that cannot be told now, each chunk has to be asked. */
  find(question: ChunkQuestion): Promise<ChunksFound | null>
}

/** Of groups, a power of two, those that are asked about. */
export interface GroupsWanted {
  readonly groups: number
  readonly wanted: readonly number[]
}

/** Of one shard's answer. */
const ANSWER_PAGES = 1
const PAGES = GROUP_BITS_PAGES + ANSWER_PAGES

/**
 * In all shards here. `admit` is called in the moment in which they are asked. @throws StoreError
 * also what `admit` throws
 */
export function findInShards(
  questions: ShardQuestions,
  question: ChunkQuestion,
  groups: GroupsWanted,
  admit: () => void = () => {}
): Promise<ChunksFound> {
  const { shardCount } = questions
  const ask = async (payload: number, bytes: Buffer): Promise<ChunksFound> => {
    admit()
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 4))
    const askShard = async (shard: number): Promise<ChunksFound> => {
      const op = questions.acquireOp()
      const start = fillOp(op, words, payload + shard * PAGES * BLOCK_BYTES, question, groups)
      const { resultA, resultB } = await questions.run(op, shard)
      return { chunks: words.slice(start, start + resultA), until: resultB }
    }
    const asked = Array.from({ length: shardCount }, (_, shard) => askShard(shard))
    // The pages are in use until all of them are done.
    await Promise.allSettled(asked)
    return joinFound(await Promise.all(asked))
  }
  // Clients' requests may wait for this one.
  return questions.withPages(PAGES * shardCount, ask, false)
}

/** Returns where the answer will stand in `words`. */
function fillOp(
  op: BlockOp,
  words: Uint32Array,
  payload: number,
  question: ChunkQuestion,
  { groups, wanted }: GroupsWanted
): number {
  const { since, first, end } = question
  const bits = payload / 4
  const start = bits + (GROUP_BITS_PAGES * BLOCK_BYTES) / 4
  words.fill(0, bits, start)
  for (const group of wanted) words[bits + (group >>> 5)]! |= 1 << (group & 31)
  words[start] = first
  words[start + 1] = end
  setLayer(op, question)
  op.kind = OpKind.FindChunks
  op.flags = since === null ? 0 : OpFlag.Since
  op.writerEpoch = since?.high ?? 0
  op.sequence = since?.low ?? 0
  op.chunk = groups
  op.blockCount = ANSWER_PAGES
  op.payload = payload
  return start
}

/** What all answers tell together. */
export function joinFound(answers: readonly ChunksFound[]): ChunksFound {
  const until = Math.min(...answers.map((answer) => answer.until))
  const chunks = new Uint32Array(answers.reduce((sum, answer) => sum + answer.chunks.length, 0))
  let length = 0
  for (const answer of answers) {
    chunks.set(answer.chunks, length)
    length += answer.chunks.length
  }
  chunks.sort()
  let count = 0
  for (const chunk of chunks) {
    if (chunk >= until) break
    if (count === 0 || chunks[count - 1] !== chunk) chunks[count++] = chunk
  }
  return { chunks: chunks.subarray(0, count), until }
}

// As it goes from peer to peer: until u32, then the chunks, u32; little-endian.

export function encodeFound({ chunks, until }: ChunksFound): Buffer {
  const bytes = Buffer.alloc(4 * (chunks.length + 1))
  bytes.writeUInt32LE(until, 0)
  for (const [at, chunk] of chunks.entries()) bytes.writeUInt32LE(chunk, 4 * (at + 1))
  return bytes
}

/** @throws StoreError Corrupt */
export function decodeFound(bytes: Buffer): ChunksFound {
  if (bytes.length < 4 || bytes.length % 4 !== 0) {
    throw new StoreError(ErrorCode.Corrupt, 'a peer named chunks in another way')
  }
  const words = Uint32Array.from({ length: bytes.length / 4 }, (_, at) =>
    bytes.readUInt32LE(4 * at)
  )
  return { until: words[0]!, chunks: words.subarray(1) }
}

/** Everything is here. */
export class LocalChunkFinder implements ChunkFinder {
  readonly #questions: ShardQuestions

  constructor(questions: ShardQuestions) {
    this.#questions = questions
  }

  async find(question: ChunkQuestion): Promise<ChunksFound | null> {
    try {
      return await findInShards(this.#questions, question, { groups: 1, wanted: [0] })
    } catch (thrown) {
      storeErrorOf(thrown) // who asks for each chunk finds out
      return null
    }
  }
}
