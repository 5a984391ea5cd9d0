import { deepStrictEqual, ok, strictEqual, throws } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { SEQUENCE_MAX } from '../../src/core/limits.ts'
import { BlockVolume } from '../../src/volume/block-volume.ts'
import { OpenVolume } from '../../src/volume/open-volume.ts'
import { RequestKind, VolumeRequest } from '../../src/volume/request.ts'
import { VolumeIo } from '../../src/volume/volume-io.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { MemoryStore } from '../helpers/memory-store.ts'
import { TestArena } from '../helpers/test-arena.ts'

function makeVolume() {
  const arena = new TestArena(512)
  const store = new MemoryStore(arena)
  const io = new VolumeIo({ store, arena, clock: new ManualClock(), scratchPages: 2 })
  const identity = { familyHigh: 1, familyLow: 2, layerHigh: 3, layerLow: 4 }
  const volume = new BlockVolume(io, { name: 'v', sizeBytes: 2 ** 30, identity })
  const device = new OpenVolume(volume, { readOnly: false, onClosed: () => {} })
  const versions: [number, number][] = []
  store.failOp = (op) => {
    versions.push([op.writerEpoch, op.sequence])
    return 0
  }
  const trim = (): Promise<number> =>
    new Promise((resolve) => {
      const request = new VolumeRequest()
      request.kind = RequestKind.Trim
      request.length = 4096
      request.onDone = () => resolve(request.error)
      device.submit(request)
      store.ring()
    })
  return { volume, versions, trim }
}

test('without a writerEpoch nothing is changed', async () => {
  const { volume, trim } = makeVolume()
  strictEqual(await trim(), ErrorCode.ReadOnly)
  volume.ops.startEpoch(1)
  strictEqual(await trim(), 0)
  volume.ops.fence()
  strictEqual(await trim(), ErrorCode.ReadOnly)
  volume.ops.startEpoch(2)
  strictEqual(await trim(), 0)
  throws(() => volume.ops.startEpoch(0))
})

test('versions go up by one, and start anew with a higher writerEpoch only', async () => {
  const { volume, versions, trim } = makeVolume()
  volume.ops.startEpoch(5)
  await trim()
  await trim()
  volume.ops.startEpoch(4)
  await trim()
  volume.ops.startEpoch(9)
  await trim()
  deepStrictEqual(versions, [
    [5, 1],
    [5, 2],
    [5, 3],
    [9, 1]
  ])
})

test('a writerEpoch asks for its successor at its middle, and stops before its end', async () => {
  const { volume, versions, trim } = makeVolume()
  let asked = 0
  volume.ops.onSequenceLow = () => asked++
  volume.ops.startEpoch(1, Math.floor(SEQUENCE_MAX / 2) - 1)
  for (let step = 0; step < 5; step++) strictEqual(await trim(), 0)
  strictEqual(asked, 1)
  volume.ops.startEpoch(2, SEQUENCE_MAX - 2 ** 20 + 1)
  strictEqual(await trim(), 0)
  strictEqual(asked, 2)
  strictEqual(await trim(), ErrorCode.LimitReached)
  ok(versions.every(([, sequence]) => sequence <= SEQUENCE_MAX))
  volume.ops.startEpoch(3)
  strictEqual(await trim(), 0)
  deepStrictEqual(versions.at(-1), [3, 1])
})

test.run()
