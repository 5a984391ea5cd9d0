/**
 * Finds chunks on a cluster: one member in sync of each group is asked, many groups in one call. It
 * is as sound as a read of each chunk (PROTOCOL.md): asked is who a read would be sent to, which
 * admits the question as it does a read. Nor can a change that other members lack yet take a chunk
 * away (R10): a trim leaves holes, which nobody drops before all have them (R12).
 * What cannot be told, because its group is not open or its member does not answer, counts as
 * found: whoever then asks for that chunk waits, or is told why not.
 */
import { formatId64 } from '../cluster/ids.ts'
import { storeErrorOf } from '../core/errors.ts'
import { groupOfChunk } from '../placement/hash.ts'
import type { Boot } from './boots.ts'
import {
  type ChunkFinder,
  type ChunkQuestion,
  type ChunksFound,
  decodeFound,
  joinFound
} from './chunk-finder.ts'
import type { FamilyIo } from './family-io.ts'
import type { GroupIo } from './group-io.ts'
import type { MemberCall } from './member.ts'
import type { ReplicatedStore } from './replicated-store.ts'

/** With groups that did not answer: their chunks are named one by one. */
const NAMED_MAX = 16_384
/** So many groups cost as much to ask about as one chunk. */
const GROUPS_PER_CHUNK = 16

export class MemberChunkFinder implements ChunkFinder {
  readonly #store: ReplicatedStore

  constructor(store: ReplicatedStore) {
    this.#store = store
  }

  async find(question: ChunkQuestion): Promise<ChunksFound | null> {
    const store = this.#store
    const family = store.family(question.familyHigh, question.familyLow)
    if (family === null) return null
    const groups = family.pool.groups.length
    if ((question.end - question.first) * GROUPS_PER_CHUNK < groups) return null
    const silent = new Set(Array.from({ length: groups }, (_, group) => group))
    const ask = async ([boot, wanted]: [Boot, GroupIo[]]): Promise<ChunksFound | null> => {
      const found = await this.#ask(boot, callOf(question, family, wanted))
      if (found !== null) for (const { index } of wanted) silent.delete(index)
      return found
    }
    const asked = [...shareOut(store.openGroups(family))].map(ask)
    const answers = (await Promise.all(asked)).filter((found) => found !== null)
    // It may be another gateway's by now, or its groups may have been split.
    if (family.isClosed || family.pool.groups.length !== groups) return null
    if (answers.length === 0) return null
    if (silent.size > 0) answers.push(nameAll(question, groups, silent))
    return joinFound(answers)
  }

  /** null: it did not answer. */
  async #ask(boot: Boot, call: MemberCall): Promise<ChunksFound | null> {
    const { timers, patienceMs } = this.#store
    let stop = (): void => {}
    const late = new Promise<null>((resolve) => {
      stop = timers.start(patienceMs, () => resolve(null))
    })
    const answer = boot.member!.call(call).then(({ data }) => decodeFound(data))
    try {
      return await Promise.race([answer, late])
    } catch (thrown) {
      storeErrorOf(thrown)
      return null
    } finally {
      stop()
      answer.catch(() => {})
    }
  }
}

function callOf(question: ChunkQuestion, family: FamilyIo, wanted: readonly GroupIo[]): MemberCall {
  const { familyHigh, familyLow, layerHigh, layerLow, since, first, end } = question
  return {
    call: 'chunks',
    shape: wanted[0]!.shape,
    wanted: wanted.map(({ index, epoch }) => [index, epoch] as const),
    writerEpoch: family.writerEpoch,
    family: formatId64(familyHigh, familyLow),
    layer: formatId64(layerHigh, layerLow),
    since: since === null ? null : formatId64(since.high, since.low),
    first,
    end
  }
}

/** Which member is asked about which groups: this process's own, or who has the fewest. */
function shareOut(groups: readonly GroupIo[]): Map<Boot, GroupIo[]> {
  const shares = new Map<Boot, GroupIo[]>()
  const loadOf = (boot: Boot): number => (boot.isLocal ? -1 : (shares.get(boot)?.length ?? 0))
  for (const group of groups) {
    let best: Boot | null = null
    for (const boot of group.targets.slice(0, group.inSyncCount)) {
      if (boot.member === null || boot.isSlow) continue
      if (best === null || loadOf(boot) < loadOf(best)) best = boot
    }
    if (best === null) continue
    const share = shares.get(best)
    if (share === undefined) shares.set(best, [group])
    else share.push(group)
  }
  return shares
}

function nameAll(
  { familyHigh, familyLow, first, end }: ChunkQuestion,
  groups: number,
  silent: ReadonlySet<number>
): ChunksFound {
  const until = Math.min(end, first + NAMED_MAX)
  const chunks: number[] = []
  for (let chunk = first; chunk < until; chunk++) {
    if (silent.has(groupOfChunk(familyHigh, familyLow, chunk, groups))) chunks.push(chunk)
  }
  return { chunks: Uint32Array.from(chunks), until }
}
