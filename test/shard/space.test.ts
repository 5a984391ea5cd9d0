import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ErrorCode } from '../../src/core/errors.ts'
import { PIECE_BLOCKS_MAX, PIECE_BYTES_MAX } from '../../src/core/limits.ts'
import { nextLayerLow } from '../../src/core/layer-ids.ts'
import { OpKind } from '../../src/shard/op.ts'
import { segmentBytesFor } from '../../src/shard/shard-config.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { seededRandom, ShardRig } from '../helpers/shard-rig.ts'

const test = suite('space')

const SEGMENT_BYTES = 128 * 1024
const SEGMENTS = 20

const smallRig = (): { rig: ShardRig; files: FaultyFiles } => {
  const files = new FaultyFiles(seededRandom(5))
  const config = { segmentBytes: SEGMENT_BYTES, capacityBytes: SEGMENTS * SEGMENT_BYTES }
  return { rig: new ShardRig({ files, config }), files }
}

/** Writes new blocks until there is no space; returns how many there were. */
function fill(rig: ShardRig): number {
  for (let block = 0; block < 10_000; block++) {
    const error = rig.write(block >> 10, block & 1023, 1, block + 1)
    if (error === 0) continue
    assert.is(error, ErrorCode.OutOfSpace)
    return block
  }
  throw new Error('never full')
}

function works(rig: ShardRig): void {
  for (let i = 0; i < 500 && rig.shard.background(1); i++);
}

test('a full shard refuses writes, and serves reads, trims and deletes', () => {
  const { rig } = smallRig()
  const blocks = fill(rig)
  // Depth 1 costs a header page a block; compaction packs them before the shard is full.
  assert.ok(blocks > ((SEGMENTS - 4) * SEGMENT_BYTES * 0.8) / 4096, `${blocks} blocks`)
  assert.equal(rig.read(0, 5, 1), [6])
  assert.is(rig.trim(0, 0, 256), 0)
  assert.equal(rig.read(0, 0, 1), [0])
  assert.is(rig.write(0, 0, 1, 7), 0, 'trimmed space is used again')
  assert.equal(rig.read(0, 0, 1), [7])
  assert.is(rig.run(rig.op(OpKind.DeleteLayer, 0, 0, 0)), 0)
  works(rig)
  assert.is(rig.stat('liveBytes'), 0)
  assert.ok(fill(rig) > 0)
})

test('a full shard takes trims of single blocks as long as there are blocks', () => {
  const { rig } = smallRig()
  let blocks = 0
  while (rig.write(0, blocks, 16, 1) === 0) blocks += 16
  while (rig.write(0, blocks, 1, 1) === 0) blocks++
  // One batch each and no background work between them: all room is made by the trims.
  for (let i = 0; i < blocks; i++) assert.is(rig.trim(0, (i * 7) % blocks, 1), 0, `trim ${i}`)
  assert.ok(fill(rig) > blocks / 2)
})

test('a full shard takes trims that give nothing back, and no writes in their reserve', () => {
  const { rig } = smallRig()
  let blocks = 0
  while (rig.write(0, blocks, 16, 1) === 0) blocks += 16
  while (rig.write(0, blocks, 1, 1) === 0) blocks++
  // A snapshot shows all of it: each trim is a tombstone that stays.
  const next = nextLayerLow(rig.op(OpKind.Trim, 0, 0, 1).layerLow)
  const run = (kind: number, block: number): number =>
    rig.run(Object.assign(rig.op(kind, 0, block, 1), { layerLow: next }))
  let written = 0
  for (let i = 0; i < 3000; i++) {
    assert.is(run(OpKind.Trim, (i * 7) % blocks), 0, `trim ${i}`)
    if (run(OpKind.Write, blocks + (written % 100)) === 0) written++
  }
  assert.ok(written < 3000, `${written} writes`)
  assert.equal(rig.read(0, 3, 1), [1])
  assert.is(rig.run(rig.op(OpKind.DeleteLayer, 0, 0, 0)), 0)
  works(rig)
  assert.is(rig.write(0, 0, 16, 2), 0)
})

test('a full shard is trimmed again and again where nothing is left', () => {
  const { rig } = smallRig()
  let blocks = 0
  while (rig.write(0, blocks, 16, 1) === 0) blocks += 16
  for (let round = 0; round < 200; round++) {
    const ops = Array.from({ length: 56 }, () => rig.op(OpKind.Trim, 0, 3, 1))
    rig.shard.execute(ops, ops.length)
    assert.equal(
      ops.map((op) => op.error),
      new Array(56).fill(0),
      `round ${round}`
    )
  }
})

test('restarts do not use space up', () => {
  const { rig, files } = smallRig()
  for (let i = 0; i < 3 * SEGMENTS; i++) {
    assert.is(rig.write(0, i, 1, i + 1), 0, `restart ${i}`)
    if (i % 2 === 0) works(rig)
    files.kill()
    rig.reopen()
  }
  for (let i = 0; i < 3 * SEGMENTS; i++) assert.equal(rig.read(0, i, 1), [i + 1])
  assert.is(rig.trim(0, 0, 1), 0)
})

test('a full shard is overwritten again and again within its capacity', () => {
  const { rig, files } = smallRig()
  const blocks = Math.floor(fill(rig) * 0.7)
  rig.run(rig.op(OpKind.DeleteLayer, 0, 0, 0))
  const random = seededRandom(9)
  const model = new Map<number, number>()
  for (let i = 0; i < 4000; i++) {
    const block = random.below(blocks)
    assert.is(rig.write(block >> 10, block & 1023, 1, i + 1), 0)
    model.set(block, i + 1)
  }
  const used = files.list().filter((name) => name.startsWith('seg-')).length
  assert.ok(used <= SEGMENTS, `${used} segment files`)
  const check = (): void => {
    for (const [block, value] of model) {
      assert.equal(rig.read(block >> 10, block & 1023, 1), [value])
    }
  }
  check()
  files.kill()
  rig.reopen()
  check()
})

test('what overwrites emptied is free at once, and nothing is copied for it', () => {
  const { rig, files } = smallRig()
  for (let round = 1; round <= 20; round++) {
    for (let first = 0; first < 128; first += 16) {
      assert.is(rig.write(0, first, 16, round), 0)
      rig.shard.background(1)
    }
  }
  assert.is(rig.stat('compactionReadBytes'), 0)
  const used = files.list().filter((name) => name.startsWith('seg-')).length
  assert.ok(used <= 14, `${used} segment files for 8 that are live`)
  files.kill()
  rig.reopen()
  for (let first = 0; first < 128; first += 16) {
    assert.equal(rig.read(0, first, 16), new Array(16).fill(20))
  }
})

test('a tombstone stays when all else in its segment was overwritten, after a restart too', () => {
  const { rig, files } = smallRig()
  assert.is(rig.write(0, 0, 1, 1), 0)
  assert.is(rig.write(3, 0, 16, 9), 0, 'keeps the segment of what is trimmed')
  for (let i = 0; i < 2; i++) assert.is(rig.write(1, 16 * i, 16, 2), 0)
  assert.is(rig.trim(0, 0, 1), 0)
  for (let i = 0; i < 2; i++) assert.is(rig.write(2, 16 * i, 16, 3), 0)
  assert.is(rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0)), 0)
  works(rig)
  rig.restart()
  // The index of the checkpoint has it all: recovery read no records of these segments.
  for (const [chunk, value] of [
    [2, 4],
    [1, 5]
  ] as const) {
    for (let i = 0; i < 2; i++) assert.is(rig.write(chunk, 16 * i, 16, value), 0)
  }
  for (let syncs = 0; syncs < 4; syncs++) works(rig)
  files.kill()
  for (const name of files.list()) if (name.startsWith('checkpoint')) files.remove(name)
  rig.reopen()
  assert.equal(rig.read(0, 0, 1), [0])
  assert.equal(rig.read(1, 0, 1), [5])
})

test('background compaction keeps the files near what is live', () => {
  const { rig } = smallRig()
  const random = seededRandom(3)
  for (let i = 0; i < 1500; i++) {
    rig.write(0, random.below(128), 1, i + 1)
    if (i % 8 === 0) rig.shard.background(1)
  }
  works(rig)
  // 128 live blocks fit one segment of 32 pages four times; some more for what is active and free.
  assert.ok(rig.stat('segments') <= 8, `${rig.stat('segments')} segments`)
  assert.is(rig.stat('liveBytes'), 128 * 4096)
})

test('compaction on request packs everything, and ends', () => {
  const { rig } = smallRig()
  for (let block = 0; block < 60; block++) rig.write(0, block, 1, block + 1)
  rig.trim(0, 0, 30)
  rig.flush()
  const before = rig.stat('segments')
  rig.run(rig.op(OpKind.Compact, 0, 0, 0))
  works(rig)
  rig.flush()
  works(rig)
  assert.is(rig.stat('compactionActive'), 0)
  assert.ok(rig.stat('segments') < before || rig.stat('segments') <= 3)
  assert.ok(rig.stat('compactedSegments') > 0)
  assert.equal(rig.read(0, 29, 2), [0, 31])
  const compacted = rig.stat('compactedSegments')
  works(rig)
  assert.is(rig.stat('compactedSegments'), compacted)
})

test('tombstones go once nothing older is left for them to hide', () => {
  const { rig } = smallRig()
  rig.write(0, 0, 20, 1)
  rig.trim(0, 0, 20)
  assert.is(rig.stat('indexEntries') >= 0, true)
  rig.run(rig.op(OpKind.Compact, 0, 0, 0))
  works(rig)
  rig.flush()
  works(rig)
  assert.is(rig.stat('indexEntries'), 0)
  rig.reopen()
  assert.equal(rig.read(0, 0, 1), [0])
})

test('a filesystem that is full makes writes fail and keeps what is there', () => {
  const { rig, files } = smallRig()
  for (let block = 0; block < 100; block++) rig.write(0, block, 1, block + 1)
  rig.flush()
  files.capacityBytes = 0
  let refused = 0
  for (let i = 0; i < 200; i++) {
    const error = rig.write(1, i, 1, 1)
    assert.ok(error === 0 || error === ErrorCode.OutOfSpace)
    if (error !== 0) refused++
  }
  assert.ok(refused > 0)
  assert.equal(rig.read(0, 50, 1), [51])
  files.capacityBytes = Number.POSITIVE_INFINITY
  assert.is(rig.write(0, 50, 1, 5), 0)
  rig.restart()
  assert.equal(rig.read(0, 49, 2), [50, 5])
})

test('the largest write fits the smallest segment, sealed or not', () => {
  const segmentBytes = segmentBytesFor(0, 2)
  for (const sealed of [false, true]) {
    const config = { segmentBytes, capacityBytes: 64 * 1024 * 1024 }
    const rig = new ShardRig({
      ...{ files: new FaultyFiles(seededRandom(5)), config, sealed },
      memoryBytes: 4 * PIECE_BYTES_MAX
    })
    for (let i = 0; i < 4; i++) {
      assert.is(rig.write(0, i * PIECE_BLOCKS_MAX, PIECE_BLOCKS_MAX, i + 1), ErrorCode.Ok)
    }
  }
})

test('small capacities get small segments', () => {
  assert.is(segmentBytesFor(16 * 2 ** 40, 4), 128 * 2 ** 20)
  assert.is(segmentBytesFor(2 ** 40, 4), 64 * 2 ** 20)
  assert.is(segmentBytesFor(4 * 2 ** 30, 2), 16 * 2 ** 20)
  assert.is(segmentBytesFor(2 ** 28, 1), 8 * 2 ** 20)
  assert.is(segmentBytesFor(0, 2), 2 ** 21)
})

test.run()
