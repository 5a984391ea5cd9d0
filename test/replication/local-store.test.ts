import { ok, strictEqual } from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import type { BlockOp } from '../../src/replication/block-store.ts'
import { LocalStore } from '../../src/replication/local-store.ts'
import { OpKind, ShardOp } from '../../src/shard/op.ts'
import { memoryPool, opOf } from '../helpers/memory-pool.ts'
import { FaultKind } from '../helpers/memory-shard.ts'

const test = suite('local store')

/** Submits through the store, rings, and resolves with the op when it is done. */
function run(store: LocalStore, kind: number, fields: Partial<BlockOp>): Promise<BlockOp> {
  return new Promise((resolve) => {
    store.submit(opOf(kind, fields, resolve))
    store.ring()
  })
}

const flush = (store: LocalStore): Promise<number> => new Promise((done) => store.flush(done))

test('chunks spread over the shards, and a chunk keeps to one', async () => {
  const { pool, arena } = memoryPool({ shards: 3, chunks: 30 })
  await pool.start()
  const store = new LocalStore(pool)
  const page = arena.acquire(1)
  for (let chunk = 0; chunk < 30; chunk++) {
    arena.bytes.fill(chunk + 1, page, page + 4096)
    strictEqual((await run(store, OpKind.Write, { chunk, payload: page })).error, 0)
  }
  const chunksOf = [0, 0, 0]
  for (let chunk = 0; chunk < 30; chunk++) {
    strictEqual((await run(store, OpKind.Read, { chunk, payload: page })).error, 0)
    strictEqual(arena.bytes[page], chunk + 1)
    for (const [shard, client] of pool.clients.entries()) {
      await new Promise<void>((resolve) => {
        client.submit(opOf(OpKind.Read, { chunk, payload: page }, () => resolve()))
        pool.ring()
      })
      if (arena.bytes[page] === chunk + 1) chunksOf[shard]!++
    }
  }
  strictEqual(
    chunksOf.reduce((sum, count) => sum + count),
    30
  )
  for (const count of chunksOf) ok(count >= 4)
  await pool.close()
})

test('a flush syncs only the shards that have unsynced writes', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-store-'))
  const synced: number[] = []
  const { pool, arena } = memoryPool({
    shards: 3,
    chunks: 8,
    directory,
    onSync: (shard) => synced.push(shard)
  })
  await pool.start()
  const store = new LocalStore(pool)
  const page = arena.acquire(1)
  strictEqual(await flush(store), 0)
  strictEqual(synced.length, 0)
  await run(store, OpKind.Write, { chunk: 0, payload: page })
  strictEqual(await flush(store), 0)
  strictEqual(synced.length, 1)
  strictEqual(await flush(store), 0)
  strictEqual(synced.length, 1)
  for (let chunk = 0; chunk < 8; chunk++) {
    await run(store, OpKind.Write, { chunk, payload: page })
  }
  const flushes = [flush(store), flush(store), flush(store)]
  for (const error of await Promise.all(flushes)) strictEqual(error, 0)
  strictEqual(new Set(synced).size, 3)
  strictEqual(synced.length, 4)
  await pool.close()
  rmSync(directory, { recursive: true })
})

test('a flush is never answered from inside the call', async () => {
  const { pool } = memoryPool()
  await pool.start()
  let answered = false
  new LocalStore(pool).flush(() => {
    answered = true
  })
  strictEqual(answered, false)
  await Promise.resolve()
  strictEqual(answered, true)
  await pool.close()
})

test('a broadcast reaches every shard and reports the first failure', async () => {
  const { pool, faults } = memoryPool({ shards: 3, restarts: { backoffMs: 0 } })
  await pool.start()
  const store = new LocalStore(pool)
  const broadcast = (kind: number): Promise<number> => {
    const op = new ShardOp()
    op.kind = kind
    return new Promise((resolve) => store.broadcast(op, resolve))
  }
  const before = Atomics.load(faults, 2)
  strictEqual(await broadcast(OpKind.DeleteLayer), 0)
  strictEqual(Atomics.load(faults, 2), before + 3)
  strictEqual(await broadcast(FaultKind.Throw), ErrorCode.ShardFailed)
  await pool.close()
})

test('released ops are used again', () => {
  const { pool } = memoryPool()
  const store = new LocalStore(pool)
  const op = store.acquireOp()
  op.owner = store
  store.releaseOp(op)
  strictEqual(store.acquireOp(), op)
  strictEqual(op.owner, null)
  return pool.close()
})

test.run()
