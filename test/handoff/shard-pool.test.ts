import { deepStrictEqual, match, ok, strictEqual } from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES, QUEUE_SLOTS } from '../../src/core/limits.ts'
import type { BlockOp } from '../../src/replication/block-store.ts'
import { OpKind } from '../../src/shard/op.ts'
import { flushOf, memoryPool, opOf, run, writeBlock } from '../helpers/memory-pool.ts'
import { FaultKind } from '../helpers/memory-shard.ts'

const test = suite('shard pool')

const patient = { deathsMax: 10_000, windowMs: 60_000, backoffMs: 0 }
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function inDirectory(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-pool-'))
  try {
    await use(directory)
  } finally {
    rmSync(directory, { recursive: true })
  }
}

test('what was written through the queues is read back', async () => {
  const { pool, arena } = memoryPool()
  await pool.start()
  const page = arena.acquire(1)
  arena.bytes.fill(7, page, page + BLOCK_BYTES)
  strictEqual((await writeBlock(pool, { firstBlock: 3, payload: page })).error, 0)
  arena.bytes.fill(0, page, page + BLOCK_BYTES)
  const read = await run(pool, OpKind.Read, { firstBlock: 3, payload: page })
  strictEqual(read.error, 0)
  strictEqual(arena.bytes[page + BLOCK_BYTES - 1], 7)
  await pool.close()
})

test('more requests than slots are answered in order, and each once', async () => {
  const { pool } = memoryPool()
  await pool.start()
  const answered: number[] = []
  const count = QUEUE_SLOTS * 5
  await new Promise<void>((resolve) => {
    for (let at = 0; at < count; at++) {
      const done = (op: BlockOp): void => {
        answered.push(op.sequence)
        if (answered.length === count) resolve()
      }
      pool.clients[0]!.submit(opOf(OpKind.Trim, { sequence: at }, done))
      if (at % 700 === 699) pool.ring() // with a few it would wait for their answers
    }
    strictEqual(pool.clients[0]!.inFlightCount, count)
    pool.ring()
  })
  deepStrictEqual(
    answered,
    answered.map((_, at) => at)
  )
  strictEqual(pool.clients[0]!.inFlightCount, 0)
  await pool.close()
})

test('an answer may lead to new requests from inside onDone', async () => {
  const { pool } = memoryPool({ shards: 2 })
  await pool.start()
  let left = 1000
  await new Promise<void>((resolve) => {
    const next = (op: BlockOp): void => {
      if (--left === 0) resolve()
      else pool.clients[left % 2]!.submit(op)
    }
    pool.clients[0]!.submit(opOf(OpKind.Trim, {}, next))
    pool.ring()
  })
  await pool.close()
})

test('workers killed under load lose no request and no write, and answer none twice', async () => {
  const { pool, arena, terminateOne } = memoryPool({ restarts: patient })
  await pool.start()
  const blocks = 64
  const versions = new Array<number>(blocks).fill(0)
  let submitted = 0
  let answered = 0
  let stop = false
  // One writer a block: writes a new version, waits, reads it back, and again.
  const workload = async (block: number): Promise<void> => {
    const page = arena.acquire(1)
    while (!stop) {
      const version = ++versions[block]!
      arena.bytes.fill(version & 0xff, page, page + BLOCK_BYTES)
      submitted += 2
      const wrote = await writeBlock(pool, { firstBlock: block, payload: page, sequence: version })
      strictEqual(wrote.error, 0)
      strictEqual(wrote.resultB, version)
      answered++
      arena.bytes.fill(0, page, page + BLOCK_BYTES)
      const read = await run(pool, OpKind.Read, { firstBlock: block, payload: page })
      strictEqual(read.error, 0)
      answered++
      strictEqual(arena.bytes[page], version & 0xff)
      strictEqual(arena.bytes[page + BLOCK_BYTES - 1], version & 0xff)
    }
    arena.release(page)
  }
  const work = Promise.all(versions.map((_, block) => workload(block)))
  for (let kill = 0; kill < 30; kill++) {
    const before = answered
    while (answered < before + 200) await sleep(1)
    await terminateOne()
  }
  stop = true
  await work
  strictEqual(answered, submitted)
  strictEqual(pool.restarts, 30)
  strictEqual(arena.pagesFree, arena.pagesTotal)
  await pool.close()
})

test('a request that always kills its worker is answered, and no other is hurt', async () => {
  const { pool, logs } = memoryPool({ restarts: { backoffMs: 0 } })
  await pool.start()
  const around = Array.from({ length: 20 }, (_, at) => run(pool, OpKind.Trim, { sequence: at }))
  const killer = run(pool, FaultKind.Throw)
  const after = Array.from({ length: 20 }, (_, at) => run(pool, OpKind.Trim, { sequence: at }))
  strictEqual((await killer).error, ErrorCode.ShardFailed)
  for (const op of await Promise.all([...around, ...after])) strictEqual(op.error, 0)
  strictEqual(pool.clients[0]!.state, 'serving')
  match(String(logs[0]!.fields['reason']), /this op is never executed/)
  await pool.close()
})

test('a worker that exits is replaced like one that throws', async () => {
  const { pool } = memoryPool({ restarts: { backoffMs: 0 } })
  await pool.start()
  strictEqual((await run(pool, FaultKind.Exit)).error, ErrorCode.ShardFailed)
  strictEqual((await run(pool, OpKind.Trim)).error, 0)
  await pool.close()
})

test('a shard whose background work keeps dying is given up, with the reason', async () => {
  const { pool, faults } = memoryPool({ restarts: { backoffMs: 0, deathsMax: 3 } })
  await pool.start()
  faults[0] = 100 // every later open is refused, as it is when the background work spoilt the files
  await run(pool, FaultKind.BackgroundThrow)
  while (pool.clients[0]!.state !== 'failed') await sleep(1)
  strictEqual((await run(pool, OpKind.Trim)).error, ErrorCode.ShardFailed)
  match(pool.clients[0]!.failure, /told not to open/)
  strictEqual((await run(pool, OpKind.Read)).error, ErrorCode.ShardFailed)
  // It served writes once: that they are durable cannot be claimed any more.
  strictEqual(await flushOf(pool), ErrorCode.ShardFailed)
  await pool.close()
})

test('a shard that cannot be opened at the start fails at once, and the others serve', async () => {
  const { pool, faults } = memoryPool({ shards: 2 })
  faults[0] = 1
  await pool.start()
  const failed = pool.clients.find((client) => client.state === 'failed')
  strictEqual(failed?.failureCode, ErrorCode.Corrupt)
  strictEqual(pool.clients.filter((client) => client.state === 'serving').length, 1)
  await pool.close()
})

test('a flush waits for the sync of what was appended before it', async () => {
  await inDirectory(async (directory) => {
    const syncing: (() => void)[] = []
    const { pool, arena } = memoryPool({
      directory,
      fdatasync: (_, done) => syncing.push(() => done(null))
    })
    await pool.start()
    const page = arena.acquire(1)
    ok(pool.clients[0]!.isClean)
    await writeBlock(pool, { payload: page })
    ok(!pool.clients[0]!.isClean)
    const results: string[] = []
    const first = flushOf(pool).then((error) => results.push(`first ${error}`))
    while (syncing.length < 1) await sleep(1)
    // Comes during a sync that may have begun before its write: needs a sync of its own.
    await writeBlock(pool, { payload: page })
    const second = flushOf(pool).then((error) => results.push(`second ${error}`))
    await sleep(5)
    deepStrictEqual([results.length, syncing.length], [0, 1])
    syncing[0]!()
    await first
    while (syncing.length < 2) await sleep(1)
    deepStrictEqual(results, ['first 0'])
    syncing[1]!()
    await second
    deepStrictEqual(results, ['first 0', 'second 0'])
    ok(pool.clients[0]!.isClean)
    await pool.close()
  })
})

test('after a failed sync nothing is flushed or written, also by the next worker', async () => {
  await inDirectory(async (directory) => {
    let fail = true
    const eio = Object.assign(new Error('EIO'), { errno: -5, code: 'EIO' })
    const { pool, arena, terminateOne } = memoryPool({
      directory,
      fdatasync: (_, done) => setImmediate(() => done(fail ? eio : null))
    })
    await pool.start()
    const page = arena.acquire(1)
    strictEqual((await writeBlock(pool, { payload: page })).error, 0)
    strictEqual(await flushOf(pool), ErrorCode.ShardFailed)
    fail = false
    strictEqual(await flushOf(pool), ErrorCode.ShardFailed)
    strictEqual((await writeBlock(pool, { payload: page })).error, ErrorCode.ShardFailed)
    strictEqual((await run(pool, OpKind.Read, { payload: page })).error, 0)
    await terminateOne()
    strictEqual((await writeBlock(pool, { payload: page })).error, ErrorCode.ShardFailed)
    strictEqual(await flushOf(pool), ErrorCode.ShardFailed)
    strictEqual(pool.clients[0]!.rounds.failure, 'EIO')
    await pool.close()
  })
})

test('a flush that meets the death of a worker is answered after recovery', async () => {
  await inDirectory(async (directory) => {
    const { pool, arena, terminateOne } = memoryPool({ directory, restarts: patient })
    await pool.start()
    const page = arena.acquire(1)
    for (let kill = 0; kill < 10; kill++) {
      strictEqual((await writeBlock(pool, { payload: page })).error, 0)
      const death = terminateOne()
      await sleep(kill % 3)
      const early = flushOf(pool)
      await death
      strictEqual(await flushOf(pool), 0)
      strictEqual(await early, 0)
    }
    await pool.close()
  })
})

test('close finishes what is in flight, syncs it, and refuses what comes later', async () => {
  await inDirectory(async (directory) => {
    let syncs = 0
    const { pool, arena } = memoryPool({ directory, onSync: () => syncs++ })
    await pool.start()
    const page = arena.acquire(1)
    const slow = run(pool, FaultKind.SlowThenRead, { sequence: 30, payload: page })
    const writes = Array.from({ length: 2000 }, (_, at) =>
      writeBlock(pool, { firstBlock: at % 100, payload: page })
    )
    const closed = pool.close()
    strictEqual((await run(pool, OpKind.Trim)).error, ErrorCode.Closed)
    await closed
    strictEqual((await slow).error, 0)
    for (const op of await Promise.all(writes)) strictEqual(op.error, 0)
    ok(syncs > 0)
    strictEqual(pool.clients[0]!.state, 'closed')
  })
})

test('a worker that does not close in time is ended, and what it had is refused', async () => {
  const { pool } = memoryPool({ closeTimeoutMs: 50, restarts: patient })
  await pool.start()
  const stuck = run(pool, FaultKind.SlowThenRead, { sequence: 60_000 })
  pool.ring()
  await sleep(10)
  await pool.close()
  strictEqual((await stuck).error, ErrorCode.ShardFailed)
})

test('a worker that dies while the pool closes is replaced, and the rest is finished', async () => {
  const { pool, terminateOne } = memoryPool({ restarts: patient })
  await pool.start()
  const ops = Array.from({ length: 3000 }, (_, at) => run(pool, OpKind.Trim, { sequence: at }))
  const closed = pool.close()
  await terminateOne()
  await closed
  for (const op of await Promise.all(ops)) strictEqual(op.error, 0)
})

test('a main thread that was blocked for long finds every answer', async () => {
  const { pool } = memoryPool()
  await pool.start()
  const ops = Array.from({ length: 500 }, (_, at) => run(pool, OpKind.Trim, { sequence: at }))
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200)
  strictEqual(pool.poll(), true)
  for (const op of await Promise.all(ops)) strictEqual(op.error, 0)
  strictEqual((await run(pool, OpKind.Trim)).error, 0)
  await pool.close()
})

test.run()
