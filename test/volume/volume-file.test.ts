import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { APPEND_RESERVE_BYTES, BLOCK_BYTES } from '../../src/core/limits.ts'
import type { VolumeFile } from '../../src/volume/volume-file.ts'
import { VolumeTypes } from '../../src/volume/volume-types.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { TestArena } from '../helpers/test-arena.ts'
import { type Bench, type BenchOptions, failsWith, openBench } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024

/** Volumes with a type that counts single bytes. */
function openLogs(options: BenchOptions = {}): Promise<Bench> {
  const types = new VolumeTypes()
  types.register({
    name: 'log',
    description: 'grows by single bytes',
    sizeUnitBytes: 1,
    open: async (file) => file
  })
  return openBench({ ...options, volumes: { types } })
}

async function restart(bench: Bench, boot: number): Promise<Bench> {
  const arena = new TestArena(2048)
  const store = bench.store.afterPowerCut(arena, boot)
  await bench.metadata.close()
  return openLogs({ tables: bench.tables, arena, store, boot })
}

const pattern = (length: number, seed: number): Buffer => {
  const random = new SeededRandom(seed)
  return Buffer.from(Uint8Array.from({ length }, () => random.u32() & 255))
}

test('a file reads what was written, at any offset and length', async () => {
  const bench = await openBench({ arenaPages: 2048 })
  const { pagesFree } = bench.arena
  await bench.volumes.create({ name: 'v', sizeBytes: 8 * MIB })
  const file = await bench.volumes.openFile('v')
  strictEqual(file.name, 'v')
  strictEqual(file.sizeBytes, 8 * MIB)
  const model = Buffer.alloc(8 * MIB)
  const random = new SeededRandom(7)
  for (let step = 0; step < 30; step++) {
    const length = 1 + random.below(step % 5 === 0 ? 3 * MIB : 9000)
    const offset = random.below(8 * MIB - length)
    const data = pattern(length, step)
    await file.writeAt(offset, data)
    data.copy(model, offset)
  }
  ok((await file.readAt(0, 8 * MIB)).equals(model))
  ok((await file.readAt(4095, 3)).equals(model.subarray(4095, 4098)))
  strictEqual((await file.readAt(8 * MIB, 0)).length, 0)
  await file.zero(100, 10_000)
  model.fill(0, 100, 10_100)
  await file.trim(20_000, 20_000)
  model.fill(0, 20_480, 36_864)
  ok((await file.readAt(0, 64 * 1024)).equals(model.subarray(0, 64 * 1024)))
  await file.close()
  strictEqual(bench.arena.pagesFree, pagesFree)
  await bench.close()
})

test('a file tells what holds data', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: 2 ** 40 })
  const file = await bench.volumes.openFile('v')
  const far = 2 ** 39
  await file.writeAt(far, Buffer.alloc(8192, 1))
  deepStrictEqual(await file.extents(far - MIB, 2 * MIB), [
    { offset: far - MIB, length: MIB, kind: 'hole' },
    { offset: far, length: 8192, kind: 'data' },
    { offset: far + 8192, length: MIB - 8192, kind: 'hole' }
  ])
  deepStrictEqual(await file.extents(0, 0), [])
  await bench.close()
})

test('ranges that are none are refused', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: 8192 })
  const file = await bench.volumes.openFile('v')
  await rejects(file.readAt(8192, 1), failsWith(ErrorCode.OutOfRange))
  await rejects(file.writeAt(8000, Buffer.alloc(200)), failsWith(ErrorCode.OutOfRange))
  for (const [offset, length] of [
    [-1, 1],
    [0, -1],
    [0.5, 1],
    [0, Number.NaN],
    [2 ** 60, 1]
  ] as const) {
    await rejects(file.readAt(offset, length), failsWith(ErrorCode.InvalidArgument))
    await rejects(file.trim(offset, length), failsWith(ErrorCode.InvalidArgument))
  }
  await file.close()
  await rejects(file.readAt(0, 1), failsWith(ErrorCode.Closed))
  const reader = await bench.volumes.openFile('v', { readOnly: true })
  await rejects(reader.writeAt(0, Buffer.alloc(1)), failsWith(ErrorCode.ReadOnly))
  await rejects(reader.append(Buffer.alloc(4096)), failsWith(ErrorCode.ReadOnly))
  await rejects(reader.resize(4096, { shrink: true }), failsWith(ErrorCode.ReadOnly))
  await reader.flush()
  await reader.close()
  await bench.close()
})

test('a file waits for pages instead of failing', async () => {
  // Room for the volume layer's own pages and for one piece of 1 MiB.
  const bench = await openBench({ arenaPages: 8 + 256 + 260 })
  await bench.volumes.create({ name: 'v', sizeBytes: 16 * MIB })
  const file = await bench.volumes.openFile('v')
  const data = pattern(7 * MIB, 1)
  await Promise.all([file.writeAt(5, data), file.writeAt(8 * MIB + 1, data)])
  ok((await file.readAt(5, data.length)).equals(data))
  ok((await file.readAt(8 * MIB + 1, data.length)).equals(data))
  await bench.close()
})

test('an error of a piece is told once, after every piece has ended', async () => {
  const bench = await openBench({ arenaPages: 4096 })
  await bench.volumes.create({ name: 'v', sizeBytes: 16 * MIB })
  const file = await bench.volumes.openFile('v')
  bench.store.failOp = (op) => (op.chunk === 1 ? ErrorCode.OutOfSpace : 0)
  await rejects(file.writeAt(0, Buffer.alloc(12 * MIB)), failsWith(ErrorCode.OutOfSpace))
  strictEqual(bench.store.opsInUse, 0)
  bench.store.failOp = () => 0
  await file.writeAt(0, Buffer.alloc(12 * MIB))
  await bench.close()
})

test('appends come one behind the other and are there after a flush and a crash', async () => {
  let bench = await openLogs({ arenaPages: 2048 })
  await bench.volumes.create({ name: 'log', sizeBytes: 0, type: 'log' })
  const file = await bench.volumes.openFile('log')
  const other = await bench.volumes.openFile('log')
  const parts = Array.from({ length: 40 }, (_, index) => pattern(1 + index * 321, index))
  const offsets = await Promise.all(
    parts.map((part, index) => (index % 2 === 0 ? file : other).append(part))
  )
  const total = parts.reduce((sum, { length }) => sum + length, 0)
  strictEqual(file.sizeBytes, total)
  const check = async (found: VolumeFile): Promise<void> => {
    for (const [index, part] of parts.entries()) {
      ok((await found.readAt(offsets[index]!, part.length)).equals(part), `part ${index}`)
    }
  }
  await check(file)
  await file.flush()
  await file.append(Buffer.alloc(5000, 1))
  bench = await restart(bench, 2)
  const again = await bench.volumes.openFile('log')
  strictEqual(again.sizeBytes, total)
  await check(again)
  // What the lost append may have left never shows.
  await again.resize(total + 20_000)
  ok((await again.readAt(total, 20_000)).equals(Buffer.alloc(20_000)))
  strictEqual(await again.append(Buffer.from('end')), total + 20_000)
  await again.close()
  strictEqual((await bench.volumes.show('log')).sizeBytes, total + 20_003)
  bench = await restart(bench, 3)
  strictEqual((await bench.volumes.show('log')).sizeBytes, total + 20_003)
  await bench.close()
})

test('appends cost a metadata write only now and then', async () => {
  const bench = await openLogs()
  await bench.volumes.create({ name: 'log', sizeBytes: 0, type: 'log' })
  const file = await bench.volumes.openFile('log')
  await file.append(Buffer.alloc(10))
  const { revision } = await bench.metadata.range('')
  for (let step = 0; step < 50; step++) await file.append(Buffer.alloc(1000, step))
  strictEqual((await bench.metadata.range('')).revision, revision)
  ok(APPEND_RESERVE_BYTES > 50_000)
  await file.flush()
  await file.flush()
  strictEqual((await bench.metadata.range('')).revision, revision + 1)
  await bench.close()
})

test('a failed append moves no end', async () => {
  const bench = await openLogs()
  await bench.volumes.create({ name: 'log', sizeBytes: 0, type: 'log' })
  const file = await bench.volumes.openFile('log')
  await file.append(Buffer.alloc(100, 1))
  bench.store.failOp = (op) => (op.kind === 2 ? ErrorCode.OutOfSpace : 0)
  await rejects(file.append(Buffer.alloc(9000, 2)), failsWith(ErrorCode.OutOfSpace))
  bench.store.failOp = () => 0
  strictEqual(file.sizeBytes, 100)
  strictEqual(await file.append(Buffer.from('abc')), 100)
  deepStrictEqual(await file.readAt(98, 5), Buffer.from([1, 1, 97, 98, 99]))
  await bench.close()
})

test('what a failed append left is not there when the volume grows', async () => {
  const bench = await openLogs({ arenaPages: 2048 })
  await bench.volumes.create({ name: 'log', sizeBytes: 0, type: 'log' })
  const file = await bench.volumes.openFile('log')
  await file.append(Buffer.alloc(100, 1))
  // The first piece is written, the third fails.
  bench.store.failOp = (op) => (op.kind === 2 && op.firstBlock >= 512 ? ErrorCode.OutOfSpace : 0)
  await rejects(file.append(Buffer.alloc(3 * MIB, 2)), failsWith(ErrorCode.OutOfSpace))
  bench.store.failOp = () => 0
  await file.resize(2 * MIB)
  const found = await file.readAt(0, 2 * MIB)
  deepStrictEqual(found.subarray(0, 100), Buffer.alloc(100, 1))
  ok(found.subarray(100).equals(Buffer.alloc(2 * MIB - 100)))
  await bench.close()
})

test('a block volume grows by whole blocks', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: 8192 })
  const file = await bench.volumes.openFile('v')
  await rejects(file.append(Buffer.alloc(100)), failsWith(ErrorCode.InvalidArgument))
  strictEqual(await file.append(Buffer.alloc(BLOCK_BYTES, 1), { durable: true }), 8192)
  strictEqual((await bench.volumes.show('v')).sizeBytes, 12_288)
  await rejects(file.resize(4096), failsWith(ErrorCode.InvalidArgument))
  await file.resize(4096, { shrink: true })
  strictEqual(file.sizeBytes, 4096)
  await bench.close()
})

test('a file of a volume that is deleted by force ends with Closed', async () => {
  const bench = await openLogs()
  await bench.volumes.create({ name: 'log', sizeBytes: 0, type: 'log' })
  const file = await bench.volumes.openFile('log')
  await file.append(Buffer.alloc(100, 1))
  await rejects(bench.volumes.delete('log'), failsWith(ErrorCode.Busy))
  await bench.volumes.delete('log', { force: true })
  await rejects(file.readAt(0, 10), failsWith(ErrorCode.Closed))
  await rejects(file.append(Buffer.alloc(10)), failsWith(ErrorCode.NotFound))
  await file.close()
  strictEqual(bench.store.size, 0)
  await bench.close()
})

test.run()
