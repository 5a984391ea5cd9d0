/**
 * Flushes that a shard's worker carries out itself, between its requests: two threads less to wake
 * than by way of the thread pool, which is a fifth of the time of a synced write. Only while it
 * keeps nobody waiting: one flush at a time, for a shard that has nothing else to do, was asked for
 * no reads lately, and has a quick disk. All others go to the thread pool.
 */
import type { ShardClient } from '../handoff/shard-client.ts'
import type { FlushDone } from '../handoff/sync-rounds.ts'
import { OpKind } from '../shard/op.ts'
import { BlockOp } from './block-store.ts'

/** What a request that comes meanwhile may have to wait. */
const QUICK_MS = 1
/** Time for the thread pool after a flush that was not alone … */
const PAUSE_MS = 10
/** … and so many times as much as a flush took that was not quick: on a slow disk nearly always. */
const PAUSE_FACTOR = 10

export class NearFlushes {
  private readonly op = new BlockOp()
  private client: ShardClient<BlockOp> | null = null
  private done: FlushDone | null = null
  /** Flushes that came meanwhile, whose writes the one under way may have missed. */
  private waiting: FlushDone[] = []
  private startMs = 0
  private pausedUntilMs = 0
  private readonly flush: (done: FlushDone) => void

  /** `flush` is the store's. */
  constructor(flush: (done: FlushDone) => void) {
    this.flush = flush
    this.op.kind = OpKind.Flush
    this.op.onDone = this.ended
  }

  /** A worker was given a read, or another flush has to wait. */
  pause(nowMs: number): void {
    this.pausedUntilMs = Math.max(this.pausedUntilMs, nowMs + PAUSE_MS)
  }

  /** Whether it takes care of the flush, of the only client with something to sync. */
  take(client: ShardClient<BlockOp>, done: FlushDone): boolean {
    const nowMs = performance.now()
    if (this.done !== null) {
      this.waiting.push(done)
      this.pause(nowMs)
      return true
    }
    if (nowMs < this.pausedUntilMs || client.state !== 'serving') return false
    if (client.inFlightCount > 0 || client.rounds.isRunning) return false
    this.client = client
    this.done = done
    this.startMs = nowMs
    client.submit(this.op)
    return true
  }

  private readonly ended = (op: BlockOp): void => {
    const { done, waiting } = this
    const nowMs = performance.now()
    const tookMs = nowMs - this.startMs
    this.client!.rounds.note(tookMs, op.error !== 0)
    if (tookMs > QUICK_MS) this.pausedUntilMs = nowMs + Math.max(PAUSE_MS, PAUSE_FACTOR * tookMs)
    this.done = null
    this.waiting = []
    done!(op.error)
    if (waiting.length === 0) return
    this.flush((error) => {
      for (const each of waiting) each(error)
    })
  }
}
