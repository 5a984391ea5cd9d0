/** FindChunks against what each chunk says by itself, over layers, restarts and compaction. */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ErrorCode } from '../../src/core/errors.ts'
import { nextLayerLow } from '../../src/core/layer-ids.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import {
  DROP_BYTES,
  GROUP_BITS_PAGES,
  OpFlag,
  OpKind,
  type ShardOp,
  StatusExtent
} from '../../src/shard/op.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { seededRandom, ShardRig } from '../helpers/shard-rig.ts'

const test = suite('finding chunks')
const seed = Number(process.env['SEED'] ?? 1)
const ROOT = 77
const START = GROUP_BITS_PAGES * BLOCK_BYTES
/** Some beside each other, some in far pages. */
const CHUNKS = [0, 1, 2, 31, 32, 700, 1023, 1024, 1025, 5000, 2 ** 22, 2 ** 22 + 1, 2 ** 24 - 1]

const makeRig = (): ShardRig => {
  const random = seededRandom(seed)
  const config = { segmentBytes: 64 * 1024, capacityBytes: 32 * 1024 * 1024 }
  return new ShardRig({ files: new FaultyFiles(random), random, config })
}

interface Asked {
  readonly layer: number
  readonly since?: number
  readonly first?: number
  readonly end?: number
  readonly groups?: number
  readonly wanted?: readonly number[]
}

function opOf(rig: ShardRig, asked: Asked): ShardOp {
  const { layer, since, first = 0, end = 2 ** 24, groups = 1, wanted = [0] } = asked
  const op = rig.op(OpKind.FindChunks, groups, 0, 1)
  op.layerLow = layer
  op.flags = since === undefined ? 0 : OpFlag.Since
  op.writerEpoch = 0
  op.sequence = since ?? 0
  rig.memory.fill(0, 0, START)
  for (const group of wanted) rig.memory[group >>> 3]! |= 1 << (group & 7)
  rig.memory.writeUInt32LE(first, START)
  rig.memory.writeUInt32LE(end, START + 4)
  return op
}

/** All of it, as often as the answer ends early. */
function find(rig: ShardRig, asked: Asked): number[] {
  const { first = 0, end = 2 ** 24 } = asked
  const found: number[] = []
  for (let from = first; from < end; ) {
    const op = opOf(rig, { ...asked, first: from })
    assert.is(rig.run(op), 0)
    for (let i = 0; i < op.resultA; i++) found.push(rig.memory.readUInt32LE(START + 4 * i))
    assert.ok(op.resultB > from, 'it goes on')
    from = op.resultB
  }
  return found
}

function drop(rig: ShardRig, chunk: number): void {
  const op = rig.op(OpKind.DropChunks, 1, 0, 0)
  op.sequence = 1
  rig.memory.fill(0, 0, DROP_BYTES)
  rig.memory.writeUInt32LE(1, 0)
  rig.memory.writeUInt32LE(chunk, 8)
  assert.is(rig.run(op), 0)
}

/** Does a chunk by itself say that it is more than a hole, or unchanged? */
function shows(rig: ShardRig, chunk: number, layer: number, since?: number): boolean {
  const op = rig.op(OpKind.BlockStatus, chunk, 0, 1024)
  op.layerLow = layer
  op.flags = since === undefined ? 0 : OpFlag.Since
  op.writerEpoch = 0
  op.sequence = since ?? 0
  assert.is(rig.run(op), 0)
  const none = since === undefined ? StatusExtent.Hole : StatusExtent.Unchanged
  return op.resultA > 1 || rig.memory.readUInt32LE(4) !== none
}

test(`whatever shows anything is found, in any layer (SEED=${seed})`, () => {
  const random = seededRandom(seed)
  const rig = makeRig()
  const heads = [ROOT]
  const pick = (): number => CHUNKS[random.below(CHUNKS.length)]!
  const run = (kind: number, chunk: number, first: number, count: number): void => {
    const op = rig.op(kind, chunk, first, count)
    op.layerLow = heads.at(-1)!
    assert.is(rig.run(op), 0)
  }
  let missing = 0
  for (let step = 0; step < 400; step++) {
    const what = random.below(20)
    if (what < 9) run(OpKind.Write, pick(), random.below(1000), 1 + random.below(3))
    else if (what < 13) run(OpKind.Trim, pick(), 0, 1024)
    else if (what < 14) run(OpKind.WriteZeroes, pick(), random.below(1000), 5)
    else if (what < 15 && heads.length < 14) heads.push(nextLayerLow(heads.at(-1)!))
    else if (what < 16) rig.shard.background(1)
    else if (what < 17 && step % 3 === 0) rig.restart()
    if (step % 5 !== 0) continue
    const layer = heads[random.below(heads.length)]!
    const below = heads.slice(0, heads.indexOf(layer) + 1)
    const since = random.below(2) === 0 ? undefined : below[random.below(below.length)]
    const ask = since === undefined ? { layer } : { layer, since }
    const found = find(rig, ask)
    assert.equal(
      found,
      [...new Set(found)].sort((one, other) => one - other),
      'in order'
    )
    for (const chunk of CHUNKS) {
      if (found.includes(chunk)) continue
      missing++
      assert.not(shows(rig, chunk, layer, since), `step ${step}: chunk ${chunk} is not found`)
    }
    for (const chunk of found) assert.ok(CHUNKS.includes(chunk), 'nobody wrote to it')
  }
  assert.ok(missing > 100, 'some have nothing')
})

test('an answer is of as many as it has room for, of the groups that are wanted', () => {
  const rig = makeRig()
  const written: number[] = []
  for (let chunk = 5; chunk < 5 + 3 * 2500; chunk += 3) {
    assert.is(rig.write(chunk, chunk % 1024, 1, chunk), 0)
    written.push(chunk)
  }
  const layer = rig.layerLow
  const op = opOf(rig, { layer })
  assert.is(rig.run(op), 0)
  assert.is(op.resultA, BLOCK_BYTES / 4)
  assert.is(op.resultB, written[BLOCK_BYTES / 4]!)
  assert.equal(find(rig, { layer }), written)
  const inside = (chunk: number): boolean => chunk >= 300 && chunk < 4001
  assert.equal(find(rig, { layer, first: 300, end: 4001 }), written.filter(inside))
  const groups = 256
  const wanted = [3, 77, 254]
  const isWanted = (chunk: number): boolean => wanted.includes(groupOfChunk(0, 1, chunk, groups))
  assert.equal(find(rig, { layer, groups, wanted }), written.filter(isWanted))
  drop(rig, written[7]!)
  assert.equal(find(rig, { layer }), [...written.slice(0, 7), ...written.slice(8)])
})

test('what does not stand on the other layer is refused, and what nobody knows has nothing', () => {
  const rig = makeRig()
  rig.write(9, 0, 1, 1)
  const op = opOf(rig, { layer: rig.layerLow, since: nextLayerLow(rig.layerLow) })
  assert.is(rig.run(op), ErrorCode.InvalidArgument)
  assert.equal(find(rig, { layer: 12345 }), [])
  const wrong = opOf(rig, { layer: rig.layerLow, groups: 3 })
  assert.is(rig.run(wrong), ErrorCode.InvalidArgument)
})

test.run()
