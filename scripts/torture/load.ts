/** Random requests from several connections that check what they read, until the server is gone. */
import type { Random } from '../../src/core/clock.ts'
import { BLOCK_BYTES, type BlockModel, fillBlock, stampOf } from './block-model.ts'
import { Disconnected, NbdClient } from './nbd-client.ts'

const BLOCKS_MAX = 64

export interface LoadShape {
  readonly connections: number
  /** On each of them. */
  readonly inFlight: number
}
const FULL: LoadShape = { connections: 3, inFlight: 16 }

export interface LoadCounts {
  reads: number
  writes: number
  zeroes: number
  flushes: number
}

export const below = (random: Random, limit: number): number => random.u32() % limit

export class Load {
  readonly counts: LoadCounts = { reads: 0, writes: 0, zeroes: 0, flushes: 0 }
  /** Writes may be refused because there is no room; each of their blocks is old or new then. */
  mayBeFull = false
  refused = 0
  readonly #model: BlockModel
  readonly #random: Random
  readonly #shape: LoadShape
  #stopped = false

  constructor(model: BlockModel, random: Random, shape: LoadShape = FULL) {
    this.#model = model
    this.#random = random
    this.#shape = shape
  }

  /** Resolves when `stop` was called, or every connection was lost. @throws on a wrong answer */
  async run(port: number, volume: string): Promise<void> {
    this.#stopped = false
    const clients = await Promise.all(
      Array.from({ length: this.#shape.connections }, () => NbdClient.connect(port, volume))
    )
    const lanes = clients.flatMap((client) =>
      Array.from({ length: this.#shape.inFlight }, () => this.#lane(client))
    )
    try {
      await Promise.all(lanes)
    } finally {
      for (const client of clients) client.destroy()
      await Promise.allSettled(lanes)
    }
  }

  stop(): void {
    this.#stopped = true
  }

  async #lane(client: NbdClient): Promise<void> {
    try {
      while (!this.#stopped) await this.#step(client)
    } catch (error) {
      if (!(error instanceof Disconnected)) throw error
    }
  }

  async #step(client: NbdClient): Promise<void> {
    const dice = below(this.#random, 100)
    // Mostly single blocks, sometimes runs; a few hot blocks are written again and again.
    const count = dice % 4 === 0 ? 1 + below(this.#random, BLOCKS_MAX) : 1
    const span = below(this.#random, 3) === 0 ? BLOCKS_MAX * 4 : this.#model.blockCount
    const first = below(this.#random, span - count + 1)
    if (dice < 2) await this.#flush(client)
    else if (dice < 30) await this.#read(client, first, count)
    else if (this.#model.tryClaim(first, count)) await this.#change(client, first, count, dice)
  }

  async #flush(client: NbdClient): Promise<void> {
    const settle = this.#model.beginFlush()
    await client.flush()
    settle()
    this.counts.flushes++
  }

  /** Claims the blocks, so that no write changes them while they are read. */
  async #read(client: NbdClient, first: number, count: number): Promise<void> {
    if (!this.#model.tryClaim(first, count)) return
    const bytes = await client.read(first * BLOCK_BYTES, count * BLOCK_BYTES)
    checkBlocks(bytes, first, (block, stamp) => this.#model.checkRunning(block, stamp))
    this.#model.release(first, count)
    this.counts.reads++
  }

  async #change(client: NbdClient, first: number, count: number, dice: number): Promise<void> {
    const zeroes = dice < 40
    const fua = dice >= 95
    const stamp = this.#model.issue(first, count, zeroes)
    const [offset, length] = [first * BLOCK_BYTES, count * BLOCK_BYTES]
    const sent = zeroes
      ? dice < 35
        ? client.trim(offset, length)
        : client.writeZeroes(offset, length)
      : client.write(offset, stampedBlocks(first, count, stamp), fua)
    const isDone = await sent.then(
      () => true,
      (thrown: unknown) => this.#isRefusal(thrown)
    )
    if (isDone) this.#model.acknowledge(first, count, fua, stamp)
    this.#model.release(first, count)
    if (!isDone) return
    if (zeroes) this.counts.zeroes++
    else this.counts.writes++
  }

  /** False, which it may be; throws what it may not. */
  #isRefusal(thrown: unknown): false {
    if (!this.mayBeFull || !(thrown instanceof Error) || !/NBD error 28$/.test(thrown.message)) {
      throw thrown
    }
    this.refused++
    return false
  }
}

function stampedBlocks(first: number, count: number, stamp: number): Buffer {
  const words = new Int32Array((count * BLOCK_BYTES) / 4)
  for (let index = 0; index < count; index++) {
    fillBlock(words, (index * BLOCK_BYTES) / 4, first + index, stamp)
  }
  return Buffer.from(words.buffer)
}

/** @throws an error that names the first block for which `check` has an objection */
export function checkBlocks(
  bytes: Buffer,
  first: number,
  check: (block: number, stamp: number) => string
): void {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : Buffer.from(new Uint8Array(bytes))
  const words = new Int32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4)
  for (let at = 0; at < words.length; at += BLOCK_BYTES / 4) {
    const block = first + (at * 4) / BLOCK_BYTES
    const stamp = stampOf(words, at, block)
    const expected = check(block, stamp)
    if (expected !== '') throw new Error(`block ${block} holds write ${stamp}, not ${expected}`)
  }
}
