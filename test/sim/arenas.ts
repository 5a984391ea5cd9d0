import { TestArena } from '../helpers/test-arena.ts'

const ARENA_PAGES = 4096

/** Arenas of boots. One is some milliseconds of work to make: those of a run serve the next. */
export class Arenas {
  static readonly #spare: TestArena[] = []
  readonly #used: TestArena[] = []

  acquire(): TestArena {
    const arena = Arenas.#spare.pop() ?? new TestArena(ARENA_PAGES)
    this.#used.push(arena)
    return arena
  }

  /** Nothing of the run goes on. */
  releaseAll(): void {
    for (const arena of this.#used) arena.reset()
    Arenas.#spare.push(...this.#used.splice(0))
  }
}
