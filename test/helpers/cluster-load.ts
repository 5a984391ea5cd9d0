/** A verifying load on a volume of a cluster, whose members and gateways come and go. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BLOCK_BYTES, BlockModel } from '../../scripts/torture/block-model.ts'
import { checkBlocks, Load, type LoadCounts } from '../../scripts/torture/load.ts'
import { NbdClient } from '../../scripts/torture/nbd-client.ts'
import { seededRandom } from '../../scripts/torture/seeded-random.ts'

const READ_BYTES = 1024 * 1024
/** Enough to have writes in flight all the time, and to leave processors for the servers. */
const SHAPE = { connections: 2, inFlight: 6 }

const totalOf = ({ reads, writes, zeroes, flushes }: LoadCounts): number =>
  reads + writes + zeroes + flushes

export class ClusterLoad {
  readonly volume: string
  readonly model: BlockModel
  readonly #load: Load
  #running: Promise<void> | null = null
  #isOver = false
  #failure: unknown = null

  constructor(volume: string, volumeBytes: number, seed: number) {
    this.volume = volume
    this.model = new BlockModel(volumeBytes / BLOCK_BYTES)
    this.#load = new Load(this.model, seededRandom(seed), SHAPE)
  }

  get counts(): LoadCounts {
    return this.#load.counts
  }

  /** Whether writes may be refused for want of room; how many were. */
  set mayBeFull(may: boolean) {
    this.#load.mayBeFull = may
  }

  get refused(): number {
    return this.#load.refused
  }

  begin(port: number): void {
    this.#isOver = false
    this.#running = this.#load
      .run(port, this.volume)
      .catch((error: unknown) => {
        this.#failure = error
      })
      .finally(() => {
        this.#isOver = true
      })
  }

  /**
   * Returns after how many milliseconds `count` more requests were answered.
   * @throws when that takes longer than `withinMs`, connections were lost, or an answer was wrong
   */
  async goesOn(withinMs: number, count = 200): Promise<number> {
    const startMs = performance.now()
    const wanted = totalOf(this.counts) + count
    while (totalOf(this.counts) < wanted) {
      this.check()
      const passedMs = performance.now() - startMs
      if (passedMs > withinMs) throw new Error(`no ${count} answers within ${withinMs} ms`)
      await sleep(10)
    }
    return performance.now() - startMs
  }

  /** Every connection was lost, or `stop` was called; nothing was wrong so far. */
  get isOver(): boolean {
    if (this.#failure !== null) throw this.#failure
    return this.#isOver
  }

  /** @throws when connections were lost, or an answer was wrong */
  check(): void {
    if (this.#failure !== null) throw this.#failure
    if (this.#isOver) throw new Error('the connections were lost')
  }

  /** Everything in flight is answered. @throws as `goesOn` */
  async stop(withinMs = 20_000): Promise<void> {
    this.check()
    this.#load.stop()
    await within(this.#running ?? Promise.resolve(), withinMs, 'requests in flight are answered')
    if (this.#failure !== null) throw this.#failure
  }

  /** Waits until all connections are lost. @throws on a wrong answer */
  async breaks(withinMs: number): Promise<void> {
    await within(this.#running ?? Promise.resolve(), withinMs, 'the connections are lost')
    if (this.#failure !== null) throw this.#failure
  }

  /** Reads the whole volume. @throws when a block holds what `check` objects to */
  async verify(
    client: NbdClient,
    check: (block: number, stamp: number) => string = (block, stamp) =>
      this.model.checkRunning(block, stamp)
  ): Promise<void> {
    const volumeBytes = this.model.blockCount * BLOCK_BYTES
    for (let offset = 0; offset < volumeBytes; offset += READ_BYTES) {
      const reading = client.read(offset, Math.min(READ_BYTES, volumeBytes - offset))
      const bytes = await within(reading, 20_000, `reading at ${offset}`)
      checkBlocks(bytes, offset / BLOCK_BYTES, check)
    }
  }

  /** As above through a connection of its own, which is there within `withinMs`. */
  async verifyAt(port: number, withinMs = 20_000): Promise<void> {
    const client = await connectWithin(port, this.volume, withinMs)
    try {
      await this.verify(client)
    } finally {
      client.destroy()
    }
  }
}

/** Tries until the server serves the volume. */
export async function connectWithin(
  port: number,
  volume: string,
  withinMs: number
): Promise<NbdClient> {
  const deadlineMs = performance.now() + withinMs
  let last: unknown = null
  for (;;) {
    const leftMs = deadlineMs - performance.now()
    if (leftMs <= 0) throw new Error(`no connection to ${volume} in ${withinMs} ms: ${last}`)
    try {
      return await within(NbdClient.connect(port, volume), leftMs, 'a connection')
    } catch (error) {
      last = error
      await sleep(50)
    }
  }
}

/** @throws when `promise` is not settled in time */
export async function within<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  const abort = new AbortController()
  const late = sleep(ms, null, { signal: abort.signal }).then(
    () => {
      throw new Error(`not within ${Math.round(ms)} ms: ${what}`)
    },
    () => new Promise<never>(() => {}) // the other one won
  )
  try {
    return await Promise.race([promise, late])
  } finally {
    abort.abort()
  }
}
