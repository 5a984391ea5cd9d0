import { StoreError } from '../core/errors.ts'
import type { Members } from '../replication/member.ts'
import type { PeerReport } from '../replication/peer-report.ts'

/** More are not asked: who shows a large cluster must not connect to all of it. */
const REPORTS_MAX = 64
/** A peer that is paused or cut off must not hold up the others' figures. */
const REPORT_MS = 1000

/** What peers tell about themselves, asked when somebody looks at the cluster. */
export class PeerReports {
  readonly #members: Members
  /** Answers that are awaited: who did not answer is not asked again meanwhile. */
  readonly #asking = new Map<string, Promise<PeerReport | null>>()

  constructor(members: Members) {
    this.#members = members
  }

  /** By peer id, of the first ones that answer in time. */
  async of(peerIds: readonly string[]): Promise<Map<string, PeerReport>> {
    const found = new Map<string, PeerReport>()
    const asked = peerIds.slice(0, REPORTS_MAX).map(async (peerId) => {
      const report = await this.#ask(peerId)
      if (report !== null) found.set(peerId, report)
    })
    let timer: NodeJS.Timeout | null = null
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, REPORT_MS)
    })
    await Promise.race([Promise.all(asked), late])
    if (timer !== null) clearTimeout(timer)
    return new Map(found)
  }

  #ask(peerId: string): Promise<PeerReport | null> {
    const waiting = this.#asking.get(peerId)
    if (waiting !== undefined) return waiting
    const member = this.#members.find(peerId)
    if (member === null) return Promise.resolve(null)
    const asked = member.call({ call: 'report' }).then(
      ({ report }) => report ?? null,
      (thrown: unknown) => {
        // An older version does not know the question.
        if (thrown instanceof StoreError) return null
        throw thrown
      }
    )
    this.#asking.set(peerId, asked)
    return asked.finally(() => this.#asking.delete(peerId))
  }
}
