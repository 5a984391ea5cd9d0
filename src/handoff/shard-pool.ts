import type { Worker } from 'node:worker_threads'
import { Piscina } from 'piscina'
import { AssertionError, assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { SharedArena } from './arena.ts'
import { type ChannelMemory, createChannelMemory } from './channel.ts'
import { MainBell } from './main-bell.ts'
import { type ClientOp, ShardClient } from './shard-client.ts'
import { type Fdatasync, SyncRounds } from './sync-rounds.ts'
import type { LoopKnobs } from './worker-loop.ts'

/** What a shard's worker is started with. */
export interface ShardTask {
  readonly shard: number
  readonly memory: ChannelMemory
  readonly bell: SharedArrayBuffer
  readonly arena: SharedArrayBuffer
  readonly knobs: Partial<LoopKnobs>
  /** Whatever the engine behind the worker needs; it is cloned. */
  readonly config: unknown
}

/**
 * How a worker's task ends. Errors become plain data, because classes and codes do not survive
 * the way between threads. `refused`: the store cannot be opened or closed; `crashed`: a bug.
 */
export type ShardTaskEnd =
  | { readonly kind: 'closed' }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly message: string }
  | { readonly kind: 'crashed'; readonly message: string }

/** A message of a worker for the log. */
export interface WorkerLog {
  readonly log: 'debug' | 'info' | 'warn' | 'error'
  readonly shard: number
  readonly message: string
  readonly fields: Record<string, unknown>
}

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
  private readonly piscina: Piscina<ShardTask, ShardTaskEnd>
  private readonly bell = new MainBell(() => this.poll())
  private readonly threadEnds = new Map<number, Promise<void>>()
  private readonly tasks: Promise<void>[] = []
  private started: (() => void)[] = []
  private closing = false

  constructor(options: ShardPoolOptions) {
    this.options = options
    this.limits = { ...defaultRestarts, ...options.restarts }
    this.piscina = new Piscina({
      filename: options.worker.href,
      minThreads: options.shards,
      maxThreads: options.shards,
      // See OpenFiles.
      trackUnmanagedFds: false,
      recordTiming: false
    })
    this.piscina.on('message', (message: WorkerLog) => options.log(message))
    this.piscina.on('error', (error: Error) => this.logPool('a worker thread failed', error))
    this.piscina.on('workerCreate', () => this.watchThreads())
    const clients: ShardClient<Op>[] = []
    for (let shard = 0; shard < options.shards; shard++) {
      const memory = createChannelMemory()
      const rounds = new SyncRounds(memory.syncBoard, {
        sync: options.fdatasync,
        onSync: (durationMs, failed) => options.onSync?.(shard, durationMs, failed)
      })
      const client = new ShardClient<Op>(shard, memory, rounds)
      clients.push(client)
      this.tasks.push(this.keepRunning(client, memory))
    }
    this.clients = clients
    this.bell.arm()
  }

  /** The worker threads, for tests that end one. */
  get threads(): readonly Worker[] {
    return this.piscina.threads
  }

  /** Resolves when every shard serves or has failed: see each client's `state` and `failure`. */
  async start(): Promise<void> {
    while (this.clients.some((client) => client.state === 'starting')) {
      await new Promise<void>((resolve) => this.started.push(resolve))
    }
  }

  /** Answers everything that workers completed; true when there was anything. */
  readonly poll = (): boolean => {
    let answered = 0
    for (const client of this.clients) answered += client.poll()
    // Answers may have led to new requests.
    if (answered > 0) this.ring()
    if (this.started.length > 0) this.tellStarted()
    return answered > 0
  }

  /** Publishes everything submitted so far. */
  ring(): void {
    for (const client of this.clients) client.ring()
  }

  /** Finishes what is in flight, makes it durable, and ends the workers in order. */
  async close(): Promise<void> {
    assert(!this.closing, 'a pool is closed once')
    await Promise.all(this.clients.map((client) => this.drain(client)))
    this.closing = true
    for (const client of this.clients) client.sendClose()
    const timeout = new AbortController()
    const timer = setTimeout(() => timeout.abort(), this.options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS)
    const timedOut = new Promise<void>((resolve) => {
      timeout.signal.addEventListener('abort', () => {
        this.logPool('workers did not close in time', new Error('timeout'))
        resolve()
      })
    })
    await Promise.race([Promise.all(this.tasks), timedOut])
    clearTimeout(timer)
    this.bell.close()
    await this.piscina.destroy()
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
      this.options.log({
        log: 'warn',
        shard: client.shard,
        message: 'shard worker ended, starting it again',
        fields: { reason: end.message, deaths: deaths.length }
      })
      if (deaths.length > 1) {
        await sleep(this.limits.backoffMs * 2 ** Math.min(deaths.length - 2, 10))
      }
    }
  }

  private giveUp(client: ShardClient<Op>, end: ShardTaskEnd): void {
    assert(end.kind !== 'closed', 'a closed shard is not given up')
    this.options.log({
      log: 'error',
      shard: client.shard,
      message: 'shard failed',
      fields: { reason: end.message }
    })
    client.fail(end.message, end.kind === 'refused' ? end.code : ErrorCode.ShardFailed)
    this.tellStarted()
  }

  /** Runs one worker until its thread can touch nothing any more. */
  private async runWorker(client: ShardClient<Op>, memory: ChannelMemory): Promise<ShardTaskEnd> {
    const task: ShardTask = {
      shard: client.shard,
      memory,
      bell: this.bell.shared,
      arena: this.options.arena.shared,
      knobs: this.options.knobs ?? {},
      config: this.options.configOf(client.shard)
    }
    this.watchThreads()
    try {
      return await this.piscina.run(task)
    } catch (error) {
      // The thread ended, or is about to: the error may be here before.
      await this.threadEnds.get(client.threadId)
      return { kind: 'crashed', message: error instanceof Error ? error.message : String(error) }
    }
  }

  /** Remembers every thread's end by its id, which the thread forgets when it ends. */
  private watchThreads(): void {
    for (const worker of this.piscina.threads) {
      const id = worker.threadId
      if (id <= 0 || this.threadEnds.has(id)) continue
      const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
      this.threadEnds.set(id, ended)
      void ended.then(() => this.threadEnds.delete(id))
    }
  }

  private tellStarted(): void {
    const started = this.started
    this.started = []
    for (const tell of started) tell()
  }

  private logPool(message: string, error: Error): void {
    this.options.log({ log: 'error', shard: -1, message, fields: { reason: error.message } })
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Runs a worker's task: an engine's failure or bug becomes a ShardTaskEnd. */
export function shardTaskEnd(run: () => void): ShardTaskEnd {
  try {
    run()
    return { kind: 'closed' }
  } catch (error) {
    if (error instanceof StoreError) {
      return { kind: 'refused', code: error.code, message: error.message }
    }
    const name = error instanceof AssertionError ? 'assertion failed: ' : ''
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
    return { kind: 'crashed', message: name + stack }
  }
}
