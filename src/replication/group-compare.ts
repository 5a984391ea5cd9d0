/**
 * Compares what the members in sync of groups hold, and makes it equal (PROTOCOL.md, R33):
 *
 *   sums of groups, of all members -> those that differ: sums of chunks -> versions
 *     -> a pause in which everything on its way arrives -> the same again
 *     -> what stood still and differs: named, copied from who is right, flushed
 *
 * Nothing is read from disks but where checksums differ in blocks of one version.
 */
import { shapeUnder } from '../cluster/group-shape.ts'
import type { GroupRecords } from '../cluster/groups.ts'
import { parseId64 } from '../cluster/ids.ts'
import type { GroupRecord } from '../cluster/records.ts'
import type { Arena } from '../core/arena.ts'
import type { Timers } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { layerNumber } from '../core/layer-ids.ts'
import {
  BLOCK_BYTES,
  CHUNK_BLOCKS,
  CHUNK_SUMS_MAX,
  COMPARE_CHUNKS_MAX,
  COMPARE_PAUSE_MS,
  RESYNC_CALLS_MAX
} from '../core/limits.ts'
import { CHUNK_SUM_BYTES, VERSION_RUN_BYTES } from '../shard/op.ts'
import { copyBlocks } from './block-copy.ts'
import { BlockSumReader } from './block-sums.ts'
import {
  addDifference,
  type Difference,
  planBytes,
  planDifferences,
  type Signatures
} from './compare-plan.ts'
import { forEachOf } from './for-each-of.ts'
import type { Member, MemberAnswer, Members, PoolShape } from './member.ts'
import type { Pace } from './pace.ts'
import type { FamilyState, ResyncFamilies } from './resync.ts'
import { hexOf } from './resync-copy.ts'
import { decodeHeld, type HeldRun } from './resync-plan.ts'
import { sumsByGroup } from './resync-sums.ts'

export interface CompareParts {
  readonly self: { readonly peerId: string }
  readonly arena: Arena
  readonly members: Members
  readonly groups: Pick<GroupRecords, 'read'>
  readonly families: Pick<ResyncFamilies, 'list'>
  readonly isPresentBoot: (peerId: string, bootId: string) => boolean
  readonly timers: Timers
  readonly pace: Pace
  readonly log: (
    level: 'info' | 'warn' | 'error',
    message: string,
    fields: Record<string, unknown>
  ) => void
}

interface Job {
  readonly shape: PoolShape
  readonly group: number
  readonly groupEpoch: number
  /** All in sync, in the order of the record. */
  readonly members: readonly Member[]
}

/** A chunk of a group in which sums differ. */
interface Suspect {
  readonly job: Job
  readonly layerHigh: number
  readonly layerLow: number
  readonly chunk: number
  /** Of each member. */
  readonly sums: readonly string[]
  signatures: Signatures | null
}

export class GroupComparer {
  /** Blocks that differed between members in sync; and those that are equal again. */
  differences = 0
  repaired = 0
  readonly #parts: CompareParts
  #closed = false

  constructor(parts: CompareParts) {
    this.#parts = parts
  }

  close(): void {
    this.#closed = true
  }

  /** Returns the groups that could not be compared now. @throws StoreError */
  async compare(shape: PoolShape, groups: readonly number[]): Promise<number[]> {
    // In this order: who was taken out by the takeover that settled is not in the records any more.
    const states = await this.#parts.families.list(shape.pool)
    const jobs: Job[] = []
    await forEachOf(groups, RESYNC_CALLS_MAX, async (group) => {
      const job = await this.#prepare(shape, group)
      if (job !== null) jobs.push(job)
    })
    if (jobs.length === 0) return [...groups]
    for (const state of states) {
      if (this.#closed) break
      // One that is being taken over is made equal by that.
      if (state.settledEpoch === state.writerEpoch) await this.#family(jobs, state)
    }
    const compared = new Set(jobs.map(({ group }) => group))
    return groups.filter((group) => !compared.has(group))
  }

  async #prepare(shape: PoolShape, group: number): Promise<Job | null> {
    const { groups, self } = this.#parts
    const known = await groups.read(shape.pool, group)
    if (known === null || !isComparable(known.record, self.peerId)) return null
    if (shapeUnder(shape, known.record).groups !== shape.groups) return null
    const members = this.#membersOf(known.record)
    return members === null ? null : { shape, group, groupEpoch: known.record.epoch, members }
  }

  /** Null when not all can be asked. */
  #membersOf({ inSync }: GroupRecord): Member[] | null {
    const { members, isPresentBoot } = this.#parts
    const found: Member[] = []
    for (const { peer, boot } of inSync) {
      const member = members.find(peer)
      if (member === null) return null
      if (member.bootId !== boot && !isPresentBoot(peer, boot)) return null
      found.push(member)
    }
    return found
  }

  async #family(jobs: readonly Job[], state: FamilyState): Promise<void> {
    const differing = await this.#differingGroups(jobs, state)
    if (differing.length === 0) return
    const suspects: Suspect[] = []
    for (const job of differing) {
      for (const found of await this.#differingChunks(job, state)) {
        if (suspects.length < COMPARE_CHUNKS_MAX) suspects.push(found)
      }
    }
    if (suspects.length === 0) return
    for (const suspect of suspects) {
      const held = await this.#held(suspect, state)
      const isStacked = layerNumber(suspect.layerLow) > 0
      suspect.signatures = planDifferences(held, null, isStacked).signatures
    }
    await this.#pause()
    if (this.#closed) return
    const names = new Set((await this.#parts.families.list(jobs[0]!.shape.pool)).map(familyOf))
    if (!names.has(state.family)) return
    for (const job of new Set(suspects.map((suspect) => suspect.job))) {
      const again = await this.#differingChunks(job, state)
      const touched = new Set<Member>()
      for (const suspect of suspects.filter((each) => each.job === job)) {
        if (this.#closed) return
        const now = again.find((each) => isSameChunk(each, suspect))
        if (now !== undefined) await this.#settle(suspect, now, state, touched)
      }
      await Promise.all([...touched].map(flushed))
    }
  }

  /** One call a member for all groups. */
  async #differingGroups(jobs: readonly Job[], state: FamilyState): Promise<Job[]> {
    const { pace } = this.#parts
    const { shape } = jobs[0]!
    const sums = new Map<Member, Map<number, { sum: string }>>()
    for (const member of new Set(jobs.flatMap(({ members }) => members))) {
      await pace.take(0)
      const answer = await member.call({
        ...{ call: 'groupSums', shape, family: state.family },
        ...{ withHoles: false, withChecksums: true }
      })
      sums.set(member, sumsByGroup(answer.data))
    }
    return jobs.filter(({ group, members }) => {
      const first = sums.get(members[0]!)!.get(group)?.sum
      return members.some((member) => sums.get(member)!.get(group)?.sum !== first)
    })
  }

  async #differingChunks(job: Job, state: FamilyState): Promise<Suspect[]> {
    const all: Map<string, string>[] = []
    for (const member of job.members) all.push(await this.#chunkSums(job, member, state.family))
    const names = new Set(all.flatMap((sums) => [...sums.keys()]))
    const found: Suspect[] = []
    for (const name of names) {
      const sums = all.map((each) => each.get(name) ?? '')
      if (sums.every((sum) => sum === sums[0])) continue
      const key = Buffer.from(name, 'hex')
      found.push({
        job,
        layerLow: key.readUInt32LE(0),
        layerHigh: key.readUInt32LE(4),
        chunk: key.readUInt32LE(8),
        sums,
        signatures: null
      })
    }
    return found
  }

  /** By layer and chunk, as they stand in the entries. */
  async #chunkSums({ shape, group }: Job, member: Member, family: string) {
    const found = new Map<string, string>()
    let after: { layer: string; chunk: number } | null = null
    for (let more = true; more; ) {
      await this.#parts.pace.take(0)
      const answer: MemberAnswer = await member.call({
        ...{ call: 'chunkSums', shape, group, family, withHoles: false, withChecksums: true },
        ...{ after, limit: CHUNK_SUMS_MAX }
      })
      const { data } = answer
      for (let at = 0; at + CHUNK_SUM_BYTES <= data.length; at += CHUNK_SUM_BYTES) {
        const sum = data.toString('hex', at + 12, at + CHUNK_SUM_BYTES)
        found.set(data.toString('hex', at, at + 12), sum)
        const layer = hexOf(data.readUInt32LE(at + 4), data.readUInt32LE(at))
        after = { layer, chunk: data.readUInt32LE(at + 8) }
      }
      more = answer.more === true && data.length > 0
    }
    return found
  }

  async #held({ job, layerHigh, layerLow, chunk }: Suspect, state: FamilyState) {
    const held: HeldRun[][] = []
    const layer = hexOf(layerHigh, layerLow)
    for (const member of job.members) {
      const { data } = await member.call({ call: 'versions', family: state.family, layer, chunk })
      held.push(decodeHeld(data, 0, Math.floor(data.length / VERSION_RUN_BYTES)))
    }
    return held
  }

  /** The second look. */
  async #settle(
    suspect: Suspect,
    now: Suspect,
    state: FamilyState,
    touched: Set<Member>
  ): Promise<void> {
    const held = await this.#held(suspect, state)
    const isStacked = layerNumber(suspect.layerLow) > 0
    let { differences } = planDifferences(held, suspect.signatures, isStacked)
    let why = 'versions'
    const isQuiet = suspect.sums.every((sum, at) => sum === now.sums[at])
    if (differences.length === 0 && isQuiet && suspect.signatures!.every((each) => each === '')) {
      differences = await this.#differingBytes(suspect, state)
      why = 'bytes'
    }
    for (const difference of differences) {
      this.differences += difference.blockCount
      await this.#repair(suspect, state, difference, { why, touched })
    }
  }

  /** Blocks that all have in one version, with different checksums. */
  async #differingBytes(suspect: Suspect, state: FamilyState): Promise<Difference[]> {
    const { arena, pace } = this.#parts
    const range = { ...this.#rangeOf(suspect, state), firstBlock: 0, blockCount: 0 }
    const readers = suspect.job.members.map((member) => {
      return new BlockSumReader(arena, pace, member, range)
    })
    for (const reader of readers) await reader.read()
    const differences: Difference[] = []
    for (let block = 0; block < CHUNK_BLOCKS; block++) {
      const found = planBytes(readers.map(({ sums }) => sums.get(block)))
      if (found !== null) addDifference(differences, block, found)
    }
    return differences
  }

  #rangeOf({ job, layerHigh, layerLow, chunk }: Suspect, { family, writerEpoch }: FamilyState) {
    const { high: familyHigh, low: familyLow } = parseId64(family)
    const { pool } = job.shape
    const { group, groupEpoch } = job
    const where = { familyHigh, familyLow, layerHigh, layerLow, chunk }
    return { ...where, pool, group, groupEpoch, fenceEpoch: writerEpoch }
  }

  async #repair(
    suspect: Suspect,
    state: FamilyState,
    difference: Difference,
    { why, touched }: { why: string; touched: Set<Member> }
  ): Promise<void> {
    const { arena, pace, log } = this.#parts
    const { members } = suspect.job
    const { firstBlock, blockCount, sources } = difference
    const targets = difference.targets.map((at) => members[at]!)
    const range = { ...this.#rangeOf(suspect, state), firstBlock, blockCount }
    await pace.take(blockCount * BLOCK_BYTES)
    let error: number = ErrorCode.ChecksumMismatch
    for (const at of sources) {
      const failure = await copyBlocks(arena, range, members[at]!, targets)
      error = failure?.error ?? ErrorCode.Ok
      if (error === ErrorCode.Ok) break
    }
    const isRepaired = error === ErrorCode.Ok
    if (isRepaired) this.repaired += blockCount
    if (sources.length > 0) for (const target of targets) touched.add(target)
    log('error', 'members in sync differed', {
      ...{ pool: suspect.job.shape.pool, group: suspect.job.group, family: state.family },
      ...{ layer: hexOf(suspect.layerHigh, suspect.layerLow), chunk: suspect.chunk },
      ...{ block: firstBlock, blocks: blockCount, in: why, repaired: isRepaired },
      ...{ right: sources.map((at) => members[at]!.peerId) },
      ...{ wrong: targets.map(({ peerId }) => peerId) }
    })
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => this.#parts.timers.start(COMPARE_PAUSE_MS, resolve))
  }
}

/** It is whole, and its first member compares it. */
export const isComparable = ({ inSync, syncing }: GroupRecord, peerId: string): boolean =>
  inSync.length >= 2 && syncing.length === 0 && inSync[0]!.peer === peerId

const familyOf = ({ family }: FamilyState): string => family

const isSameChunk = (one: Suspect, other: Suspect): boolean =>
  one.chunk === other.chunk && one.layerLow === other.layerLow && one.layerHigh === other.layerHigh

async function flushed(member: Member): Promise<void> {
  const error = await new Promise<number>((resolve) => member.flush(resolve))
  if (error === ErrorCode.Ok) return
  throw new StoreError(error as ErrorCode, `member ${member.peerId} does not flush`)
}
