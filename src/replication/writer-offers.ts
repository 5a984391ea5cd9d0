import type { Claim } from '../cluster/group-table.ts'
import type { Writers } from '../cluster/writers.ts'
import type { Timers } from '../core/clock.ts'
import { StoreError } from '../core/errors.ts'

/** The metadata did not answer: what it was not told is said again then. */
const RETRY_MS = 1000

interface Offer {
  claim: Claim
  isOffered: boolean
  /** What the metadata was told last. */
  isTold: boolean
  isTelling: boolean
}

/**
 * Families that are served here for nobody's sake, a rekey for instance: another gateway gets them
 * for the asking. The metadata says so, bound to the writer's lease and by its claim, so that it
 * ends with it.
 */
export class WriterOffers {
  readonly #writers: Writers
  readonly #timers: Timers
  readonly #known = new Map<string, Offer>()

  constructor(writers: Writers, timers: Timers) {
    this.#writers = writers
    this.#timers = timers
  }

  /** The family was taken, or taken anew: the metadata has no offer of it. */
  begin(family: string, claim: Claim): void {
    const { isOffered = false } = this.#known.get(family) ?? {}
    this.end(family)
    this.#known.set(family, { claim, isOffered, isTold: false, isTelling: false })
    this.#tell(family)
  }

  end(family: string): void {
    this.#known.delete(family)
  }

  /** From now on; the metadata hears of it in time. */
  set(family: string, isOffered: boolean): void {
    const known = this.#known.get(family)
    if (known === undefined) return
    known.isOffered = isOffered
    this.#tell(family)
  }

  has(family: string): boolean {
    return this.#known.get(family)?.isOffered === true
  }

  #tell(family: string): void {
    const known = this.#known.get(family)
    if (known === undefined || known.isTelling || known.isTold === known.isOffered) return
    const { claim, isOffered } = known
    known.isTelling = true
    const ended = (): void => {
      known.isTelling = false
      // Of a lease that was taken anew meanwhile there is another.
      if (this.#known.get(family) === known) this.#tell(family)
    }
    this.#writers.offer(family, claim, isOffered).then(
      () => {
        known.isTold = isOffered
        ended()
      },
      (thrown: unknown) => {
        if (!(thrown instanceof StoreError)) throw thrown
        this.#timers.start(RETRY_MS, ended)
      }
    )
  }
}
