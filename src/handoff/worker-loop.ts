import { threadId } from 'node:worker_threads'
import { BATCH_BLOCKS_MAX, BATCH_OPS_MAX } from '../core/limits.ts'
import {
  BATCH_OPS,
  COMMAND,
  COMPLETION_TAIL,
  type ChannelMemory,
  Command,
  EXECUTING,
  EXECUTING_FROM,
  entryAt,
  STATE,
  SUBMISSION_TAIL,
  THREAD,
  WORKER_ASLEEP,
  WorkerState
} from './channel.ts'
import { type HandoffOp, readSubmission, writeCompletion } from './entry.ts'
import { ringMain, SPINNER } from './main-bell.ts'
import { Spin } from './spin.ts'

interface WorkerOp extends HandoffOp {
  /** Blocks that are moved for it. */
  readonly payloadBlocks: number
}

/** A shard's engine as its worker drives it. */
interface WorkerEngine<Op extends WorkerOp> {
  /** Carries out ops[0..count) and sets their answers. */
  execute(ops: readonly Op[], count: number): void
  /** Does background work for about `budgetMs`; whether there is more to do. */
  background(budgetMs: number): boolean
  /** Milliseconds after which `background` wants to be called though nothing happens. */
  nextWakeMs(): number
}

export interface LoopKnobs {
  /** How long the worker looks for new entries before it sleeps, microseconds. */
  readonly spinMicros: number
  /** Length of a background slice while requests come, and while none do. */
  readonly busySliceMs: number
  readonly idleSliceMs: number
  /** While none do, background work rests this long behind each slice: cores are for clients. */
  readonly idleRestMs: number
  /** Requests are served at least this long between two background slices. */
  readonly busyGapMs: number
}

const defaultKnobs: LoopKnobs = {
  // What a client at queue depth 1 takes for its next request on a bad day: less, and one bad
  // spell, in which everybody sleeps between requests, goes on for ever.
  spinMicros: 250,
  busySliceMs: 1, // what a request may wait for it
  idleSliceMs: 0.5,
  idleRestMs: 1, // clients need not be seen here: the main thread serves small reads itself
  busyGapMs: 4 // a fifth of a busy worker's time goes to compaction
}

/** Deeper queues keep everybody busy anyway, and then a core that spins is missed. */
const SPIN_DEPTH_MAX = 2

/** A lost wake-up would be a bug; this bounds what it could cost. */
const SLEEP_MS_MAX = 1000

/** The worker's side of a channel: drains, executes, completes, wakes the main thread, sleeps. */
export class WorkerLoop<Op extends WorkerOp> {
  private readonly control: Int32Array
  private readonly submissions: Uint32Array
  private readonly completions: Uint32Array
  private readonly bell: Int32Array
  private readonly ops: Op[] = []
  private readonly slots = new Uint32Array(BATCH_OPS_MAX)
  private readonly knobs: LoopKnobs
  private readonly spinner: Spin
  private head = 0
  private completed = 0
  /** Entries that come together, about: those of the largest batch lately. */
  private depth = 0
  /** Milliseconds not asleep since the loop began. */
  busyMs = 0

  constructor(
    memory: ChannelMemory,
    bell: SharedArrayBuffer,
    createOp: () => Op,
    knobs: Partial<LoopKnobs> = {}
  ) {
    this.control = new Int32Array(memory.control)
    this.submissions = new Uint32Array(memory.submissions)
    this.completions = new Uint32Array(memory.completions)
    this.bell = new Int32Array(bell)
    this.knobs = { ...defaultKnobs, ...knobs }
    this.spinner = new Spin(this.knobs.spinMicros, this.hasEntries)
    for (let at = 0; at < BATCH_OPS_MAX; at++) this.ops.push(createOp())
    Atomics.store(this.control, THREAD, threadId)
  }

  /** Serves until the main thread asks to close; every entry has been answered then. */
  run(engine: WorkerEngine<Op>): void {
    Atomics.store(this.control, STATE, WorkerState.Serving)
    ringMain(this.bell)
    let more = true
    let awakeAt = performance.now()
    let sliceEndAt = awakeAt
    // When background work wants to be looked at, busy or not.
    let wakeAt = awakeAt
    let servedAt = Number.NEGATIVE_INFINITY
    for (;;) {
      const count = this.drain()
      if (count > 0) {
        this.executeBatch(engine, count)
        const now = performance.now()
        servedAt = now
        if (!more && now < wakeAt && engine.nextWakeMs() > 0) continue
        if (now - sliceEndAt < this.knobs.busyGapMs) continue
        more = engine.background(this.knobs.busySliceMs)
        sliceEndAt = performance.now()
        wakeAt = sliceEndAt + engine.nextWakeMs()
      } else if (Atomics.load(this.control, COMMAND) === Command.Close) {
        return
      } else if (more || performance.now() >= wakeAt || engine.nextWakeMs() <= 0) {
        const restMs = this.restMs(servedAt, sliceEndAt)
        if (restMs > 0) {
          if (this.spin()) continue
          this.busyMs += performance.now() - awakeAt
          if (this.sleep(restMs)) more = true
          awakeAt = performance.now()
          continue
        }
        more = engine.background(this.knobs.idleSliceMs)
        sliceEndAt = performance.now()
        wakeAt = sliceEndAt + engine.nextWakeMs()
        if (!more) continue
        this.busyMs += sliceEndAt - awakeAt
        this.sleep(this.knobs.idleRestMs)
        awakeAt = performance.now()
      } else if (!this.spin()) {
        const now = performance.now()
        this.busyMs += now - awakeAt
        // Woken without an entry: a sync that background work waits for is over.
        more = this.sleep(wakeAt - now)
        awakeAt = performance.now()
      }
    }
  }

  /** Between requests that come all the time background work rests as long as while they wait. */
  private restMs(servedAt: number, sliceEndAt: number): number {
    const now = performance.now()
    const { busyGapMs } = this.knobs
    return now - servedAt < busyGapMs ? sliceEndAt + busyGapMs - now : 0
  }

  private drain(): number {
    const waiting = (Atomics.load(this.control, SUBMISSION_TAIL) - this.head) | 0
    if (waiting === 0) return 0
    const count = Math.min(waiting, Atomics.load(this.control, BATCH_OPS))
    let blocks = 0
    for (let at = 0; at < count; at++) {
      const entry = entryAt(this.head + at)
      const op = this.ops[at]!
      this.slots[at] = readSubmission(this.submissions, entry, op)
      blocks += op.payloadBlocks
      if (blocks >= BATCH_BLOCKS_MAX) return at + 1
    }
    return count
  }

  private executeBatch(engine: WorkerEngine<Op>, count: number): void {
    // Should this thread die in `execute`, the main thread reads here what it died of.
    Atomics.store(this.control, EXECUTING_FROM, this.head)
    Atomics.store(this.control, EXECUTING, count)
    this.head = (this.head + count) | 0
    this.depth = Math.max(count, this.depth - 1)
    engine.execute(this.ops, count)
    for (let at = 0; at < count; at++) {
      const entry = entryAt(this.completed + at)
      writeCompletion(this.completions, entry, this.slots[at]!, this.ops[at]!)
    }
    this.completed = (this.completed + count) | 0
    Atomics.store(this.control, COMPLETION_TAIL, this.completed)
    Atomics.store(this.control, EXECUTING, 0)
    ringMain(this.bell)
  }

  /** Looks for new entries for a while; true when there are some. */
  private spin(): boolean {
    if (this.depth > SPIN_DEPTH_MAX) return false
    // One spinning worker at a time leaves the other cores to the clients and the main thread.
    if (Atomics.compareExchange(this.bell, SPINNER, 0, threadId) !== 0) return false
    const found = this.spinner.run()
    Atomics.store(this.bell, SPINNER, 0)
    return found
  }

  private readonly hasEntries = (): boolean =>
    Atomics.load(this.control, SUBMISSION_TAIL) !== this.head ||
    Atomics.load(this.control, COMMAND) !== Command.Run

  /** Sleeps until woken, at most `wakeMs`; whether something but a new entry woke it. */
  private sleep(wakeMs: number): boolean {
    let woken = false
    // Store, then look again: the main thread publishes, then looks whether we sleep.
    Atomics.store(this.control, WORKER_ASLEEP, 1)
    if (
      Atomics.load(this.control, SUBMISSION_TAIL) === this.head &&
      Atomics.load(this.control, COMMAND) === Command.Run
    ) {
      const timeoutMs = Math.min(Math.max(wakeMs, 0), SLEEP_MS_MAX)
      woken = Atomics.wait(this.control, WORKER_ASLEEP, 1, timeoutMs) !== 'timed-out'
    }
    Atomics.store(this.control, WORKER_ASLEEP, 0)
    return woken && Atomics.load(this.control, SUBMISSION_TAIL) === this.head
  }
}
