import { availableParallelism } from 'node:os'

/**
 * Looking for news for a few microseconds before sleeping. A sleep and its wake-up cost both sides
 * a system call and the waiter a scheduler's delay: more than a whole request at queue depth 1.
 * But a core that spins is a core taken from somebody, so it is only done while it pays: every
 * look that found nothing costs credit, every one that did earns some, and without credit only
 * one try in PROBE_EVERY is made.
 */
const CREDIT_MAX = 16
const PROBE_EVERY = 32
/** Reading the clock costs as much as a few looks. */
const LOOKS_PER_CLOCK = 50

export class SpinCredit {
  private credit = CREDIT_MAX / 2
  private skipped = 0

  mayTry(): boolean {
    if (this.credit <= 0 && ++this.skipped < PROBE_EVERY) return false
    this.skipped = 0
    return true
  }

  paid(): void {
    if (this.credit < CREDIT_MAX) this.credit += 2
  }

  wasted(): void {
    if (this.credit > 0) this.credit--
  }
}

export class Spin {
  private readonly limitMs: number
  private readonly hasNews: () => boolean
  private readonly credit = new SpinCredit()

  constructor(limitMicros: number, hasNews: () => boolean) {
    // On a single core nothing can become new while somebody spins.
    this.limitMs = availableParallelism() > 1 ? limitMicros / 1000 : 0
    this.hasNews = hasNews
  }

  /** Whether news came while looking; false at once when looking has not paid lately. */
  run(): boolean {
    if (this.limitMs === 0 || !this.credit.mayTry()) return false
    if (this.look()) {
      this.credit.paid()
      return true
    }
    this.credit.wasted()
    return false
  }

  private look(): boolean {
    const until = performance.now() + this.limitMs
    do {
      for (let look = 0; look < LOOKS_PER_CLOCK; look++) if (this.hasNews()) return true
    } while (performance.now() < until)
    return false
  }
}
