import type { Worker } from 'node:worker_threads'
import { assert } from '../core/assert.ts'
import { ErrorCode } from '../core/errors.ts'
import type { SharedArena } from './arena.ts'
import { type ChannelMemory, createChannelMemory } from './channel.ts'
import { LoopSpin } from './loop-spin.ts'
import { freeSpinner, MainBell } from './main-bell.ts'
import { type ClientOp, ShardClient } from './shard-client.ts'
import type { ShardTask, ShardTaskEnd, WorkerLog } from './shard-task.ts'
import { ShardThread } from './shard-thread.ts'
import { Spin } from './spin.ts'
import { type Fdatasync, SyncRounds } from './sync-rounds.ts'
import type { LoopKnobs } from './worker-loop.ts'

export interface ShardPoolOptions {
  readonly shards: number
  /** The worker's module: exports by default `(task: ShardTask) => ShardTaskEnd`. */
  readonly worker: URL
  readonly arena: SharedArena
  readonly configOf: (shard: number) => unknown
  readonly log: (entry: WorkerLog) => void
  readonly knobs?: Partial<LoopKnobs>
  readonly restarts?: Partial<RestartLimits>
  readonly closeTimeoutMs?: number
  /** How long the main thread looks for answers when few requests are out, microseconds. */
  readonly spinMicros?: number
  /** For tests: the system call behind flushes. */
  readonly fdatasync?: Fdatasync
  readonly onSync?: (shard: number, durationMs: number, failed: boolean) => void
}

interface RestartLimits {
  /** More deaths than this within the window, and the shard is given up. */
  readonly deathsMax: number
  readonly windowMs: number
  /** Pause before the second restart in a window; it doubles with each. */
  readonly backoffMs: number
}

const defaultRestarts: RestartLimits = {
  deathsMax: 8, // a request that kills takes three, and must not use up the budget
  windowMs: 60_000,
  backoffMs: 20
}
/** A read from the page cache takes 10 microseconds, a small append 20. */
const SPIN_MICROS_DEFAULT = 50
/** What a client takes for its next request, when nobody has to be woken. */
const LOOP_SPIN_MICROS_DEFAULT = 100
/** Deeper queues keep everybody busy anyway, and then a core that spins is missed. */
const SPIN_DEPTH_MAX = 2
/** A checkpoint of a large index takes seconds; after this the files alone must do. */
const CLOSE_TIMEOUT_MS = 60_000

/**
 * The shards' workers: one long-running Piscina task each, started again when it dies, and closed
 * in order. `clients[n]` is the way to shard n.
 */
export class ShardPool<Op extends ClientOp<Op>> {
  readonly clients: readonly ShardClient<Op>[]
  /** Restarts of workers, for the metrics. */
  restarts = 0
  private readonly options: ShardPoolOptions
  private readonly limits: RestartLimits
  private readonly bell: MainBell
  private polling = false
  private readonly spin: Spin
  private readonly loopSpin: LoopSpin
  /** The thread of each shard that has one. */
  private readonly running: (ShardThread | null)[] = []
  private readonly tasks: Promise<void>[] = []
  private started: (() => void)[] = []
  private closing = false

  constructor(options: ShardPoolOptions) {
    this.options = options
    this.limits = { ...defaultRestarts, ...options.restarts }
    this.bell = new MainBell(this.poll)
    this.loopSpin = new LoopSpin(this.bell.words, options.spinMicros ?? LOOP_SPIN_MICROS_DEFAULT)
    this.spin = new Spin(options.spinMicros ?? SPIN_MICROS_DEFAULT, this.hasAnswers)
    const clients: ShardClient<Op>[] = []
    for (let shard = 0; shard < options.shards; shard++) {
      const memory = createChannelMemory()
      const rounds = new SyncRounds(memory.syncBoard, {
        sync: options.fdatasync,
        onSync: (durationMs, failed) => options.onSync?.(shard, durationMs, failed)
      })
      const client = new ShardClient<Op>(shard, memory, rounds)
      clients.push(client)
      this.running.push(null)
      this.tasks.push(this.keepRunning(client, memory))
    }
    this.clients = clients
    this.bell.arm()
  }

  /** The worker threads, for tests that end one. */
  get threads(): readonly Worker[] {
    return this.running.flatMap((thread) => thread?.worker ?? [])
  }

  /** Resolves when every shard serves or has failed: see each client's `state` and `failure`. */
  async start(): Promise<void> {
    while (this.clients.some((client) => client.state === 'starting')) {
      await new Promise<void>((resolve) => this.started.push(resolve))
    }
  }

  /** Answers everything that workers completed; true when there was anything. */
  readonly poll = (): boolean => {
    if (this.polling) return false
    this.polling = true
    let answered = 0
    for (const client of this.clients) answered += client.poll()
    this.polling = false
    // Answers may have led to new requests.
    if (answered > 0) this.publish()
    if (this.started.length > 0) this.tellStarted()
    return answered > 0
  }

  /** Publishes everything submitted so far; waits a little for few requests if `isLast`. */
  ring(isLast = true): void {
    if (this.polling || !isLast || !this.isShallow()) {
      this.publish()
      return
    }
    this.bell.disarm()
    if (this.publish() && this.spin.run()) this.poll()
    this.bell.arm()
  }

  /** A request needed no worker: the next one is likely to come soon. */
  served(): void {
    this.loopSpin.touch()
  }

  private publish(): boolean {
    let published = false
    for (const client of this.clients) if (client.ring()) published = true
    return published
  }

  /** So few requests are out that their answers are worth waiting for, awake. */
  private isShallow(): boolean {
    let inFlight = 0
    for (const client of this.clients) inFlight += client.inFlightCount
    return inFlight > 0 && inFlight <= SPIN_DEPTH_MAX
  }

  private readonly hasAnswers = (): boolean => {
    for (const client of this.clients) if (client.hasAnswers) return true
    return false
  }

  /** Finishes what is in flight, makes it durable, and ends the workers in order. */
  async close(): Promise<void> {
    assert(!this.closing, 'a pool is closed once')
    const timeoutMs = this.options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS
    const timer = setTimeout(() => this.endThreads(), timeoutMs)
    await Promise.all(this.clients.map((client) => this.drain(client)))
    this.closing = true
    for (const client of this.clients) client.sendClose()
    await Promise.all(this.tasks)
    clearTimeout(timer)
    this.bell.close()
  }

  private endThreads(): void {
    this.closing = true
    for (const [shard, thread] of this.running.entries()) {
      if (thread === null) continue
      this.log('error', shard, 'shard did not close in time', '')
      void thread.destroy()
    }
  }

  private async drain(client: ShardClient<Op>): Promise<void> {
    await new Promise<void>((resolve) => client.beginClose(resolve))
    if (client.state === 'failed') return
    await new Promise<void>((resolve) => client.flush(() => resolve()))
  }

  /** The life of one shard: workers, one after the other, until one ends as asked or fails it. */
  private async keepRunning(client: ShardClient<Op>, memory: ChannelMemory): Promise<void> {
    const deaths: number[] = []
    for (;;) {
      client.prepareStart()
      if (this.closing) client.sendClose()
      const end = await this.runWorker(client, memory)
      if (end.kind === 'closed') {
        client.afterClose()
        return
      }
      await new Promise<void>((resolve) => client.afterDeath(resolve))
      const now = performance.now()
      while (deaths.length > 0 && deaths[0]! < now - this.limits.windowMs) deaths.shift()
      deaths.push(now)
      const firstOpenRefused = end.kind === 'refused' && !client.everServed
      if (firstOpenRefused || this.closing || deaths.length > this.limits.deathsMax) {
        this.giveUp(client, end)
        return
      }
      this.restarts++
      client.restarts++
      this.log('warn', client.shard, 'shard worker ended, starting it again', end.message)
      if (deaths.length > 1) {
        await sleep(this.limits.backoffMs * 2 ** Math.min(deaths.length - 2, 10))
      }
    }
  }

  private giveUp(client: ShardClient<Op>, end: ShardTaskEnd): void {
    assert(end.kind !== 'closed', 'a closed shard is not given up')
    this.log('error', client.shard, 'shard failed', end.message)
    client.fail(end.message, end.kind === 'refused' ? end.code : ErrorCode.ShardFailed)
    this.tellStarted()
  }

  /** Runs one worker until its thread can touch nothing any more. */
  private async runWorker(client: ShardClient<Op>, memory: ChannelMemory): Promise<ShardTaskEnd> {
    const task: ShardTask = {
      shard: client.shard,
      memory,
      bell: this.bell.shared,
      arena: this.options.arena.memory,
      scratch: this.options.arena.scratchOf(client.shard),
      knobs: this.options.knobs ?? {},
      config: this.options.configOf(client.shard)
    }
    const thread = new ShardThread(this.options.worker, this.options.log)
    this.running[client.shard] = thread
    const end = await thread.run(task)
    this.running[client.shard] = null
    freeSpinner(this.bell.words, client.threadId)
    // Piscina may just have replaced a thread that died; this needs no waiting for.
    const destroyed = thread.destroy()
    if (this.closing) await destroyed
    return end
  }

  private tellStarted(): void {
    const started = this.started
    this.started = []
    for (const tell of started) tell()
  }

  private log(log: WorkerLog['log'], shard: number, message: string, reason: string): void {
    this.options.log({ log, shard, message, fields: { reason } })
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
