/** The load of `torus bench`: keeps each connection's requests in flight until the time is over. */
import { randomFillSync } from 'node:crypto'
import { NbdClient, type NbdEndpoint, nbdErrorText } from '../../nbd/client.ts'
import { NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE } from '../../nbd/protocol.ts'
import { CommandError } from '../errors.ts'
import { Latencies } from './latencies.ts'

export interface LoadPlan {
  readonly endpoint: NbdEndpoint
  readonly volume: string
  readonly blockBytes: number
  /** Requests in flight of each connection. */
  readonly depth: number
  readonly connections: number
  readonly seconds: number
  readonly pattern: 'random' | 'sequential'
  /** 0..100; the rest are writes. */
  readonly readPercent: number
  /** A flush after so many writes of a connection; 0 for none. */
  readonly fsyncEvery: number
}

export const loadKinds = ['read', 'write', 'flush'] as const
export type LoadKind = (typeof loadKinds)[number]
const commands: readonly number[] = [NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_FLUSH]
const READ = 0
const WRITE = 1
const FLUSH = 2

/** By kind, in the order of `loadKinds`. */
export type LoadCounts = readonly Latencies[]

export type LoadEnd =
  | { readonly kind: 'time' }
  | { readonly kind: 'interrupted' }
  | { readonly kind: 'failed'; readonly error: CommandError }

/** What was in flight at the end of the time, and the flush after it, may take this long. */
const DRAIN_MS = 60_000
/** Writes start anywhere in so many bytes of noise, so that their contents differ. */
const NOISE_SPARE_BYTES = 64 * 1024

const newCounts = (): Latencies[] => loadKinds.map(() => new Latencies())

export class Load {
  readonly plan: LoadPlan
  readonly total: LoadCounts = newCounts()
  /** Since the last `takeRecent`. */
  readonly recent: LoadCounts = newCounts()
  /** From the first request to the last answer. */
  seconds = 0
  /** Of the flush at the end, which covers all writes; 0 without writes. */
  lastFlushUs = 0
  ending = false
  readonly #lanes: Lane[] = []
  #busyLanes = 0
  #end: LoadEnd = { kind: 'time' }
  #drained: () => void = () => {}
  #flushed: (us: number) => void = () => {}
  #lateTimer: NodeJS.Timeout | undefined

  constructor(plan: LoadPlan) {
    this.plan = plan
  }

  /** Connects. @throws StoreError when a connection cannot be had */
  async open(): Promise<{ sizeBytes: number; flags: number }> {
    const { plan } = this
    const noise = Buffer.alloc(plan.readPercent < 100 ? plan.blockBytes + NOISE_SPARE_BYTES : 0)
    randomFillSync(noise)
    try {
      for (let at = 0; at < plan.connections; at++) {
        const client = await NbdClient.connect({
          endpoint: plan.endpoint,
          exportName: plan.volume,
          slots: plan.depth,
          payloadBytesMax: plan.readPercent < 100 ? plan.blockBytes : 0
        })
        this.#lanes.push(new Lane(this, client, at, noise))
        client.onLost = (reason) => this.#lost(reason)
      }
    } catch (error) {
      this.close()
      throw error
    }
    const { sizeBytes, flags } = this.#lanes[0]!.client
    return { sizeBytes, flags }
  }

  /** Runs to the end of the time, to `stop`, or to the first failure. */
  async run(): Promise<LoadEnd> {
    const startedMs = performance.now()
    const drained = new Promise<void>((resolve) => {
      this.#drained = resolve
    })
    const timer = setTimeout(() => this.#finish({ kind: 'time' }), this.plan.seconds * 1000)
    this.#busyLanes = this.#lanes.length
    for (const lane of this.#lanes) lane.start()
    await drained
    clearTimeout(timer)
    this.seconds = (performance.now() - startedMs) / 1000
    this.takeRecent()
    const hasWritten = this.total[WRITE]!.count > 0
    if (hasWritten && this.#end.kind !== 'failed') this.lastFlushUs = await this.#flush()
    clearTimeout(this.#lateTimer)
    return this.#end
  }

  /** Ends early; what was measured so far counts. */
  stop(): void {
    this.#finish({ kind: 'interrupted' })
  }

  /** Adds what is recent to the total. */
  takeRecent(): void {
    for (const [at, latencies] of this.recent.entries()) this.total[at]!.drain(latencies)
  }

  close(): void {
    for (const { client } of this.#lanes) client.close()
  }

  /** All requests of a lane were answered, and it asks for no more. */
  laneDone(): void {
    this.#busyLanes--
    if (this.#busyLanes === 0) this.#drained()
  }

  fail(message: string): void {
    if (this.#end.kind === 'failed') return
    this.ending = true
    this.#end = { kind: 'failed', error: new CommandError('Unavailable', message) }
    this.#drained()
    this.#flushed(0)
  }

  /** Takes how long it took, microseconds. */
  #flush(): Promise<number> {
    return new Promise((resolve) => {
      this.#flushed = resolve
      this.#lanes[0]!.flushAlone(resolve)
    })
  }

  #lost(reason: string): void {
    const { volume } = this.plan
    this.fail(`the connection to volume "${volume}" broke in the middle of the run: ${reason}`)
  }

  #finish(end: LoadEnd): void {
    if (this.ending) return
    this.ending = true
    this.#end = end
    const late = `requests in flight were not answered within ${DRAIN_MS / 1000} s`
    this.#lateTimer = setTimeout(() => this.fail(late), DRAIN_MS)
  }
}

/** One connection with its requests. */
class Lane {
  readonly client: NbdClient
  readonly #load: Load
  readonly #kinds: Uint8Array
  readonly #offsets: Float64Array
  readonly #startedMs: Float64Array
  readonly #noise: Buffer
  /** Blocks of the volume that whole requests cover. */
  readonly #blocks: number
  #nextBlock: number
  #writesSinceFlush = 0
  #inFlight = 0
  /** Waits for the flush at the end. */
  #flushed: ((us: number) => void) | null = null

  constructor(load: Load, client: NbdClient, at: number, noise: Buffer) {
    const { depth, blockBytes, connections } = load.plan
    this.client = client
    this.#load = load
    this.#noise = noise
    this.#kinds = new Uint8Array(depth)
    this.#offsets = new Float64Array(depth)
    this.#startedMs = new Float64Array(depth)
    this.#blocks = Math.max(1, Math.floor(client.sizeBytes / blockBytes))
    // Sequential connections go round the whole volume, each from another place.
    this.#nextBlock = Math.floor((this.#blocks * at) / connections)
    client.onReply = (slot, error) => this.#answered(slot, error)
  }

  start(): void {
    for (let slot = 0; slot < this.#kinds.length; slot++) this.#next(slot)
    this.client.send()
  }

  /** A flush when nothing else is in flight; tells how long it took, microseconds. */
  flushAlone(done: (us: number) => void): void {
    this.#flushed = done
    this.#submit(0, FLUSH)
    this.client.send()
  }

  #next(slot: number): void {
    const { fsyncEvery, readPercent } = this.#load.plan
    if (fsyncEvery > 0 && this.#writesSinceFlush >= fsyncEvery) {
      this.#writesSinceFlush = 0
      this.#submit(slot, FLUSH)
    } else if (readPercent === 100 || (readPercent > 0 && Math.random() * 100 < readPercent)) {
      this.#submit(slot, READ)
    } else {
      this.#writesSinceFlush++
      this.#submit(slot, WRITE)
    }
  }

  #submit(slot: number, kind: number): void {
    const { blockBytes } = this.#load.plan
    const offset = kind === FLUSH ? 0 : this.#nextOffset()
    this.#kinds[slot] = kind
    this.#offsets[slot] = offset
    this.#inFlight++
    this.#startedMs[slot] = performance.now()
    if (kind === WRITE) {
      const noiseAt = Math.floor(Math.random() * NOISE_SPARE_BYTES)
      this.client.submit(slot, NBD_CMD_WRITE, offset, blockBytes, this.#noise, noiseAt)
    } else {
      this.client.submit(slot, commands[kind]!, offset, kind === FLUSH ? 0 : blockBytes)
    }
  }

  #nextOffset(): number {
    const { pattern, blockBytes } = this.#load.plan
    if (pattern === 'random') return Math.floor(Math.random() * this.#blocks) * blockBytes
    const block = this.#nextBlock
    this.#nextBlock = block + 1 < this.#blocks ? block + 1 : 0
    return block * blockBytes
  }

  #answered(slot: number, error: number): void {
    const kind = this.#kinds[slot]!
    const us = (performance.now() - this.#startedMs[slot]!) * 1000
    this.#inFlight--
    if (error !== 0) {
      const where = kind === FLUSH ? '' : ` at byte ${this.#offsets[slot]}`
      this.#load.fail(`a ${loadKinds[kind]}${where} failed: ${nbdErrorText(error)}`)
      return
    }
    if (this.#flushed !== null) {
      this.#flushed(us)
      return
    }
    this.#load.recent[kind]!.recordUs(us)
    if (!this.#load.ending) this.#next(slot)
    else if (this.#inFlight === 0) this.#load.laneDone()
  }
}
