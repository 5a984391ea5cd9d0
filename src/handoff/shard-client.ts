import { closeSync } from 'node:fs'
import { assert } from '../core/assert.ts'
import { ErrorCode } from '../core/errors.ts'
import { BATCH_OPS_MAX, QUEUE_SLOTS } from '../core/limits.ts'
import {
  BATCH_OPS,
  COMMAND,
  COMPLETION_TAIL,
  type ChannelMemory,
  Command,
  EXECUTING,
  EXECUTING_FROM,
  entryAt,
  resetControl,
  STATE,
  SUBMISSION_TAIL,
  THREAD,
  WORKER_ASLEEP,
  WorkerState
} from './channel.ts'
import { type HandoffOp, readCompletion, writeSubmission } from './entry.ts'
import { OpenFiles } from './open-files.ts'
import type { FlushDone, SyncRounds } from './sync-rounds.ts'

/** A request to a shard with who waits for it. */
export interface ClientOp<Self> extends HandoffOp {
  /** Called once on the main thread when the op is done; never from inside `submit`. */
  onDone: (op: Self) => void
}

/**
 * `starting`: its worker opens the shard, for the first time or again; requests wait.
 * `failed`: there is no worker and will be none; requests are answered with ShardFailed.
 */
export type ClientState = 'starting' | 'serving' | 'failed' | 'closed'

/**
 * The main thread's side of one shard: gives slots to requests, queues them to the worker, answers
 * them in the order of completion, and after a worker's death queues what was in flight again, in
 * the order in which it was submitted.
 */
export class ShardClient<Op extends ClientOp<Op>> {
  readonly shard: number
  /** Numbers the shard publishes; written by the worker. */
  readonly stats: Float64Array
  readonly rounds: SyncRounds
  state: ClientState = 'starting'
  /** Why the state is `failed`. */
  failure = ''
  failureCode: ErrorCode = ErrorCode.Ok
  /** A worker has served this shard in this process. */
  everServed = false
  /** Times its worker was started again after it died. */
  restarts = 0
  /** False once the pool closes: requests in flight are finished, new ones refused. */
  private accepting = true

  /** Called when a worker's thread has ended, before its files are closed. */
  onGone: () => void = () => {}

  private readonly control: Int32Array
  private readonly submissions: Uint32Array
  private readonly completions: Uint32Array
  private readonly openFiles: OpenFiles
  private readonly inFlight: (Op | null)[] = new Array(QUEUE_SLOTS).fill(null)
  /** Position in the submission queue of the op in a slot. */
  private readonly positions = new Int32Array(QUEUE_SLOTS)
  /** Workers that died while they carried out the op in a slot. */
  private readonly deaths = new Uint8Array(QUEUE_SLOTS)
  private readonly freeSlots = new Int32Array(QUEUE_SLOTS)
  private freeCount = QUEUE_SLOTS
  private tail = 0
  private published = 0
  private completionHead = 0
  /** Ops in flight that a worker died on; while there are any, they are taken one at a time. */
  private suspects = 0
  /** Ops that found no free slot, in order. Bounded, because requests are. */
  private overflow: Op[] = []
  private overflowHead = 0
  /** Ops answered without the worker, from a microtask. */
  private refused: Op[] = []
  private whenEmpty: (() => void) | null = null

  constructor(shard: number, memory: ChannelMemory, rounds: SyncRounds) {
    this.shard = shard
    this.control = new Int32Array(memory.control)
    this.submissions = new Uint32Array(memory.submissions)
    this.completions = new Uint32Array(memory.completions)
    this.openFiles = new OpenFiles(memory.openFiles)
    this.stats = new Float64Array(memory.stats)
    this.rounds = rounds
    rounds.onRequested = () => this.wakeWorker()
    for (let slot = 0; slot < QUEUE_SLOTS; slot++) this.freeSlots[slot] = QUEUE_SLOTS - 1 - slot
  }

  /** Requests that were submitted and not answered. */
  get inFlightCount(): number {
    const overflowing = this.overflow.length - this.overflowHead
    return QUEUE_SLOTS - this.freeCount + overflowing + this.refused.length
  }

  /** Queues the op; the worker hears of it with the next `ring`. */
  submit(op: Op): void {
    if (this.state === 'failed') {
      this.refuse(op, ErrorCode.ShardFailed)
    } else if (!this.accepting) {
      this.refuse(op, ErrorCode.Closed)
    } else if (this.freeCount === 0 || this.overflow.length > 0) {
      this.overflow.push(op)
    } else {
      this.enqueue(op)
    }
  }

  /** Publishes everything submitted so far and wakes the worker if it sleeps; false if nothing. */
  ring(): boolean {
    if (this.tail === this.published) return false
    this.published = this.tail
    Atomics.store(this.control, SUBMISSION_TAIL, this.tail)
    this.wakeWorker()
    return true
  }

  /** Whether `poll` would find something. */
  get hasAnswers(): boolean {
    return Atomics.load(this.control, COMPLETION_TAIL) !== this.completionHead
  }

  /**
   * Answers what the worker has completed by now; returns how many. What it completes meanwhile is
   * for the next call, so that sockets have their turn however quick the worker is.
   */
  poll(): number {
    let answered = 0
    const tail = Atomics.load(this.control, COMPLETION_TAIL)
    while (((tail - this.completionHead) | 0) > 0) {
      const at = entryAt(this.completionHead)
      this.completionHead = (this.completionHead + 1) | 0
      const op = this.takeSlot(this.completions[at]!)
      readCompletion(this.completions, at, op)
      op.onDone(op)
      answered++
    }
    if (answered > 0) this.afterAnswers()
    this.rounds.poll()
    if (this.state === 'starting') this.checkServing()
    return answered
  }

  /** Calls `done(error)` when every write answered before this call is durable. */
  flush(done: FlushDone): void {
    if (this.state === 'failed' || this.state === 'closed') {
      queueMicrotask(() => done(this.flushErrorWhenGone()))
    } else {
      this.rounds.flush(done)
    }
  }

  /** Whether a flush would only find that there is nothing to do. */
  get isClean(): boolean {
    if (this.state === 'failed' || this.state === 'closed') {
      return this.flushErrorWhenGone() === ErrorCode.Ok
    }
    return this.rounds.isClean
  }

  // The pool's side: a life of a worker is prepareStart, [beginServing], then afterDeath or
  // afterClose.

  /** Sets up the channel for a new worker and queues again what is in flight. */
  prepareStart(): void {
    resetControl(this.control)
    this.rounds.clear()
    this.completionHead = 0
    this.tail = 0
    this.published = 0
    this.state = 'starting'
    for (const slot of this.slotsInOrder()) this.publishSlot(slot, this.inFlight[slot]!)
    this.updateBatchOps()
    this.ring()
  }

  /** The id of the thread that runs the worker, 0 before it began. */
  get threadId(): number {
    return Atomics.load(this.control, THREAD)
  }

  /**
   * The worker is gone for certain: takes what it still completed, finds out which requests it may
   * have died of, and answers the one that did so too often. `closed` is called when its files are.
   */
  afterDeath(closed: () => void): void {
    // It may have served and died between two polls.
    if (Atomics.load(this.control, STATE) === WorkerState.Serving) this.everServed = true
    Atomics.store(this.control, STATE, WorkerState.Starting)
    this.state = 'starting'
    this.poll()
    const executing = Atomics.load(this.control, EXECUTING)
    const from = Atomics.load(this.control, EXECUTING_FROM)
    for (let slot = 0; slot < QUEUE_SLOTS && executing > 0; slot++) {
      if (this.inFlight[slot] === null) continue
      const distance = (this.positions[slot]! - from) | 0
      if (distance < 0 || distance >= executing) continue
      if (this.deaths[slot]! === 0) this.suspects++
      this.deaths[slot]!++
      if (this.deaths[slot]! >= OP_DEATHS_MAX) {
        this.refuse(this.takeSlot(slot), ErrorCode.ShardFailed)
      }
    }
    this.onGone()
    this.rounds.hold(() => {
      this.openFiles.takeAll(closeQuietly)
      closed()
    })
  }

  /** No worker will serve this shard any more: everything that waits is answered. */
  fail(reason: string, code: ErrorCode): void {
    this.state = 'failed'
    this.failure = reason
    this.failureCode = code
    for (const op of this.takeAll()) this.refuse(op, ErrorCode.ShardFailed)
    this.rounds.abandon(this.flushErrorWhenGone())
  }

  /** Takes no more requests; calls `empty` once all are answered. */
  beginClose(empty: () => void): void {
    assert(this.accepting, 'a client is closed once')
    this.accepting = false
    if (this.inFlightCount === 0) queueMicrotask(empty)
    else this.whenEmpty = empty
  }

  /** Asks the worker to end; nothing is in flight. */
  sendClose(): void {
    Atomics.store(this.control, COMMAND, Command.Close)
    this.wakeWorker()
  }

  /** The worker ended as it was asked to: everything is on disk. */
  afterClose(): void {
    this.state = 'closed'
  }

  private enqueue(op: Op): void {
    const slot = this.freeSlots[--this.freeCount]!
    this.inFlight[slot] = op
    this.publishSlot(slot, op)
  }

  private publishSlot(slot: number, op: Op): void {
    this.positions[slot] = this.tail
    writeSubmission(this.submissions, entryAt(this.tail), slot, op)
    this.tail = (this.tail + 1) | 0
  }

  private takeSlot(slot: number): Op {
    const op = this.inFlight[slot]
    assert(op !== null && op !== undefined, 'a completion answers a request in flight')
    this.inFlight[slot] = null
    this.freeSlots[this.freeCount++] = slot
    if (this.deaths[slot]! > 0) {
      this.deaths[slot] = 0
      this.suspects--
      this.updateBatchOps()
    }
    return op
  }

  private slotsInOrder(): number[] {
    const slots: number[] = []
    for (let slot = 0; slot < QUEUE_SLOTS; slot++) {
      if (this.inFlight[slot] !== null) slots.push(slot)
    }
    return slots.sort((left, right) => (this.positions[left]! - this.positions[right]!) | 0)
  }

  private takeAll(): Op[] {
    const ops = this.slotsInOrder().map((slot) => this.takeSlot(slot))
    for (let at = this.overflowHead; at < this.overflow.length; at++) ops.push(this.overflow[at]!)
    this.overflow = []
    this.overflowHead = 0
    return ops
  }

  private updateBatchOps(): void {
    Atomics.store(this.control, BATCH_OPS, this.suspects > 0 ? 1 : BATCH_OPS_MAX)
  }

  private afterAnswers(): void {
    while (this.freeCount > 0 && this.overflowHead < this.overflow.length) {
      this.enqueue(this.overflow[this.overflowHead++]!)
    }
    if (this.overflowHead > OVERFLOW_TRIM || this.overflowHead === this.overflow.length) {
      this.overflow.splice(0, this.overflowHead)
      this.overflowHead = 0
    }
    if (this.whenEmpty !== null && this.inFlightCount === 0) {
      const empty = this.whenEmpty
      this.whenEmpty = null
      queueMicrotask(empty)
    }
  }

  private refuse(op: Op, error: ErrorCode): void {
    op.error = error
    op.resultA = 0
    op.resultB = 0
    op.resultC = 0
    if (this.refused.push(op) === 1) queueMicrotask(this.answerRefused)
  }

  private readonly answerRefused = (): void => {
    const refused = this.refused
    this.refused = []
    for (const op of refused) op.onDone(op)
    this.afterAnswers()
    this.ring()
  }

  private wakeWorker(): void {
    if (
      Atomics.load(this.control, WORKER_ASLEEP) === 1 &&
      Atomics.exchange(this.control, WORKER_ASLEEP, 0) === 1
    ) {
      Atomics.notify(this.control, WORKER_ASLEEP, 1)
    }
  }

  private checkServing(): void {
    if (Atomics.load(this.control, STATE) !== WorkerState.Serving) return
    this.state = 'serving'
    this.everServed = true
    this.rounds.resume()
  }

  /** What a worker took may be nowhere stable; a shard that never served holds nothing. */
  private flushErrorWhenGone(): ErrorCode {
    return this.state === 'failed' && this.everServed ? ErrorCode.ShardFailed : ErrorCode.Ok
  }
}

/** The first time others were in the batch too; alone with the op, workers get two more tries. */
const OP_DEATHS_MAX = 3
/** Answered places at the front of the overflow list that may wait to be cut off. */
const OVERFLOW_TRIM = 1024

function closeQuietly(descriptor: number): void {
  try {
    closeSync(descriptor)
  } catch {
    // The worker ended between closing it and saying so, or the close reported an old write error,
    // which the sync that follows in recovery does not depend on.
  }
}
