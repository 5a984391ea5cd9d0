import type { Clock } from '../core/clock.ts'

/** What is done once for all that happened in a tick: flush replies, ring the volume's doorbell. */
export interface BatchMember {
  /** Sends what gathered and goes on with what had to wait. */
  endOfBatch(): void
  inBatch: boolean
}

export class Batch {
  /** When this tick's answers began to come, monotonic milliseconds: one clock call for all. */
  nowMs = 0
  private readonly members: BatchMember[] = []
  private readonly clock: Clock
  private readonly ringVolume: () => void
  private readonly serve: () => void
  private scheduled = false
  private submitted = false
  private freed = false
  private static readonly settled: Promise<void> = Promise.resolve()

  /** `serve` lets those go on who waited for shared memory. */
  constructor(clock: Clock, ringVolume: () => void, serve: () => void) {
    this.clock = clock
    this.ringVolume = ringVolume
    this.serve = serve
  }

  /** `member.endOfBatch` is called once, when the answers that are ready now were all taken. */
  add(member: BatchMember): void {
    if (member.inBatch) return
    member.inBatch = true
    this.members.push(member)
    this.schedule()
  }

  noteSubmitted(): void {
    this.submitted = true
  }

  noteFreed(): void {
    this.freed = true
    this.schedule()
  }

  ring(): void {
    if (!this.submitted) return
    this.submitted = false
    this.ringVolume()
  }

  private schedule(): void {
    if (this.scheduled) return
    this.scheduled = true
    this.nowMs = this.clock.monotonicMs()
    // A promise job runs after the loop that drains completions, and before the next I/O event.
    void Batch.settled.then(this.run)
  }

  private readonly run = (): void => {
    this.scheduled = false
    // The list may grow while it is walked.
    for (let index = 0; index < this.members.length; index++) {
      const member = this.members[index]!
      member.inBatch = false
      member.endOfBatch()
    }
    this.members.length = 0
    if (this.freed) {
      this.freed = false
      this.serve()
    }
    this.ring()
  }
}
