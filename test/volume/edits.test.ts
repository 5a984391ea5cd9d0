import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BYTES, OPS_PER_REQUEST_MAX } from '../../src/core/limits.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import type { BlockDevice } from '../../src/volume/block-device.ts'
import { RequestFlag, RequestKind } from '../../src/volume/request.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { ask, type Bench, type BenchOptions, openBench } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const { Read, Write, Trim, WriteZeroes, BlockStatus, Flush } = RequestKind

async function withVolume(
  options: BenchOptions,
  body: (bench: Bench, device: BlockDevice) => Promise<void>,
  sizeBytes = 64 * MIB
): Promise<void> {
  const bench = await openBench(options)
  await bench.volumes.create({ name: 'v', sizeBytes })
  const device = await bench.volumes.open('v', {})
  await body(bench, device)
  await device.close()
  strictEqual(bench.store.opsInUse, 0)
  await bench.close()
}

const write = (bench: Bench, device: BlockDevice, offset: number, data: Buffer, flags = 0) =>
  ask(bench, device, { kind: Write, offset, data, flags })
const read = async (bench: Bench, device: BlockDevice, offset: number, length: number) =>
  (await ask(bench, device, { kind: Read, offset, length })).data

test('thousands of writes into one block all take effect with two scratch pages', async () => {
  await withVolume({ arenaPages: 4096, scratchPages: 2 }, async (bench, device) => {
    const writes = Array.from({ length: 3000 }, (_, index) =>
      index % 10 === 9
        ? write(bench, device, BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, index & 255))
        : write(bench, device, index & 4095, Buffer.from([index & 255]))
    )
    const answers = await Promise.all(writes)
    ok(answers.every(({ error }) => error === 0))
    const found = await read(bench, device, 0, BLOCK_BYTES)
    for (let index = 0; index < 3000; index++) {
      if (index % 10 !== 9) strictEqual(found[index], index & 255)
    }
  })
})

test('a long queue for one block is worked off without growing the stack', async () => {
  await withVolume({ arenaPages: 9000 }, async (bench, device) => {
    bench.store.paused = true
    // One sub-block write holds the block; whole-block writes wait behind it, one for another.
    const writes = [write(bench, device, 1, Buffer.from([7]))]
    for (let index = 0; index < 8000; index++) {
      writes.push(write(bench, device, 0, Buffer.alloc(BLOCK_BYTES, index & 255)))
    }
    bench.store.release()
    const answers = await Promise.all(writes)
    ok(answers.every(({ error }) => error === 0))
    deepStrictEqual(await read(bench, device, 0, 8), Buffer.alloc(8, 7999 & 255))
  })
})

test('whole-block changes of other blocks do not wait for a held one', async () => {
  await withVolume({}, async (bench, device) => {
    bench.store.paused = true
    const held = write(bench, device, 100, Buffer.alloc(10, 1))
    const free = write(bench, device, 2 * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 2))
    const waits = ask(bench, device, { kind: Trim, offset: 0, length: 2 * BLOCK_BYTES })
    strictEqual(bench.store.submitted, 2, 'the read of the edge and the free write')
    bench.store.release()
    await Promise.all([held, free, waits])
    deepStrictEqual(await read(bench, device, 0, 200), Buffer.alloc(200))
  })
})

test('an edge that cannot be read fails its write alone', async () => {
  await withVolume({}, async (bench, device) => {
    await write(bench, device, 0, Buffer.alloc(BLOCK_BYTES, 5))
    bench.store.failOp = (op) => (op.kind === OpKind.Read ? ErrorCode.ChecksumMismatch : 0)
    const failed = write(bench, device, 10, Buffer.alloc(10, 6))
    const zeroes = ask(bench, device, { kind: WriteZeroes, offset: 20, length: 10 })
    const whole = write(bench, device, 0, Buffer.alloc(BLOCK_BYTES, 7))
    strictEqual((await failed).error, ErrorCode.ChecksumMismatch)
    strictEqual((await zeroes).error, ErrorCode.ChecksumMismatch)
    strictEqual((await whole).error, 0)
    bench.store.failOp = () => 0
    deepStrictEqual(await read(bench, device, 0, 100), Buffer.alloc(100, 7))
  })
})

test('a request of many ops ends once, with an error if one of them failed', async () => {
  await withVolume({ arenaPages: 8192 }, async (bench, device) => {
    bench.store.failOp = (op) => (op.chunk === 2 ? ErrorCode.OutOfSpace : 0)
    const data = Buffer.alloc(16 * MIB + 1000, 3)
    strictEqual((await write(bench, device, 500, data)).error, ErrorCode.OutOfSpace)
    strictEqual((await write(bench, device, 500, data.subarray(0, MIB))).error, 0)
    const { error } = await ask(bench, device, { kind: Read, offset: 0, length: 16 * MIB })
    strictEqual(error, ErrorCode.OutOfSpace)
  })
})

test('a trim of any length has a bounded number of ops out, and holds its range', async () => {
  const sizeBytes = 100 * CHUNK_BYTES
  await withVolume(
    {},
    async (bench, device) => {
      const last = sizeBytes - 10 * BLOCK_BYTES
      await write(bench, device, last, Buffer.alloc(BLOCK_BYTES, 1))
      bench.store.paused = true
      const trim = ask(bench, device, { kind: Trim, offset: 1, length: sizeBytes - 1 })
      strictEqual(bench.store.opsInUse, OPS_PER_REQUEST_MAX)
      // Comes later, so it must not be trimmed; it waits for the trim to pass.
      const after = write(bench, device, last + 5, Buffer.alloc(10, 2))
      strictEqual(bench.store.opsInUse, OPS_PER_REQUEST_MAX)
      bench.store.release()
      strictEqual((await trim).error, 0)
      strictEqual((await after).error, 0)
      const found = await read(bench, device, last, 20)
      deepStrictEqual(found.subarray(0, 5), Buffer.alloc(5))
      deepStrictEqual(found.subarray(5, 15), Buffer.alloc(10, 2))
    },
    sizeBytes
  )
})

test('a long trim stops at its first error', async () => {
  const sizeBytes = 200 * CHUNK_BYTES
  await withVolume(
    {},
    async (bench, device) => {
      bench.store.failOp = () => ErrorCode.ShardFailed
      const trim = await ask(bench, device, { kind: Trim, offset: 0, length: sizeBytes })
      strictEqual(trim.error, ErrorCode.ShardFailed)
      ok(bench.store.submitted < 200)
    },
    sizeBytes
  )
})

test('trims keep the bytes of blocks that they only touch', async () => {
  await withVolume({}, async (bench, device) => {
    const model = Buffer.alloc(10 * BLOCK_BYTES, 9)
    await write(bench, device, 0, model)
    for (const [offset, length] of [
      [1, 4095],
      [1, 4096],
      [0, 4095],
      [4095, 4097],
      [5000, 12_000]
    ] as const) {
      strictEqual((await ask(bench, device, { kind: Trim, offset, length })).error, 0)
      const first = Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES
      const end = Math.floor((offset + length) / BLOCK_BYTES) * BLOCK_BYTES
      if (end > first) model.fill(0, first, end)
      ok((await read(bench, device, 0, model.length)).equals(model), `${offset} ${length}`)
    }
  })
})

test('zeroes that keep their space are told apart, also at the edges', async () => {
  await withVolume({}, async (bench, device) => {
    await write(bench, device, 0, Buffer.alloc(10 * BLOCK_BYTES, 9))
    const offset = BLOCK_BYTES / 2
    const length = 4 * BLOCK_BYTES
    await ask(bench, device, { kind: WriteZeroes, offset, length, flags: RequestFlag.NoHole })
    await ask(bench, device, { kind: WriteZeroes, offset: 6 * BLOCK_BYTES, length: BLOCK_BYTES })
    const { extents } = await ask(bench, device, { kind: BlockStatus, length: 8 * BLOCK_BYTES })
    const blocks = [1, 3, 2, 1, 1].map((count) => count * BLOCK_BYTES)
    deepStrictEqual(
      extents,
      blocks.flatMap((bytes, index) => [bytes, [0, 2, 0, 1, 0][index]!])
    )
  })
})

test('flushed bytes survive a power cut: all that was answered before the flush', async () => {
  for (let seed = 1; seed <= 30; seed++) {
    const bench = await openBench({ seed })
    await bench.volumes.create({ name: 'v', sizeBytes: MIB })
    const device = await bench.volumes.open('v', {})
    const random = new SeededRandom(seed)
    const model = Buffer.alloc(MIB)
    const sure = new Map<number, number>()
    for (let step = 1; step < 40; step++) {
      const block = random.below(20)
      const flags = random.below(4) === 0 ? RequestFlag.Fua : 0
      await write(bench, device, block * BLOCK_BYTES + 7, Buffer.alloc(100, step), flags)
      model[block * BLOCK_BYTES + 7] = step
      if (flags !== 0) sure.set(block, step)
      if (random.below(5) > 0) continue
      strictEqual((await ask(bench, device, { kind: Flush })).error, 0)
      for (let at = 0; at < 20; at++) sure.set(at, model[at * BLOCK_BYTES + 7]!)
    }
    const store = bench.store.afterPowerCut(bench.arena, seed)
    await bench.metadata.close()
    const next = await openBench({ tables: bench.tables, store, arena: bench.arena, boot: 2 })
    const found = await read(next, await next.volumes.open('v', {}), 0, 20 * BLOCK_BYTES)
    for (const [block, step] of sure) {
      const value = found[block * BLOCK_BYTES + 7]!
      ok(value >= step, `block ${block} has ${value}, ${step} was flushed`)
    }
    await next.close()
  }
})

test('many status requests are answered at once and apart', async () => {
  await withVolume({}, async (bench, device) => {
    for (let block = 0; block < 64; block += 2) {
      await write(bench, device, block * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 1))
    }
    const answers = await Promise.all(
      Array.from({ length: 64 }, (_, block) =>
        ask(bench, device, { kind: BlockStatus, offset: block * BLOCK_BYTES, length: BLOCK_BYTES })
      )
    )
    for (const [block, { extents }] of answers.entries()) {
      deepStrictEqual(extents, [BLOCK_BYTES, block % 2])
    }
  })
})

test('block status of a fragmented volume is bounded, and goes on where it stopped', async () => {
  const sizeBytes = 4 * CHUNK_BYTES
  await withVolume(
    { arenaPages: 4096 },
    async (bench, device) => {
      const blocks = sizeBytes / BLOCK_BYTES
      await write(bench, device, 0, Buffer.alloc(8 * MIB, 1))
      await write(bench, device, 8 * MIB, Buffer.alloc(8 * MIB, 1))
      const trims = []
      for (let block = 1; block < blocks; block += 2) {
        trims.push(
          ask(bench, device, { kind: Trim, offset: block * BLOCK_BYTES, length: BLOCK_BYTES })
        )
      }
      await Promise.all(trims)
      let at = 0
      let answers = 0
      while (at < sizeBytes) {
        const { extents } = await ask(bench, device, {
          kind: BlockStatus,
          offset: at,
          length: sizeBytes - at
        })
        ok(extents.length / 2 <= 8 * 1024 + 1)
        for (let pair = 0; pair < extents.length; pair += 2) {
          strictEqual(extents[pair], BLOCK_BYTES)
          strictEqual(extents[pair + 1], (at / BLOCK_BYTES) % 2)
          at += BLOCK_BYTES
        }
        answers++
      }
      ok(answers >= 1)
      bench.store.failOp = (op) => (op.chunk === 2 ? ErrorCode.ShardFailed : 0)
      const kind = BlockStatus
      const cut = await ask(bench, device, { kind, offset: 0, length: sizeBytes })
      strictEqual(cut.error, 0)
      const offset = 2 * CHUNK_BYTES
      const failed = await ask(bench, device, { kind, offset, length: CHUNK_BYTES })
      strictEqual(failed.error, ErrorCode.ShardFailed)
    },
    sizeBytes
  )
})

test.run()
