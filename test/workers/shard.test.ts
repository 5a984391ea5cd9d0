import { strictEqual } from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { suite } from 'uvu'
import { systemClock, systemRandom } from '../../src/core/clock.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { SharedArena } from '../../src/handoff/arena.ts'
import { ShardPool, type ShardPoolOptions } from '../../src/handoff/shard-pool.ts'
import type { BlockOp } from '../../src/replication/block-store.ts'
import { LocalStore } from '../../src/replication/local-store.ts'
import { DiskFiles } from '../../src/shard/disk-files.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { OpKind } from '../../src/shard/op.ts'
import { Shard } from '../../src/shard/shard.ts'
import { resolveShardConfig, type ShardConfig } from '../../src/shard/shard-config.ts'
import { shardStatIndex } from '../../src/shard/stats.ts'
import type { ShardWorkerConfig } from '../../workers/shard.ts'
import { opOf } from '../helpers/memory-pool.ts'

const test = suite('shard worker')

const SHARDS = 2
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

const configOf = (shard: number): ShardConfig =>
  resolveShardConfig({
    shard,
    shards: SHARDS,
    clusterId: '11'.repeat(16),
    peerId: '22'.repeat(16),
    segmentBytes: 1024 * 1024,
    capacityBytes: 4 * 1024 * 1024 * 1024
  })

function format(directory: string): void {
  for (let shard = 0; shard < SHARDS; shard++) {
    mkdirSync(join(directory, `shard-${shard}`))
    const files = new DiskFiles(join(directory, `shard-${shard}`))
    Shard.format(configOf(shard), {
      files,
      tracker: new LocalSyncTracker(files),
      memory: Buffer.alloc(BLOCK_BYTES),
      stats: new Float64Array(128),
      clock: systemClock,
      random: systemRandom,
      log: () => {}
    })
  }
}

async function open(directory: string, options: Partial<ShardPoolOptions> = {}) {
  const arena = new SharedArena(8 * 1024 * 1024)
  const pool = new ShardPool<BlockOp>({
    shards: SHARDS,
    worker: new URL(`../../workers/shard${extname(import.meta.url)}`, import.meta.url),
    arena,
    configOf: (shard): ShardWorkerConfig => ({
      directory: join(directory, `shard-${shard}`),
      shard: configOf(shard)
    }),
    log: () => {},
    restarts: { deathsMax: 1000, backoffMs: 0 },
    ...options
  })
  await pool.start()
  const store = new LocalStore(pool)
  let sequence = 0
  const run = (kind: number, fields: Partial<BlockOp>): Promise<BlockOp> =>
    new Promise((resolve) => {
      store.submit(
        opOf(kind, { layerLow: 1, writerEpoch: 1, sequence: ++sequence, ...fields }, resolve)
      )
      store.ring()
    })
  const flush = (): Promise<number> => new Promise((resolve) => store.flush(resolve))
  return { arena, pool, run, flush }
}

async function withDirectory(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-worker-'))
  try {
    format(directory)
    await use(directory)
  } finally {
    rmSync(directory, { recursive: true })
  }
}

test('blocks written through workers are there after an orderly restart', async () => {
  await withDirectory(async (directory) => {
    const first = await open(directory)
    const page = first.arena.acquire(4)
    for (let chunk = 0; chunk < 8; chunk++) {
      first.arena.bytes.fill(chunk + 1, page, page + 4 * BLOCK_BYTES)
      const op = await first.run(OpKind.Write, { chunk, blockCount: 4, payload: page })
      strictEqual(op.error, 0)
    }
    strictEqual(await first.flush(), 0)
    await first.pool.close()
    for (const client of first.pool.clients) {
      strictEqual(client.state, 'closed')
      strictEqual(client.stats[shardStatIndex.state], 3)
    }
    const second = await open(directory)
    const read = second.arena.acquire(4)
    for (let chunk = 0; chunk < 8; chunk++) {
      const op = await second.run(OpKind.Read, { chunk, blockCount: 4, payload: read })
      strictEqual(op.error, 0)
      for (let at = 0; at < 4 * BLOCK_BYTES; at += 1000) {
        strictEqual(second.arena.bytes[read + at], chunk + 1)
      }
    }
    await second.pool.close()
  })
})

test('workers killed in the middle of writes lose none and leave no file open', async () => {
  await withDirectory(async (directory) => {
    const { arena, pool, run, flush } = await open(directory)
    const descriptorsBefore = readdirSync('/proc/self/fd').length
    let answered = 0
    let stop = false
    const last = new Map<number, number>()
    const writer = async (id: number): Promise<void> => {
      const count = 1 + (id % 8)
      const page = arena.acquire(count)
      const place = { chunk: id % 4, firstBlock: (id >> 2) * 8, blockCount: count, payload: page }
      for (let value = 1; !stop; value = (value % 250) + 1) {
        arena.bytes.fill(value, page, page + count * BLOCK_BYTES)
        strictEqual((await run(OpKind.Write, place)).error, 0)
        last.set(id, value)
        answered++
        if (value % 16 === 0) strictEqual(await flush(), 0)
        arena.bytes.fill(0, page, page + count * BLOCK_BYTES)
        strictEqual((await run(OpKind.Read, place)).error, 0)
        strictEqual(arena.bytes[page], value)
        strictEqual(arena.bytes[page + count * BLOCK_BYTES - 1], value)
        await sleep(1) // bounds how much is written
      }
      arena.release(page)
    }
    const killer = async (): Promise<void> => {
      for (let kill = 0; kill < 20; kill++) {
        const before = answered
        while (answered < before + 100) await sleep(1)
        await pool.threads[kill % pool.threads.length]?.terminate()
      }
      stop = true
    }
    await Promise.all([killer(), ...Array.from({ length: 32 }, (_, id) => writer(id))])
    strictEqual(await flush(), 0)
    strictEqual(pool.restarts, 20)
    strictEqual(arena.pagesFree, arena.pagesTotal)
    // Every worker's files but those of the two that live: a segment or two each, and no more.
    const descriptors = readdirSync('/proc/self/fd').length
    strictEqual(descriptors - descriptorsBefore < 80, true, `${descriptors - descriptorsBefore}`)
    await pool.close()
    const again = await open(directory)
    const page = again.arena.acquire(8)
    for (const [id, value] of last) {
      const place = { chunk: id % 4, firstBlock: (id >> 2) * 8, blockCount: 1, payload: page }
      strictEqual((await again.run(OpKind.Read, place)).error, 0)
      strictEqual(again.arena.bytes[page], value)
    }
    await again.pool.close()
  })
})

test('a failed sync stops writes of that shard, also after its worker was replaced', async () => {
  await withDirectory(async (directory) => {
    const eio = Object.assign(new Error('EIO: i/o error'), { errno: -5, code: 'EIO' })
    const { arena, pool, run, flush } = await open(directory, {
      fdatasync: (_, done) => setImmediate(() => done(eio))
    })
    const page = arena.acquire(1)
    const write = { chunk: 0, blockCount: 1, payload: page }
    strictEqual((await run(OpKind.Write, write)).error, 0)
    strictEqual(await flush(), ErrorCode.ShardFailed)
    strictEqual((await run(OpKind.Write, write)).error, ErrorCode.ShardFailed)
    strictEqual((await run(OpKind.Read, write)).error, 0)
    await Promise.all(pool.threads.map((thread) => thread.terminate()))
    strictEqual((await run(OpKind.Write, write)).error, ErrorCode.ShardFailed)
    strictEqual((await run(OpKind.Read, write)).error, 0)
    strictEqual(await flush(), ErrorCode.ShardFailed)
    await pool.close()
  })
})

test('a directory without a shard is refused with the reason', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-worker-'))
  for (let shard = 0; shard < SHARDS; shard++) mkdirSync(join(directory, `shard-${shard}`))
  const { pool } = await open(directory)
  for (const client of pool.clients) {
    strictEqual(client.state, 'failed')
    strictEqual(client.failureCode !== 0, true)
    strictEqual(client.failure.length > 10, true)
  }
  await pool.close()
  rmSync(directory, { recursive: true })
})

test.run()
