/**
 * Who may still be heard here (PROTOCOL.md, R3 and R4): the highest writerEpoch of each family and
 * the highest epoch of each group. An op with an older one is refused; a newer one raises the bar
 * at once. Only `hold` promises that nothing older is on its way any more, also after a restart.
 */
import { type GroupBar, parentBars } from '../cluster/group-shape.ts'
import { formatId64 } from '../cluster/ids.ts'
import type { GroupRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { FENCED_FAMILIES_MAX, FENCED_GROUPS_MAX } from '../core/limits.ts'
import { type FenceEntry, FenceKind } from '../format/fences.ts'
import type { BlockOp } from './block-store.ts'
import { EpochTable } from './epoch-table.ts'

/** Where promised fences outlive the process. */
export interface FenceStore {
  /** @throws StoreError Corrupt, UnknownVersion, DiskFailure */
  load(): Promise<readonly FenceEntry[]>
  /** Replaces what is there; durable when it resolves. @throws StoreError */
  save(entries: readonly FenceEntry[]): Promise<void>
}

export class Fences {
  /** The bar of a group was raised, by an op that is not carried out yet or by a fence. */
  onGroupRaised: (pool: number, group: number, epoch: number) => void = () => {}
  readonly #store: FenceStore
  readonly #families = new EpochTable('families', FENCED_FAMILIES_MAX)
  /** Keys are the pool and the group + 1: no key is all zero. */
  readonly #groups = new EpochTable('groups', FENCED_GROUPS_MAX)
  /** The save that runs, and the one that begins when it has ended. */
  #saving: Promise<void> | null = null
  #next: Promise<void> | null = null
  /** How often a bar was raised, and how much of that is on disk. */
  #raised = 0
  #held = 0

  private constructor(store: FenceStore) {
    this.#store = store
  }

  static async open(store: FenceStore): Promise<Fences> {
    const fences = new Fences(store)
    for (const { kind, high, low, epoch } of await store.load()) {
      if (kind === FenceKind.Family) fences.#families.raise(high, low, epoch)
      else fences.#groups.raise(high, low + 1, epoch)
    }
    return fences
  }

  /**
   * ErrorCode.Ok, or why the op is refused. `isRead`: of a resync, which has no writerEpoch.
   * Called for every op: no allocation.
   */
  admit(op: BlockOp, isRead: boolean): ErrorCode {
    const { familyHigh, familyLow, fenceEpoch, groupEpoch } = op
    const familyBar = this.#families.get(familyHigh, familyLow)
    if (fenceEpoch < familyBar && !(fenceEpoch === 0 && isRead)) return ErrorCode.StaleEpoch
    const groupBar = this.#groups.get(op.pool, op.group + 1)
    if (groupEpoch < groupBar) return ErrorCode.StaleGroup
    if (fenceEpoch > familyBar || groupEpoch > groupBar) return this.#raise(op)
    return ErrorCode.Ok
  }

  #raise(op: BlockOp): ErrorCode {
    try {
      this.#families.raise(op.familyHigh, op.familyLow, op.fenceEpoch)
      const isNews = op.groupEpoch > this.groupEpoch(op.pool, op.group)
      this.#groups.raise(op.pool, op.group + 1, op.groupEpoch)
      this.#raised++
      if (isNews) this.onGroupRaised(op.pool, op.group, op.groupEpoch)
      return ErrorCode.Ok
    } catch (thrown) {
      if (thrown instanceof StoreError) return thrown.code
      throw thrown
    }
  }

  /** 0 when none is known. */
  familyEpoch(high: number, low: number): number {
    return this.#families.get(high, low)
  }

  /** The same of a group. */
  groupEpoch(pool: number, group: number): number {
    return this.#groups.get(pool, group + 1)
  }

  /** Every group of which an epoch is known here. */
  *groupEpochs(): Iterable<{ pool: number; group: number; epoch: number }> {
    for (const [pool, low, epoch] of this.#groups.entries()) yield { pool, group: low - 1, epoch }
  }

  /** Every family of which a writerEpoch is known here. */
  *familyEpochs(): Iterable<{ family: string; epoch: number }> {
    for (const [high, low, epoch] of this.#families.entries()) {
      yield { family: formatId64(high, low), epoch }
    }
  }

  /** Would some of it be forgotten if the process ended now? */
  get isUnheld(): boolean {
    return this.#held < this.#raised
  }

  /**
   * Raises a family's bar; nothing older is admitted from now on.
   * @throws StoreError StaleEpoch when it is above already, LimitReached
   */
  raiseFamily(high: number, low: number, epoch: number): void {
    const known = this.#families.get(high, low)
    if (known > epoch) {
      const text = `writerEpoch ${epoch} is fenced off by ${known}`
      throw new StoreError(ErrorCode.StaleEpoch, text)
    }
    if (known === epoch) return
    this.#families.raise(high, low, epoch)
    this.#raised++
  }

  /** The same for a group. @throws StoreError StaleGroup, LimitReached */
  raiseGroup(pool: number, group: number, epoch: number): void {
    const known = this.#groups.get(pool, group + 1)
    if (known > epoch) {
      const text = `epoch ${epoch} of group ${pool}/${group} is fenced off by ${known}`
      throw new StoreError(ErrorCode.StaleGroup, text)
    }
    if (known === epoch) return
    this.#groups.raise(pool, group + 1, epoch)
    this.#raised++
    this.onGroupRaised(pool, group, epoch)
  }

  /**
   * R42: as `raiseGroup` with the epoch of a group's record, and what was sent to the groups that
   * it came from, before they were split, is not admitted either.
   */
  raiseRecord(pool: number, group: number, record: Pick<GroupRecord, 'epoch' | 'split'>): void {
    this.raiseParents(pool, parentBars(group, record))
    this.raiseGroup(pool, group, record.epoch)
  }

  /** Those that are higher already stay. @throws StoreError LimitReached */
  raiseParents(pool: number, bars: readonly GroupBar[]): void {
    for (const { group, epoch } of bars) {
      if (this.groupEpoch(pool, group) < epoch) this.raiseGroup(pool, group, epoch)
    }
  }

  /** A deleted family needs no fence: its id is never used again. */
  forgetFamily(high: number, low: number): void {
    this.#families.remove(high, low)
  }

  /** Everything raised before this call is durable when it resolves. Calls share saves. */
  hold(): Promise<void> {
    // Also when the one before has just ended: two at once would write the same file.
    if (this.#next !== null) return this.#next
    if (this.#saving === null) return this.#save()
    const save = (): Promise<void> => {
      this.#next = null
      return this.#save()
    }
    this.#next = this.#saving.then(save, save)
    return this.#next
  }

  #save(): Promise<void> {
    const raised = this.#raised
    const saving = this.#store
      .save(this.#entries())
      .then(() => {
        this.#held = Math.max(this.#held, raised)
      })
      .finally(() => {
        if (this.#saving === saving) this.#saving = null
      })
    this.#saving = saving
    return saving
  }

  #entries(): FenceEntry[] {
    const entries: FenceEntry[] = []
    for (const [high, low, epoch] of this.#families.entries()) {
      entries.push({ kind: FenceKind.Family, high, low, epoch })
    }
    for (const [high, low, epoch] of this.#groups.entries()) {
      entries.push({ kind: FenceKind.Group, high, low: low - 1, epoch })
    }
    return entries
  }
}
