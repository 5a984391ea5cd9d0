import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { Edit } from './edit.ts'

/**
 * Pages of the arena set aside for edges of sub-block changes. They are taken at the start: a
 * change that needs one while clients' payloads fill the arena must still end, because what fills
 * the arena may wait for it.
 */
export class ScratchPages {
  readonly #free: number[] = []
  // Edits that wait, linked by `nextWaiter`: one that waits here waits for no range any more.
  #first: Edit | null = null
  #last: Edit | null = null

  constructor(arena: Arena, pages: number) {
    assert(pages >= 2, 'one change may need two scratch pages')
    const base = arena.acquire(pages)
    assert(base >= 0, 'the arena has room for the scratch pages')
    for (let page = pages - 1; page >= 0; page--) this.#free.push(base + page * BLOCK_BYTES)
  }

  /** Gives `edit` its pages, or queues it and returns false. */
  take(edit: Edit): boolean {
    if (this.#first === null && this.#assign(edit)) return true
    if (this.#last === null) this.#first = edit
    else this.#last.nextWaiter = edit
    this.#last = edit
    return false
  }

  /** Takes the pages of `edit` back. Whoever calls it starts what `next` returns then. */
  release(edit: Edit): void {
    if (edit.headPage >= 0) this.#free.push(edit.headPage)
    if (edit.tailPage >= 0) this.#free.push(edit.tailPage)
    edit.headPage = -1
    edit.tailPage = -1
  }

  /** An edit that was waiting and has its pages now, or null. */
  next(): Edit | null {
    const edit = this.#first
    if (edit === null || !this.#assign(edit)) return null
    this.#first = edit.nextWaiter
    if (this.#first === null) this.#last = null
    edit.nextWaiter = null
    return edit
  }

  #assign(edit: Edit): boolean {
    const pages = edit.headBytes > 0 && edit.tailBytes > 0 && !edit.oneBlock ? 2 : 1
    if (this.#free.length < pages) return false
    const page = this.#free.pop()!
    if (pages === 2) edit.tailPage = this.#free.pop()!
    if (edit.headBytes > 0 || edit.oneBlock) edit.headPage = page
    else edit.tailPage = page
    return true
  }
}
