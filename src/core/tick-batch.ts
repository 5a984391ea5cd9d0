/** Who has something to do at the end of a tick in which it was used. */
export interface BatchMember {
  /** Sends what gathered and goes on with what had to wait. */
  endOfBatch(): void
  inBatch: boolean
}

const settled = Promise.resolve()

/** What is done once for all that happened in a tick: send what gathered, ring the doorbell. */
export class TickBatch {
  private readonly members: BatchMember[] = []
  private readonly doorbell: () => void
  private scheduled = false
  private submitted = false

  constructor(doorbell: () => void) {
    this.doorbell = doorbell
  }

  /** `member.endOfBatch` is called once, when what is ready now was all taken. */
  add(member: BatchMember): void {
    if (member.inBatch) return
    member.inBatch = true
    this.members.push(member)
    this.schedule()
  }

  /** Something was submitted: the doorbell is rung at the end of the batch at the latest. */
  noteSubmitted(): void {
    this.submitted = true
  }

  ring(): void {
    if (!this.submitted) return
    this.submitted = false
    this.doorbell()
  }

  protected schedule(): void {
    if (this.scheduled) return
    this.scheduled = true
    this.begin()
    // A promise job runs after the loop that drains completions, and before the next I/O event.
    void settled.then(this.run)
  }

  /** A tick with something to do began. */
  protected begin(): void {}

  /** All members are done. */
  protected end(): void {}

  private readonly run = (): void => {
    this.scheduled = false
    // The list may grow while it is walked.
    for (let index = 0; index < this.members.length; index++) {
      const member = this.members[index]!
      member.inBatch = false
      member.endOfBatch()
    }
    this.members.length = 0
    this.end()
    this.ring()
  }
}
