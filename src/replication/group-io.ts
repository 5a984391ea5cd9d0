import type { PoolView } from '../cluster/group-table.ts'
import { isWhole, type KnownGroup } from '../cluster/groups.ts'
import type { GroupMember } from '../cluster/records.ts'
import type { Boot, Boots } from './boots.ts'
import type { Member, PoolShape } from './member.ts'

/** A pool that this gateway uses. */
export class PoolIo {
  readonly view: PoolView
  readonly shape: PoolShape
  readonly groups: (GroupIo | null)[]

  constructor(view: PoolView) {
    this.view = view
    this.shape = { pool: view.number, groups: view.groups }
    this.groups = new Array<GroupIo | null>(view.groups).fill(null)
  }

  group(index: number): GroupIo {
    const known = this.groups[index]
    if (known !== null && known !== undefined) return known
    const group = new GroupIo(this, index)
    this.groups[index] = group
    return group
  }
}

/** One placement group as the request path uses it: what its record says, with links. */
export class GroupIo {
  readonly pool: PoolIo
  readonly index: number
  /** The record in use; null before the first. */
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

  constructor(pool: PoolIo, index: number) {
    this.pool = pool
    this.index = index
  }

  get name(): string {
    return `${this.pool.view.number}/${this.index}`
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
    const wereInSync = this.known?.record.inSync ?? []
    const stays = ({ peer }: GroupMember): boolean => inSync.some((entry) => entry.peer === peer)
    const shrinks = !wereInSync.every(stays)
    this.known = known
    this.epoch = epoch
    this.targets = [...inSync, ...syncing].map(({ peer, boot }) => boots.of(peer, boot))
    for (const boot of this.targets) {
      if (before !== null && !before.includes(boot)) this.listedMs.set(boot, nowMs)
    }
    for (const boot of this.listedMs.keys()) {
      if (!this.targets.includes(boot)) this.listedMs.delete(boot)
    }
    this.inSyncCount = inSync.length
    const now = this.targets.slice(0, inSync.length)
    this.unfenced = new Set(shrinks ? now : now.filter((boot) => this.unfenced.has(boot)))
    this.keepHoles = !isWhole(known.record)
    for (const boot of this.failed.keys()) {
      if (!this.targets.includes(boot)) this.failed.delete(boot)
    }
    this.isStale = false
    this.flushDoubt = 'none'
    this.isReady = true
  }
}
