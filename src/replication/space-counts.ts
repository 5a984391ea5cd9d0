import { parseId64 } from '../cluster/ids.ts'
import { GROUP_BITS_PAGES, OpKind, SPACE_BYTES } from '../shard/op.ts'
import type { MemberAnswer } from './member.ts'
import type { ShardQuestions } from './shard-questions.ts'
import { SPACE_PAGES, type SpaceQuestion, SpaceSums, writeSpaceQuestion } from './space-question.ts'

/** Between two pieces of a count: what clients ask has the shard meanwhile. */
const REST_MS = 1

/** Who asks gets an answer in this time: the count, or that it goes on. */
const ANSWER_MS = 1000
/** A count whose result nobody fetches is forgotten. */
const KEEP_MS = 60_000
/** Others are told that theirs goes on, and begin it later. */
const COUNTS_MAX = 16

interface Count {
  readonly done: Promise<void>
  result: Buffer | null
  error: unknown
}

/**
 * Counts of space that peers, this one included, ask for: one after the other, and each for as long
 * as it takes. Who asks gives its count a name, and asks again by that until it is done.
 */
export class SpaceCounts {
  readonly #questions: ShardQuestions
  readonly #counts = new Map<string, Count>()
  #last: Promise<void> = Promise.resolve()

  constructor(questions: ShardQuestions) {
    this.#questions = questions
  }

  /** @throws StoreError what counting throws */
  async answer(name: string, question: SpaceQuestion): Promise<MemberAnswer> {
    const count = this.#counts.get(name) ?? this.#begin(name, question)
    if (count === null) return GOES_ON
    let timer: NodeJS.Timeout | null = null
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ANSWER_MS)
    })
    await Promise.race([count.done, late])
    if (timer !== null) clearTimeout(timer)
    if (count.result !== null || count.error !== null) this.#counts.delete(name)
    if (count.error !== null) throw count.error
    return count.result === null ? GOES_ON : { data: count.result }
  }

  #begin(name: string, question: SpaceQuestion): Count | null {
    if (this.#counts.size >= COUNTS_MAX) return null
    const run = async (): Promise<void> => {
      try {
        count.result = (await countSpace(this.#questions, question)).encode()
      } catch (thrown) {
        count.error = thrown
      }
      setTimeout(() => this.#counts.delete(name), KEEP_MS).unref()
    }
    const done = this.#last.then(run)
    const count: Count = { done, result: null, error: null }
    this.#last = done
    this.#counts.set(name, count)
    return count
  }
}

/** In all shards here. @throws StoreError Conflict when another count was begun meanwhile */
async function countSpace(questions: ShardQuestions, question: SpaceQuestion): Promise<SpaceSums> {
  const family = parseId64(question.family)
  const sums = new SpaceSums(question.nodes.length)
  const count = (shard: number): Promise<void> =>
    questions.withPages(GROUP_BITS_PAGES + SPACE_PAGES, async (payload, bytes) => {
      writeSpaceQuestion(question, bytes, payload)
      let entries = 0
      for (let from = 0; ; ) {
        const op = questions.acquireOp()
        op.kind = OpKind.LayerSpace
        op.familyHigh = family.high
        op.familyLow = family.low
        op.chunk = question.groups
        op.sequence = from
        op.blockCount = SPACE_PAGES
        op.payload = payload
        const { resultA, resultB } = await questions.run(op, shard)
        for (let i = 0; i < resultA; i++) sums.add(entries++, bytes, payload + i * SPACE_BYTES)
        if (resultB === 0) return
        from = resultB
        await new Promise((resolve) => setTimeout(resolve, REST_MS))
      }
    })
  await Promise.all(Array.from({ length: questions.shardCount }, (_, shard) => count(shard)))
  return sums
}

const GOES_ON: MemberAnswer = { more: true, data: Buffer.alloc(0) }
