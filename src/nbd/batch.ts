import type { Clock } from '../core/clock.ts'
import { TickBatch } from '../core/tick-batch.ts'

/** A tick's answers to clients, and what was given back meanwhile. */
export class Batch extends TickBatch {
  /** When this tick's answers began to come, monotonic milliseconds: one clock call for all. */
  nowMs = 0
  private readonly clock: Clock
  private readonly serve: () => void
  private freed = false

  /** `serve` lets those go on who waited for shared memory. */
  constructor(clock: Clock, ringVolume: () => void, serve: () => void) {
    super(ringVolume)
    this.clock = clock
    this.serve = serve
  }

  noteFreed(): void {
    this.freed = true
    this.schedule()
  }

  protected override begin(): void {
    this.nowMs = this.clock.monotonicMs()
  }

  protected override end(): void {
    if (!this.freed) return
    this.freed = false
    this.serve()
  }
}
