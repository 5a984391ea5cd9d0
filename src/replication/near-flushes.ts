/**
 * Flushes that a shard's worker carries out itself, between its requests: two threads less to wake
 * than by way of the thread pool, which is a fifth of the time of a synced write. Only while it
 * keeps nobody waiting: one flush at a time, for a shard that has nothing else to do, was asked for
 * no reads lately, and has a quick disk. All others go to the thread pool.
 *
 * A client that flushes after each write will flush after the next one, too. So such a write is
 * synced as soon as it is done, while the client still hears of that and asks for the flush: this
 * has less to wait for then, or nothing.
 */
import { ErrorCode } from '../core/errors.ts'
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
/** After so many flushes behind one change each, the next one is expected. */
const AHEAD_AFTER = 4

export class NearFlushes {
  private readonly op = new BlockOp()
  /** Whose flush is under way. */
  private client: ShardClient<BlockOp> | null = null
  /** Null: nobody has asked for it yet. */
  private done: FlushDone | null = null
  /** Flushes that came meanwhile, whose writes the one under way may have missed. */
  private waiting: FlushDone[] = []
  private startMs = 0
  private pausedUntilMs = 0
  /** Changes that were submitted since the last flush, and flushes in a row that had just one. */
  private changes = 0
  private pairs = 0
  /** Every change was done when the flush under way began. */
  private coversAll = false
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

  /** A change is submitted. */
  noteChange(): void {
    this.changes++
    this.coversAll = false
  }

  /** A client wants a flush. */
  noteFlush(): void {
    this.pairs = this.changes === 1 ? this.pairs + 1 : 0
    this.changes = 0
  }

  /** A change is done, which `client` has: begins the flush that is likely to come now. */
  changeDone(client: ShardClient<BlockOp>): void {
    if (this.pairs < AHEAD_AFTER || this.changes !== 1 || this.client !== null) return
    const nowMs = performance.now()
    if (!this.isQuiet(client, nowMs)) return
    this.coversAll = true
    this.begin(client, null, nowMs)
  }

  /** Whether it takes care of the flush, of the only client with something to sync. */
  take(client: ShardClient<BlockOp>, done: FlushDone): boolean {
    const nowMs = performance.now()
    if (this.client === client && this.done === null && this.coversAll) {
      this.done = done
      return true
    }
    if (this.client !== null) {
      this.waiting.push(done)
      this.pause(nowMs)
      return true
    }
    if (!this.isQuiet(client, nowMs)) return false
    this.coversAll = false
    this.begin(client, done, nowMs)
    return true
  }

  private isQuiet(client: ShardClient<BlockOp>, nowMs: number): boolean {
    if (nowMs < this.pausedUntilMs || client.state !== 'serving') return false
    return client.inFlightCount === 0 && !client.rounds.isRunning
  }

  private begin(client: ShardClient<BlockOp>, done: FlushDone | null, nowMs: number): void {
    this.client = client
    this.done = done
    this.startMs = nowMs
    client.submit(this.op)
  }

  private readonly ended = (op: BlockOp): void => {
    const { done, waiting } = this
    const nowMs = performance.now()
    const tookMs = nowMs - this.startMs
    this.client!.rounds.note(tookMs, op.error !== 0 && op.error !== ErrorCode.Closed)
    if (tookMs > QUICK_MS) this.pausedUntilMs = nowMs + Math.max(PAUSE_MS, PAUSE_FACTOR * tookMs)
    this.client = null
    this.done = null
    this.waiting = []
    done?.(op.error)
    if (waiting.length === 0) return
    this.flush((error) => {
      for (const each of waiting) each(error)
    })
  }
}
