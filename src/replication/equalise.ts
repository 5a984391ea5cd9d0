import { ErrorCode, StoreError } from '../core/errors.ts'
import { CHUNK_BLOCKS, CHUNK_SUMS_PER_CALL, EQUALISED_AT_ONCE_MAX } from '../core/limits.ts'
import { CHUNK_SUM_BYTES, GROUP_SUM_BYTES, VERSION_RUN_BYTES } from '../shard/op.ts'
import { copyBlocks } from './block-copy.ts'
import { isDamage } from './block-store.ts'
import type { Boot } from './boots.ts'
import type { FamilyIo } from './family-io.ts'
import type { GroupIo } from './group-io.ts'
import type { MemberAnswer, MemberCall } from './member.ts'
import type { ReplicatedStore } from './replicated-store.ts'
import { decodeHeld, type HeldRun } from './resync-plan.ts'
import type { VoidEntry } from './shard-questions.ts'

/** A member could not do what a takeover needs. */
export class MemberFailed extends Error {
  readonly boot: Boot
  constructor(boot: Boot, cause: unknown) {
    super(`member ${boot.peerId} failed`, { cause })
    this.boot = boot
  }
}

/** @throws MemberFailed */
export async function callBoot(boot: Boot, request: MemberCall): Promise<MemberAnswer> {
  const { member } = boot
  if (member === null) throw new MemberFailed(boot, null)
  try {
    return await member.call(request)
  } catch (thrown) {
    if (!(thrown instanceof StoreError)) throw thrown
    // Another writer came later: nothing is wrong with the member.
    if (thrown.code === ErrorCode.StaleEpoch) {
      throw new StoreError(ErrorCode.Closed, thrown.message, { cause: thrown })
    }
    throw new MemberFailed(boot, thrown)
  }
}

/** Runs `work` for each of `items`, so many at once. */
export async function forEach<T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<void>
): Promise<void> {
  let next = 0
  const run = async (): Promise<void> => {
    while (next < items.length) await work(items[next++]!)
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, run))
}

/**
 * Makes the members in sync of groups equal for one family, R17: what one of them has and another
 * lacks is copied, the newest version wins. Nobody writes the family meanwhile, they are fenced.
 */
export class Equaliser {
  readonly #store: ReplicatedStore
  readonly #family: FamilyIo
  readonly #settledEpoch: number
  /** By the number of groups, too. */
  readonly #sums = new Map<string, Promise<Map<number, string>>>()
  /** Chunks that differed. */
  chunks = 0

  /** `settledEpoch`: as the family's record had it when the lease was taken. */
  constructor(store: ReplicatedStore, family: FamilyIo, settledEpoch: number) {
    this.#store = store
    this.#family = family
    this.#settledEpoch = settledEpoch
  }

  /** @throws MemberFailed */
  async equalise(group: GroupIo): Promise<void> {
    const boots = group.targets.slice(0, group.inSyncCount)
    if (boots.length < 2) return
    const sums = await Promise.all(boots.map((boot) => this.#groupSums(group, boot)))
    const first = sums[0]!.get(group.index) ?? ''
    if (sums.every((sum) => (sum.get(group.index) ?? '') === first)) return
    const chunks = await this.#differing(group, boots)
    await forEach(chunks, EQUALISED_AT_ONCE_MAX, (chunk) => this.#chunk(group, boots, chunk))
  }

  /** One call a member for all groups. */
  #groupSums({ shape }: GroupIo, boot: Boot): Promise<Map<number, string>> {
    const key = `${boot.peerId}/${boot.bootId}/${shape.groups}`
    const known = this.#sums.get(key)
    if (known !== undefined) return known
    const request = { call: 'groupSums', shape, family: this.#family.id, withHoles: false } as const
    const sums = callBoot(boot, request).then(({ data }) => {
      const byGroup = new Map<number, string>()
      for (let at = 0; at < data.length; at += GROUP_SUM_BYTES) {
        byGroup.set(data.readUInt32LE(at), data.toString('hex', at + 4, at + GROUP_SUM_BYTES))
      }
      return byGroup
    })
    this.#sums.set(key, sums)
    return sums
  }

  async #differing(group: GroupIo, boots: readonly Boot[]): Promise<ChunkName[]> {
    const all = await Promise.all(boots.map((boot) => this.#chunkSums(group, boot)))
    const names = new Map<string, ChunkName>()
    for (const sums of all) for (const [key, { name }] of sums) names.set(key, name)
    const differing: ChunkName[] = []
    for (const [key, name] of names) {
      const first = all[0]!.get(key)?.sum ?? ''
      if (all.some((sums) => (sums.get(key)?.sum ?? '') !== first)) differing.push(name)
    }
    return differing
  }

  async #chunkSums(group: GroupIo, boot: Boot): Promise<Map<string, ChunkSum>> {
    const found = new Map<string, ChunkSum>()
    let after: { layer: string; chunk: number } | null = null
    for (;;) {
      const answer: MemberAnswer = await callBoot(boot, {
        call: 'chunkSums',
        shape: group.shape,
        group: group.index,
        family: this.#family.id,
        withHoles: false,
        after,
        limit: CHUNK_SUMS_PER_CALL
      })
      const { data } = answer
      for (let at = 0; at < data.length; at += CHUNK_SUM_BYTES) {
        const low = data.readUInt32LE(at)
        const high = data.readUInt32LE(at + 4)
        const chunk = data.readUInt32LE(at + 8)
        const layer = hex32(high) + hex32(low)
        const sum = data.toString('hex', at + 12, at + CHUNK_SUM_BYTES)
        found.set(`${layer}/${chunk}`, { name: { layer, high, low, chunk }, sum })
        after = { layer, chunk }
      }
      if (answer.more !== true || data.length === 0) return found
    }
  }

  async #chunk(group: GroupIo, boots: readonly Boot[], name: ChunkName): Promise<void> {
    this.chunks++
    const { layer, chunk } = name
    const family = this.#family.id
    const held = await Promise.all(
      boots.map(async (boot) => {
        const { data } = await callBoot(boot, { call: 'versions', family, layer, chunk })
        return decodeHeld(data, 0, Math.floor(data.length / VERSION_RUN_BYTES))
      })
    )
    let spares: Spare[] | null = null
    for (const copy of planCopies(held)) {
      if (await this.#copy(group, boots, name, copy)) continue
      spares ??= await this.#spares(group, name)
      const end = copy.firstBlock + copy.blockCount
      for (let block = copy.firstBlock; block < end; block++) {
        await this.#damaged({ group, boots, name, block, spares }, held.map(runAt(block)))
      }
    }
  }

  /** What those have of a chunk that are being brought up to date, and can be asked. */
  async #spares({ targets, inSyncCount }: GroupIo, { layer, chunk }: ChunkName): Promise<Spare[]> {
    const family = this.#family.id
    const asked = targets.slice(inSyncCount).map(async (boot): Promise<Spare[]> => {
      try {
        const { data } = await callBoot(boot, { call: 'versions', family, layer, chunk })
        return [{ boot, runs: decodeHeld(data, 0, Math.floor(data.length / VERSION_RUN_BYTES)) }]
      } catch (thrown) {
        if (thrown instanceof MemberFailed) return []
        throw thrown
      }
    })
    return (await Promise.all(asked)).flat()
  }

  /**
   * The newest version of a block cannot be read at one member at least: the others that have it
   * are asked, those that sync, too. Then it is given up where that loses nothing that was
   * promised. What was settled before is not: all in sync had it.
   */
  async #damaged(
    { group, boots, name, block, spares }: DamagedBlock,
    held: (HeldRun | null)[]
  ): Promise<void> {
    for (;;) {
      const newest = held.reduce<HeldRun | null>(newerOf, null)
      if (newest === null) return
      const holders = placesWhere(held, (run) => run !== null && !isNewer(newest, run))
      const targets = placesWhere(held, (run) => isNewer(newest, run))
      if (targets.length === 0) return
      const having = spares.filter(({ runs }) => isSame(runAt(block)(runs), newest))
      const all = [...boots, ...having.map(({ boot }) => boot)]
      for (const source of [...holders, ...having.map((_, at) => boots.length + at)]) {
        const copy = { firstBlock: block, blockCount: 1, source, targets }
        if (await this.#copy(group, all, name, copy)) return
      }
      // Our own from before the lease was taken anew: we have it still, and send it again.
      if (newest.writerEpoch >= this.#family.begunEpoch) return
      if (newest.writerEpoch < this.#settledEpoch) {
        const what = `block ${block} of chunk ${name.chunk} of group ${group.name} cannot be read`
        throw new MemberFailed(boots[holders[0]!]!, new Error(what))
      }
      const floor = targets.map((at) => held[at]!).reduce<HeldRun | null>(newerOf, null)
      for (const at of holders) {
        await this.#void(group, boots[at]!, name, voidOf(block, newest, floor))
        held[at] = null
      }
    }
  }

  async #void(group: GroupIo, boot: Boot, name: ChunkName, entry: VoidEntry): Promise<void> {
    await callBoot(boot, {
      ...{ call: 'void', pool: group.pool.view.number, group: group.index },
      ...{ groupEpoch: group.epoch, writerEpoch: this.#family.writerEpoch },
      ...{ family: this.#family.id, layer: name.layer, chunk: name.chunk, voids: [entry] }
    })
  }

  /** False when the source has blocks of it that it cannot read. @throws MemberFailed */
  async #copy(
    group: GroupIo,
    boots: readonly Boot[],
    name: ChunkName,
    copy: Copy
  ): Promise<boolean> {
    const source = boots[copy.source]!
    // One that is being brought up to date may have passed this chunk already.
    const syncing = group.targets.slice(group.inSyncCount)
    const targets = [...copy.targets.map((at) => boots[at]!), ...syncing]
    const able = targets.filter(({ member }) => member !== null)
    const absent = targets.find(({ member }) => member === null)
    if (source.member === null) throw new MemberFailed(source, null)
    if (absent !== undefined) throw new MemberFailed(absent, null)
    const failure = await copyBlocks(
      this.#store.arena,
      {
        familyHigh: this.#family.high,
        familyLow: this.#family.low,
        layerHigh: name.high,
        layerLow: name.low,
        chunk: name.chunk,
        firstBlock: copy.firstBlock,
        blockCount: copy.blockCount,
        pool: group.pool.view.number,
        group: group.index,
        groupEpoch: group.epoch,
        fenceEpoch: this.#family.writerEpoch
      },
      source.member,
      able.map(({ member }) => member!)
    )
    if (failure === null) return true
    if (failure.member === source.member && isDamage(failure.error)) return false
    const failed = [source, ...able].find(({ member }) => member === failure.member) ?? source
    throw new MemberFailed(failed, failure.error)
  }
}

interface ChunkName {
  readonly layer: string
  readonly high: number
  readonly low: number
  readonly chunk: number
}

interface ChunkSum {
  readonly name: ChunkName
  readonly sum: string
}

/** Blocks to be copied from one member to some others; members by their place. */
interface Copy {
  firstBlock: number
  blockCount: number
  readonly source: number
  readonly targets: readonly number[]
}

interface DamagedBlock {
  readonly group: GroupIo
  readonly boots: readonly Boot[]
  readonly name: ChunkName
  readonly block: number
  readonly spares: readonly Spare[]
}

/** A member that syncs, and what it has of a chunk. */
interface Spare {
  readonly boot: Boot
  readonly runs: readonly HeldRun[]
}

const runAt =
  (block: number) =>
  (runs: readonly HeldRun[]): HeldRun | null =>
    runs.find((run) => run.firstBlock <= block && block < run.firstBlock + run.blockCount) ?? null

const placesWhere = (
  held: readonly (HeldRun | null)[],
  wanted: (run: HeldRun | null) => boolean
): number[] => [...held.keys()].filter((at) => wanted(held[at]!))

/** Down to what the others have, as a resync does: what it replaced may be as unknown there. */
const voidOf = (block: number, run: HeldRun, floor: HeldRun | null): VoidEntry => ({
  ...{ firstBlock: block, blockCount: 1, writerEpoch: run.writerEpoch, sequence: run.sequence },
  ...{ floorEpoch: floor?.writerEpoch ?? 0, floorSequence: floor?.sequence ?? 0 }
})

const isNewer = (a: HeldRun, b: HeldRun | null): boolean =>
  b === null ||
  a.writerEpoch > b.writerEpoch ||
  (a.writerEpoch === b.writerEpoch && a.sequence > b.sequence)

const isSame = (a: HeldRun | null, b: HeldRun): boolean =>
  a !== null && a.writerEpoch === b.writerEpoch && a.sequence === b.sequence

const newerOf = (a: HeldRun | null, b: HeldRun | null): HeldRun | null =>
  b !== null && isNewer(b, a) ? b : a

/** What has to be copied so that all members hold the newest version of every block. */
function planCopies(held: readonly (readonly HeldRun[])[]): Copy[] {
  const byBlock = held.map((runs) => {
    const blocks: (HeldRun | null)[] = new Array<HeldRun | null>(CHUNK_BLOCKS).fill(null)
    for (const run of runs) {
      blocks.fill(run, run.firstBlock, run.firstBlock + run.blockCount)
    }
    return blocks
  })
  const copies: Copy[] = []
  for (let block = 0; block < CHUNK_BLOCKS; block++) {
    let best: HeldRun | null = null
    let source = -1
    for (const [at, blocks] of byBlock.entries()) {
      const run = blocks[block]!
      if (run === null || !isNewer(run, best)) continue
      best = run
      source = at
    }
    if (best === null) continue
    const newest = best
    const targets = [...byBlock.keys()].filter((at) => isNewer(newest, byBlock[at]![block]!))
    if (targets.length === 0) continue
    const last = copies.at(-1)
    const joins =
      last !== undefined &&
      last.source === source &&
      last.firstBlock + last.blockCount === block &&
      last.targets.join() === targets.join()
    if (joins) last.blockCount++
    else copies.push({ firstBlock: block, blockCount: 1, source, targets })
  }
  return copies
}

const hex32 = (value: number): string => value.toString(16).padStart(8, '0')
