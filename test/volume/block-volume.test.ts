import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BYTES } from '../../src/core/limits.ts'
import { RequestFlag, RequestKind } from '../../src/volume/request.ts'
import { ask, openBench } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const pattern = (length: number, seed: number): Buffer =>
  Buffer.from(
    Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 7 + (index >> 8)) & 255)
  )

test('what was written is read, over chunk borders too', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: 16 * MIB })
  const device = await bench.volumes.open('v', {})
  strictEqual(device.sizeBytes, 16 * MIB)
  const data = pattern(64 * BLOCK_BYTES, 1)
  const offset = CHUNK_BYTES - 10 * BLOCK_BYTES
  const written = await ask(bench, device, { kind: RequestKind.Write, offset, data })
  strictEqual(written.error, 0)
  const read = await ask(bench, device, { kind: RequestKind.Read, offset, length: data.length })
  strictEqual(read.error, 0)
  ok(read.data.equals(data))
  const hole = await ask(bench, device, { kind: RequestKind.Read, offset: 0, length: 8192 })
  ok(hole.data.equals(Buffer.alloc(8192)))
  strictEqual((await ask(bench, device, { kind: RequestKind.Flush })).error, 0)
  await device.close()
  strictEqual(bench.store.opsInUse, 0)
  await bench.close()
})

test('unaligned writes and zeroes change exactly their bytes', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: 16 * MIB })
  const device = await bench.volumes.open('v', {})
  const model = Buffer.alloc(64 * 1024)
  const base = pattern(model.length, 3)
  base.copy(model)
  await ask(bench, device, { kind: RequestKind.Write, data: base })
  const cases: [kind: number, offset: number, length: number][] = [
    [RequestKind.Write, 1, 1],
    [RequestKind.Write, 4095, 2],
    [RequestKind.Write, 5000, 100],
    [RequestKind.Write, 4096, 100],
    [RequestKind.Write, 8192 - 100, 100],
    [RequestKind.Write, 100, 20_000],
    [RequestKind.WriteZeroes, 300, 7],
    [RequestKind.WriteZeroes, 4096, 11],
    [RequestKind.WriteZeroes, 12_288 - 5, 5],
    [RequestKind.WriteZeroes, 20_000, 12_000],
    [RequestKind.WriteZeroes, 33_000, 4096]
  ]
  for (const [kind, offset, length] of cases) {
    const data = pattern(length, offset)
    const request = kind === RequestKind.Write ? { kind, offset, data } : { kind, offset, length }
    strictEqual((await ask(bench, device, request)).error, 0)
    if (kind === RequestKind.Write) data.copy(model, offset)
    else model.fill(0, offset, offset + length)
    const read = await ask(bench, device, { kind: RequestKind.Read, length: model.length })
    ok(read.data.equals(model), `kind ${kind} at ${offset}, ${length} bytes`)
    const part = await ask(bench, device, { kind: RequestKind.Read, offset, length })
    ok(part.data.equals(model.subarray(offset, offset + length)))
  }
  await device.close()
  strictEqual(bench.store.opsInUse, 0)
  await bench.close()
})

test('a request that reaches past the end gets OutOfRange', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', {})
  const kinds = [RequestKind.Read, RequestKind.Write, RequestKind.Trim, RequestKind.BlockStatus]
  for (const kind of kinds) {
    const answer = await ask(bench, device, { kind, offset: MIB - 4096, length: 8192 })
    strictEqual(answer.error, ErrorCode.OutOfRange)
  }
  await bench.close()
})

test('a FUA write is flushed before it completes, and a plain one is not', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', {})
  const data = pattern(4096, 5)
  await ask(bench, device, { kind: RequestKind.Write, data })
  strictEqual(bench.store.flushes, 0)
  await ask(bench, device, { kind: RequestKind.Write, data, flags: RequestFlag.Fua })
  strictEqual(bench.store.flushes, 1)
  bench.store.failFlush = () => ErrorCode.ShardFailed
  const failed = await ask(bench, device, { kind: RequestKind.Write, data, flags: RequestFlag.Fua })
  strictEqual(failed.error, ErrorCode.ShardFailed)
  strictEqual((await ask(bench, device, { kind: RequestKind.Flush })).error, ErrorCode.ShardFailed)
  await bench.close()
})

test('block status covers the range with few extents', async () => {
  const bench = await openBench()
  const size = 2 ** 40
  await bench.volumes.create({ name: 'v', sizeBytes: size })
  const device = await bench.volumes.open('v', {})
  const kind = RequestKind.BlockStatus
  const thin = await ask(bench, device, { kind, length: 4 * 1024 * MIB })
  deepStrictEqual(thin.extents, [4 * 1024 * MIB, 1])
  await ask(bench, device, { kind: RequestKind.Write, offset: 4096, data: pattern(8192, 1) })
  const zeroes = { kind: RequestKind.WriteZeroes, offset: 16_384, length: 4096 }
  await ask(bench, device, { ...zeroes, flags: RequestFlag.NoHole })
  const some = await ask(bench, device, { kind, offset: 100, length: 8 * MIB })
  deepStrictEqual(some.extents, [3996, 1, 8192, 0, 4096, 1, 4096, 2, 8 * MIB - 20_480 + 100, 1])
  const first = await ask(bench, device, {
    kind,
    offset: 4096,
    length: 8 * MIB,
    flags: RequestFlag.FirstExtent
  })
  deepStrictEqual(first.extents.slice(0, 2), [8192, 0])
  await bench.close()
})

test.run()
