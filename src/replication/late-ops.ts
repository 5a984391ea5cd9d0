import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { OpKind } from './block-store.ts'
import type { Boot } from './boots.ts'
import { payloadBytesOf } from './peer-request.ts'
import { type Pending, Sent } from './pending.ts'
import type { ReplicaRequests } from './replica-requests.ts'
import type { ReplicatedStore } from './replicated-store.ts'

/**
 * Looks after ops that take long: members that leave writes unanswered which others have answered
 * have to leave, reads go to another member, and clients that wait no more are told.
 */
export class LateOps {
  readonly #store: ReplicatedStore
  readonly #requests: ReplicaRequests
  #lookedMs = 0
  /** Since when this process runs: what came while it stood still is not read yet. */
  #awakeMs = 0

  constructor(store: ReplicatedStore, requests: ReplicaRequests) {
    this.#store = store
    this.#requests = requests
  }

  /** Looks come regularly from now on. */
  begin(nowMs: number): void {
    this.#lookedMs = nowMs
  }

  look(nowMs: number): void {
    const store = this.#store
    if (nowMs - this.#lookedMs > store.patienceMs) this.#awakeMs = nowMs
    this.#lookedMs = nowMs
    const old = store.pendings.select(({ submittedMs }) => submittedMs < nowMs)
    for (const pending of old) {
      if (pending.isOver || pending.family === null) continue
      const ageMs = nowMs - pending.submittedMs
      const waitedMs = nowMs - Math.max(this.#awakeMs, pending.submittedMs)
      const { unavailableMs } = pending.family
      const group = pending.group!
      if (pending.isWrite && waitedMs > store.deadlineMs && pending.acked > 0) {
        for (const [at, boot] of pending.boots.entries()) {
          if (pending.sent[at] === Sent.Yes) store.failBoot(group, boot, ErrorCode.Unavailable)
        }
      }
      if (!pending.isWrite && waitedMs > store.patienceMs) this.#readElsewhere(pending)
      if (unavailableMs === null || ageMs < unavailableMs || pending.client === null) continue
      if (pending.isWrite || pending.inFlight === 0)
        this.#requests.giveUp(pending, ErrorCode.NoQuorum)
    }
  }

  /**
   * A read that its member leaves unanswered goes to another one. What the first still answers is
   * put aside: by then it may be out of the group, and its bytes old.
   */
  #readElsewhere(read: Pending): void {
    const store = this.#store
    if (read.inFlight !== 1 || read.aside !== null || read.request.kind !== OpKind.Read) return
    const at = read.sent.indexOf(Sent.Yes)
    const slow = read.boots[at]
    const copy = read.copies[at]
    if (slow?.member?.putAside === undefined || !copy) return
    const other = this.#otherThan(slow, read)
    if (other === null) return
    const run = store.arena.acquire(Math.ceil(payloadBytesOf(read.request) / BLOCK_BYTES))
    if (run < 0) return
    if (!slow.member.putAside(copy, run)) {
      store.arena.release(run)
      return
    }
    read.aside = copy
    slow.isSlow = true
    this.#requests.sendCopy(read, other)
    store.ringSoon()
  }

  #otherThan(slow: Boot, read: Pending): Boot | null {
    const group = read.group!
    for (let i = 0; i < group.inSyncCount; i++) {
      const boot = group.targets[i]!
      if (boot === slow || boot.member === null || boot.isSlow) continue
      const at = read.indexOf(boot)
      if (at < 0 || read.sent[at] === Sent.No) return boot
    }
    return null
  }
}
