/** What is done once for all that happened in a tick: send what gathered, ring the doorbells. */
export interface PeerBatchMember {
  inBatch: boolean
  endOfBatch(): void
}

export class PeerBatch {
  private readonly members: PeerBatchMember[] = []
  private readonly ring: () => void
  private scheduled = false
  private submitted = false
  private static readonly settled: Promise<void> = Promise.resolve()

  constructor(ring: () => void) {
    this.ring = ring
  }

  /** `member.endOfBatch` is called once, when what is done now was all taken. */
  add(member: PeerBatchMember): void {
    if (member.inBatch) return
    member.inBatch = true
    this.members.push(member)
    this.schedule()
  }

  /** Ops were submitted: the doorbell is rung at the end of the batch at the latest. */
  noteSubmitted(): void {
    this.submitted = true
  }

  ringNow(): void {
    if (!this.submitted) return
    this.submitted = false
    this.ring()
  }

  private schedule(): void {
    if (this.scheduled) return
    this.scheduled = true
    // A promise job runs after the loop that drains completions, and before the next I/O event.
    void PeerBatch.settled.then(this.run)
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
    this.ringNow()
  }
}
