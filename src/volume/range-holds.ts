import type { Edit } from './edit.ts'

/**
 * Ranges of a volume that changes wait for, in order of arrival. A change enters when it reads
 * before it writes (a sub-block write), when it is given out bit by bit (a long trim), or when it
 * overlaps one that is in here. It waits for the latest earlier one that it overlaps, so waiting
 * only ever points backwards: no deadlock, and nobody is overtaken for ever.
 *
 * With nothing in here, which is the rule, a change costs one comparison with null.
 */
export class RangeHolds {
  #oldest: Edit | null = null
  #newest: Edit | null = null

  get empty(): boolean {
    return this.#newest === null
  }

  /** The latest entry that overlaps [firstBlock, endBlock). */
  latestOverlap(firstBlock: number, endBlock: number): Edit | null {
    return overlapBefore(this.#newest, firstBlock, endBlock)
  }

  /** Enters `edit`, and makes it wait for `blocker` unless that is null. */
  enter(edit: Edit, blocker: Edit | null): void {
    edit.older = this.#newest
    edit.newer = null
    if (this.#newest === null) this.#oldest = edit
    else this.#newest.newer = edit
    this.#newest = edit
    if (blocker !== null) addWaiter(blocker, edit)
  }

  /**
   * Takes `edit` out and returns the first of those that may go now; the others follow by
   * `nextWaiter`, in order of arrival. Those that overlap another earlier entry wait on, for that.
   */
  leave(edit: Edit): Edit | null {
    if (edit.older === null) this.#oldest = edit.newer
    else edit.older.newer = edit.newer
    if (edit.newer === null) this.#newest = edit.older
    else edit.newer.older = edit.older
    let waiter = edit.firstWaiter
    edit.older = null
    edit.newer = null
    edit.firstWaiter = null
    edit.lastWaiter = null
    let first: Edit | null = null
    let last: Edit | null = null
    while (waiter !== null) {
      const next: Edit | null = waiter.nextWaiter
      waiter.nextWaiter = null
      const blocker = overlapBefore(waiter.older, waiter.firstBlock, waiter.endBlock)
      if (blocker !== null) addWaiter(blocker, waiter)
      else {
        if (last === null) first = waiter
        else last.nextWaiter = waiter
        last = waiter
      }
      waiter = next
    }
    return first
  }

  /** For tests: how many are in here. */
  get size(): number {
    let count = 0
    for (let edit = this.#oldest; edit !== null; edit = edit.newer) count++
    return count
  }
}

function overlapBefore(from: Edit | null, firstBlock: number, endBlock: number): Edit | null {
  for (let edit = from; edit !== null; edit = edit.older) {
    if (edit.firstBlock < endBlock && firstBlock < edit.endBlock) return edit
  }
  return null
}

function addWaiter(blocker: Edit, waiter: Edit): void {
  if (blocker.lastWaiter === null) blocker.firstWaiter = waiter
  else blocker.lastWaiter.nextWaiter = waiter
  blocker.lastWaiter = waiter
}
