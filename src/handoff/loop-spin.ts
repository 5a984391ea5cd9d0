import { availableParallelism } from 'node:os'
import { MAIN_SPINS, SPINNER } from './main-bell.ts'
import { SpinCredit } from './spin.ts'

/**
 * Keeps the event loop turning for a moment after a request that was answered at once, instead of
 * letting it sleep: the next one of the same client is likely to be under way, and to wake a
 * sleeping thread takes longer than to answer it. Nobody spins beside a spinning worker.
 */
export class LoopSpin {
  private readonly bell: Int32Array
  private readonly limitMs: number
  private readonly credit = new SpinCredit()
  private turning = false
  private served = 0
  private seen = 0
  private untilMs = 0

  constructor(bell: Int32Array, limitMicros: number) {
    this.bell = bell
    // On a single core nothing can become new while somebody spins.
    this.limitMs = availableParallelism() > 1 ? limitMicros / 1000 : 0
  }

  /** A request was answered at once. */
  touch(): void {
    this.served++
    if (this.turning || this.limitMs === 0 || !this.credit.mayTry()) return
    if (Atomics.compareExchange(this.bell, SPINNER, 0, MAIN_SPINS) !== 0) return
    this.turning = true
    this.seen = this.served
    this.untilMs = performance.now() + this.limitMs
    setImmediate(this.turn)
  }

  private readonly turn = (): void => {
    const nowMs = performance.now()
    if (this.served !== this.seen) {
      this.seen = this.served
      this.untilMs = nowMs + this.limitMs
      this.credit.paid()
    } else if (nowMs >= this.untilMs) {
      this.credit.wasted()
      this.turning = false
      Atomics.store(this.bell, SPINNER, 0)
      return
    }
    setImmediate(this.turn)
  }
}
