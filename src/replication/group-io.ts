import type { PoolView } from '../cluster/group-table.ts'
import { groupsUnder } from '../cluster/group-shape.ts'
import { isWhole, type KnownGroup } from '../cluster/groups.ts'
import type { GroupMember } from '../cluster/records.ts'
import { groupOfChunk } from '../placement/hash.ts'
import type { Boot, Boots } from './boots.ts'
import type { Member, PoolShape } from './member.ts'

/**
 * A pool that this gateway uses. What it knows of a split it knows by records: each group here is
 * of some number of groups, and a chunk is looked for from the highest number on (R43).
 */
export class PoolIo {
  readonly view: PoolView
  /** By number; null where nobody needed it yet, or where it is part of another one still. */
  groups: (GroupIo | null)[]
  /** No group here is of fewer. */
  readonly #least: number
  readonly #onSplit: (group: GroupIo, other: GroupIo) => void

  constructor(view: PoolView, onSplit: (group: GroupIo, other: GroupIo) => void) {
    this.view = view
    this.#onSplit = onSplit
    this.#least = view.leastGroups
    this.groups = new Array<GroupIo | null>(this.#least).fill(null)
  }

  /** The group that has the chunk. */
  groupOf(familyHigh: number, familyLow: number, chunk: number): GroupIo {
    const { groups } = this
    const count = groups.length
    const index = groupOfChunk(familyHigh, familyLow, chunk, count)
    const group = groups[index]
    if (group !== null && group!.count === count) return group!
    return this.covering(index)
  }

  /** The one that has what the group of this number, among as many as are known, has. */
  covering(index: number): GroupIo {
    for (let count = this.groups.length; count >= this.#least; count /= 2) {
      const group = this.groups[index & (count - 1)]!
      if (group !== null && group.count === count) return group
    }
    const group = new GroupIo(this, index & (this.#least - 1), this.#least)
    this.groups[group.index] = group
    return group
  }

  /** The one to which a record of that number, among `count` groups, belongs. */
  groupUnder(index: number, count: number): GroupIo {
    let group = this.covering(index)
    // There is a record of a half: so there is one of the other, and none of the whole.
    while (group.count < count) {
      this.split(group)
      group = this.covering(index)
    }
    return group
  }

  /** Is there one that has, or had, what the group of this number has? */
  isMade(index: number): boolean {
    for (let count = this.groups.length; count >= this.#least; count /= 2) {
      if (this.groups[index & (count - 1)]?.count === count) return true
    }
    return false
  }

  /** All of them, also those that nobody needed yet. */
  all(): GroupIo[] {
    return [...new Set(Array.from(this.groups, (_, index) => this.covering(index)))]
  }

  /** Makes two of it, as the metadata did; neither is used before its record is read. */
  split(group: GroupIo): void {
    const other = group.split()
    const { length } = this.groups
    if (other.index >= length) this.groups.push(...new Array<null>(length).fill(null))
    this.groups[other.index] = other
    this.#onSplit(group, other)
  }
}

/** One placement group as the request path uses it: what its record says, with links. */
export class GroupIo {
  readonly pool: PoolIo
  readonly index: number
  /** It is one of so many. */
  count: number
  /** The record in use; null before the first. After a split that from before, until it is read. */
  known: KnownGroup | null = null
  epoch = 0
  /** May ops be sent? Not while the record is unknown or in doubt. */
  isReady = false
  /** Members of the record: those in sync first. */
  targets: Boot[] = []
  inSyncCount = 0
  /** Trims leave a hole: somebody may come back with what was there, R12. */
  keepHoles = false
  /** Members that cannot do their part, with what they answered. */
  readonly failed: Map<Boot, number> = new Map()
  /** Since when the record names members that it did not name before, monotonic. */
  readonly listedMs: Map<Boot, number> = new Map()
  /** The first epoch since which members are known to be in it without a break, R7; 0 if absent. */
  readonly #sinceEpochs: Map<Boot, number> = new Map()
  /** The greatest of them, ever. */
  #newestSince = 0
  /** Something is amiss: the doctor looks at it with every tick. */
  isTroubled = false
  /** The doctor is at work. */
  isTreated = false
  /** A member knows a newer record than the one in use. */
  isStale = false
  /**
   * All that are in sync by the record failed to flush: is it the newest? Somebody else may be in
   * sync by now.
   */
  flushDoubt: 'none' | 'asked' | 'answered' = 'none'
  /**
   * Members in sync that may not remember the epoch in which another one left, R31: a flush waits
   * for them.
   */
  unfenced: Set<Boot> = new Set()
  /** Not before this is the next try of what could not be done, monotonic. */
  retryMs = 0

  constructor(pool: PoolIo, index: number, count: number) {
    this.pool = pool
    this.index = index
    this.count = count
  }

  /**
   * It keeps one half of its chunks; the other, returned, has the rest. What is known of members
   * holds for both, so that a boot that another one followed in the record of a half is noticed.
   */
  split(): GroupIo {
    const other = new GroupIo(this.pool, this.index + this.count, 2 * this.count)
    this.count *= 2
    other.known = this.known
    other.epoch = this.epoch
    other.targets = [...this.targets]
    other.inSyncCount = this.inSyncCount
    other.keepHoles = this.keepHoles
    for (const [boot, error] of this.failed) other.failed.set(boot, error)
    for (const [boot, sinceMs] of this.listedMs) other.listedMs.set(boot, sinceMs)
    for (const [boot, epoch] of this.#sinceEpochs) other.#sinceEpochs.set(boot, epoch)
    other.#newestSince = this.#newestSince
    other.unfenced = new Set(this.unfenced)
    for (const group of [this, other]) {
      group.isReady = false
      group.isStale = true
      group.isTroubled = true
      group.flushDoubt = 'none'
      group.retryMs = 0
    }
    return other
  }

  /** Is the record in use of this group, and not of what it was a part of? */
  get isKnown(): boolean {
    return this.known !== null && this.countUnder(this.known) === this.count
  }

  countUnder({ record }: KnownGroup): number {
    return groupsUnder(record, this.pool.view.firstGroups)
  }

  get name(): string {
    return `${this.pool.view.number}/${this.index}`
  }

  get shape(): PoolShape {
    return { pool: this.pool.view.number, groups: this.count }
  }

  /** The record's entry of a target. */
  entryOf(boot: Boot): GroupMember | null {
    const at = this.targets.indexOf(boot)
    if (at < 0 || this.known === null) return null
    const { inSync, syncing } = this.known.record
    return inSync[at] ?? syncing[at - inSync.length] ?? null
  }

  /** Is it of no use to send to `boot` now? If all have failed any may be better again. */
  isAvoided(boot: Boot): boolean {
    if (!this.failed.has(boot)) return false
    for (let i = 0; i < this.inSyncCount; i++) {
      if (!this.failed.has(this.targets[i]!)) return true
    }
    return false
  }

  /** Was `boot` in the group, without a break, from `epoch` to now? */
  hadSince(boot: Boot, epoch: number): boolean {
    return epoch >= this.#newestSince || epoch >= (this.#sinceEpochs.get(boot) ?? 0)
  }

  isInSync(boot: Boot): boolean {
    const at = this.targets.indexOf(boot)
    return at >= 0 && at < this.inSyncCount
  }

  /** This process's own shards, if they are in sync and quick. */
  localMember(): Member | null {
    for (let i = 0; i < this.inSyncCount; i++) {
      const boot = this.targets[i]!
      if (boot.isLocal) return boot.isSlow ? null : boot.member
    }
    return null
  }

  /** Takes `known` into use. */
  adopt(known: KnownGroup, boots: Boots, nowMs: number): void {
    const { epoch, inSync, syncing } = known.record
    const before = this.known === null ? null : this.targets
    const wereSyncing = this.targets.slice(this.inSyncCount)
    const wereInSync = this.known?.record.inSync ?? []
    const stays = ({ peer }: GroupMember): boolean => inSync.some((entry) => entry.peer === peer)
    const shrinks = !wereInSync.every(stays)
    // Between two records that do not follow one another anybody may have left and come back.
    const follows = epoch <= this.epoch + 1
    this.known = known
    this.epoch = epoch
    this.targets = [...inSync, ...syncing].map(({ peer, boot }) => boots.of(peer, boot))
    for (const boot of this.targets) {
      if (before !== null && !before.includes(boot)) this.listedMs.set(boot, nowMs)
    }
    for (const boot of this.listedMs.keys()) {
      if (!this.targets.includes(boot)) this.listedMs.delete(boot)
    }
    this.#noteSince(before, follows)
    this.inSyncCount = inSync.length
    const now = this.targets.slice(0, inSync.length)
    this.unfenced = new Set(shrinks ? now : now.filter((boot) => this.unfenced.has(boot)))
    this.keepHoles = !isWhole(known.record)
    for (const boot of this.failed.keys()) {
      // Who came in sync has flushed since it failed, or had to leave because others did.
      const came = now.includes(boot) && wereSyncing.includes(boot)
      if (came || !this.targets.includes(boot)) this.failed.delete(boot)
    }
    this.flushDoubt = 'none'
    this.isStale = !this.isKnown
    this.isReady = this.isKnown
  }

  #noteSince(before: readonly Boot[] | null, follows: boolean): void {
    for (const boot of this.targets) {
      if (before === null || (follows && before.includes(boot))) continue
      this.#sinceEpochs.set(boot, this.epoch)
      this.#newestSince = this.epoch
    }
    for (const boot of this.#sinceEpochs.keys()) {
      if (!this.targets.includes(boot)) this.#sinceEpochs.delete(boot)
    }
  }
}
