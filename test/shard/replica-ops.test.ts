/** What members ask of each other's shards: sums, versions, reads with versions, voids, holes. */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { crc32c } from '../../src/core/checksum.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import {
  CHUNK_SUM_BYTES,
  GROUP_SUM_BYTES,
  LAYER_BYTES,
  OpFlag,
  OpKind,
  READ_VERSIONS_CRCS_AT,
  type ShardOp,
  VERSION_RUN_BYTES,
  VOID_BYTES,
  VersionKind
} from '../../src/shard/op.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { blockValue, fillBlock, seededRandom, ShardRig } from '../helpers/shard-rig.ts'

const test = suite('replica ops')

const makeRig = (seed = 1): ShardRig => {
  const random = seededRandom(seed)
  return new ShardRig({
    files: new FaultyFiles(random),
    random,
    config: { segmentBytes: 64 * 1024, capacityBytes: 8 * 1024 * 1024 }
  })
}

/** Entries of an answer that comes in stretches, as hex. */
function stretches(rig: ShardRig, kind: number, bytes: number, set: (op: ShardOp) => void) {
  const entries: Buffer[] = []
  let sequence = 0
  do {
    const op = rig.op(kind, 0, 0, 1)
    set(op)
    op.sequence = sequence
    assert.is(rig.run(op), 0)
    for (let i = 0; i < op.resultA; i++) {
      entries.push(Buffer.from(rig.memory.subarray(i * bytes, (i + 1) * bytes)))
    }
    sequence = op.resultB
  } while (sequence !== 0)
  return entries
}

interface Sum {
  blocks: number
  low: number
  high: number
}

function groupSums(rig: ShardRig, groups: number, flags = 0): Map<number, Sum> {
  const sums = new Map<number, Sum>()
  const entries = stretches(rig, OpKind.GroupSums, GROUP_SUM_BYTES, (op) => {
    op.chunk = groups
    op.flags = flags
  })
  for (const entry of entries) {
    const group = entry.readUInt32LE(0)
    const sum = sums.get(group) ?? { blocks: 0, low: 0, high: 0 }
    sum.blocks += entry.readUInt32LE(4)
    sum.low = (sum.low + entry.readUInt32LE(8)) >>> 0
    sum.high = (sum.high + entry.readUInt32LE(12)) >>> 0
    sums.set(group, sum)
  }
  return sums
}

const chunkSums = (rig: ShardRig, groups: number, group: number, flags = 0): string[] =>
  stretches(rig, OpKind.ChunkSums, CHUNK_SUM_BYTES, (op) => {
    op.chunk = groups
    op.layerHigh = 0
    op.layerLow = group
    op.flags = flags
  })
    .map((entry) => entry.toString('hex'))
    .sort()

/** Kind and sequence of each block of the range; '' where there is nothing. */
function versions(rig: ShardRig, chunk: number, first: number, count: number): string[] {
  const op = rig.op(OpKind.Versions, chunk, first, count)
  assert.is(rig.run(op), 0)
  return runsOf(rig.memory, op, first, count)
}

function runsOf(memory: Buffer, op: ShardOp, first: number, count: number): string[] {
  const blocks = new Array<string>(count).fill('')
  for (let i = 0; i < op.resultA; i++) {
    const at = op.payload + i * VERSION_RUN_BYTES
    const kind = memory.readUInt32LE(at + 4)
    const letter = kind === VersionKind.Data ? 'd' : kind === VersionKind.Zeroes ? 'z' : 'h'
    const text = `${letter}${memory.readUInt32LE(at + 8)}.${memory.readBigUInt64LE(at + 16)}`
    const from = memory.readUInt16LE(at) - first
    for (let n = 0; n < memory.readUInt16LE(at + 2); n++) {
      assert.is(blocks[from + n], '', 'a block is in one run')
      blocks[from + n] = text
    }
  }
  return blocks
}

interface Version {
  writerEpoch: number
  sequence: number
}

/** Voids versions above `floor` up to `last`. */
function voidOp(rig: ShardRig, chunk: number, first: number, last: Version, floor: Version) {
  const op = rig.op(OpKind.Void, chunk, 0, 1)
  rig.memory.fill(0, 0, VOID_BYTES)
  rig.memory.writeUInt16LE(first, 0)
  rig.memory.writeUInt16LE(1, 2)
  rig.memory.writeUInt32LE(last.writerEpoch, 8)
  rig.memory.writeUInt32LE(floor.writerEpoch, 12)
  rig.memory.writeBigUInt64LE(BigInt(last.sequence), 16)
  rig.memory.writeBigUInt64LE(BigInt(floor.sequence), 24)
  return rig.run(op)
}

const NOTHING: Version = { writerEpoch: 0, sequence: 0 }
/** Until there is nothing to do for a while: work that waits for a sync goes on after one. */
const workThrough = (rig: ShardRig): void => {
  for (let i = 0, idle = 0; i < 400 && idle < 8; i++) {
    idle = rig.shard.background(1) ? 0 : idle + 1
    rig.flush()
  }
}

test('a barrier is answered', () => {
  const rig = makeRig()
  assert.is(rig.run(rig.op(OpKind.Barrier, 0, 0, 0)), 0)
})

test('sums are equal where blocks have the same versions, however these came', () => {
  const one = makeRig(1)
  const other = makeRig(2)
  const random = seededRandom(9)
  const ops: { kind: number; chunk: number; first: number; count: number; sequence: number }[] = []
  for (let sequence = 1; sequence <= 300; sequence++) {
    const first = random.below(CHUNK_BLOCKS - 8)
    const choice = random.below(8)
    const kind = choice === 0 ? OpKind.Trim : choice === 1 ? OpKind.WriteZeroes : OpKind.Write
    ops.push({ kind, chunk: random.below(6), first, count: 1 + random.below(8), sequence })
  }
  const apply = (rig: ShardRig, { kind, chunk, first, count, sequence }: (typeof ops)[number]) => {
    const op = rig.op(kind, chunk, first, count)
    op.sequence = sequence
    op.flags = kind === OpKind.WriteZeroes ? OpFlag.NoHole : OpFlag.KeepHole
    rig.memory.fill(sequence, 0, count * BLOCK_BYTES)
    assert.is(rig.run(op), 0)
  }
  for (const op of ops) apply(one, op)
  groupSums(one, 4)
  // Holes were asked to stay, so the order in which versions come does not matter.
  for (const op of [...ops].reverse()) apply(other, op)
  one.run(Object.assign(one.op(OpKind.HoldHoles, 0, 0, 0), { sequence: 0 }))
  one.run(one.op(OpKind.Compact, 0, 0, 0))
  workThrough(one)
  one.restart()
  for (const flags of [0, OpFlag.WithHoles]) {
    assert.equal([...groupSums(one, 4, flags)].sort(), [...groupSums(other, 4, flags)].sort())
    for (let group = 0; group < 4; group++) {
      assert.equal(chunkSums(one, 4, group, flags), chunkSums(other, 4, group, flags))
    }
  }
  const before = groupSums(one, 1)
  apply(one, { kind: OpKind.Write, chunk: 3, first: 7, count: 1, sequence: 1000 })
  assert.not.equal(groupSums(one, 1), before)
  apply(other, { kind: OpKind.Write, chunk: 3, first: 7, count: 1, sequence: 1000 })
  assert.equal(groupSums(one, 1), groupSums(other, 1))
})

test('sums follow a block that is overwritten where it stands in a crowded chunk', () => {
  const rig = makeRig()
  for (let block = 0; block < 400; block += 2) rig.write(1, block, 1, block)
  for (let block = 0; block < 20; block += 2) {
    const before = groupSums(rig, 1)
    assert.equal(groupSums(rig, 1), before)
    rig.write(1, block, 1, 1000 + block)
    assert.not.equal(groupSums(rig, 1), before)
  }
})

test('a hole that was asked to stay is there after a restart', () => {
  const rig = makeRig()
  const op = rig.op(OpKind.Trim, 1, 100, 4)
  op.flags = OpFlag.KeepHole
  assert.is(rig.run(op), 0)
  const held = versions(rig, 1, 98, 8)
  assert.ok(held[2]!.startsWith('h'))
  rig.flush()
  rig.reopen()
  assert.equal(versions(rig, 1, 98, 8), held)
})

test('a hole counts only where holes are asked for', () => {
  const rig = makeRig()
  rig.write(1, 0, 4, 5)
  const before = groupSums(rig, 1)
  const op = rig.op(OpKind.Trim, 1, 100, 4)
  op.flags = OpFlag.KeepHole
  assert.is(rig.run(op), 0)
  assert.equal(groupSums(rig, 1), before)
  assert.not.equal(groupSums(rig, 1, OpFlag.WithHoles), before)
  assert.is(rig.trim(2, 0, 4), 0)
  assert.equal(versions(rig, 2, 0, 2), ['', ''], 'without the flag there is nothing to keep')
})

test('sums of groups count each chunk in its group, in as many stretches as it takes', () => {
  const rig = makeRig()
  for (let chunk = 0; chunk < 700; chunk++) rig.write(chunk, chunk % 64, 1, chunk)
  const sums = groupSums(rig, 512)
  const expected = new Map<number, number>()
  for (let chunk = 0; chunk < 700; chunk++) {
    const group = groupOfChunk(0, 1, chunk, 512)
    expected.set(group, (expected.get(group) ?? 0) + 1)
  }
  assert.equal(
    [...sums].map(([group, { blocks }]) => [group, blocks]).sort(([a], [b]) => a! - b!),
    [...expected].sort(([a], [b]) => a - b)
  )
  assert.is(chunkSums(rig, 1, 0).length, 700)
  const other = rig.op(OpKind.GroupSums, 4, 0, 1)
  other.familyLow = 99
  other.sequence = 0
  assert.is(rig.run(other), 0)
  assert.is(other.resultA, 0)
})

test('versions tell data, zeroes, holes and nothing', () => {
  const rig = makeRig()
  rig.write(1, 2, 3, 5)
  const zeroes = rig.op(OpKind.WriteZeroes, 1, 4, 2)
  zeroes.flags = OpFlag.NoHole
  rig.run(zeroes)
  rig.trim(1, 2, 1)
  assert.equal(versions(rig, 1, 1, 6), ['', 'h1.3', 'd1.1', 'z1.2', 'z1.2', ''])
})

test('a read with versions gives bytes, versions and checksums of one moment', () => {
  const rig = makeRig()
  rig.write(1, 10, 2, 77)
  rig.write(1, 13, 1, 78)
  const op = rig.op(OpKind.ReadVersions, 1, 9, 6)
  rig.memory.fill(0xee)
  assert.is(rig.run(op), 0)
  assert.equal(runsOf(rig.memory, op, 9, 6), ['', 'd1.1', 'd1.1', '', 'd1.2', ''])
  const values = [0, 77, 77, 0, 78, 0]
  for (const [i, value] of values.entries()) {
    const at = (1 + i) * BLOCK_BYTES
    assert.is(blockValue(rig.memory, at), value)
    const crc = rig.memory.readUInt32LE(READ_VERSIONS_CRCS_AT + 4 * i)
    assert.is(crc, value === 0 ? 0 : crc32c(rig.memory.subarray(at, at + BLOCK_BYTES)))
  }
  assert.is(rig.run(rig.op(OpKind.ReadVersions, 1, 0, 129)), ErrorCode.InvalidArgument)
})

test('layers are listed with their families until they are deleted', () => {
  const rig = makeRig()
  for (let layer = 1; layer <= 3; layer++) {
    const op = rig.op(OpKind.Write, 0, 0, 1)
    op.layerLow = layer
    op.familyLow = 10 + layer
    assert.is(rig.run(op), 0)
  }
  const gone = rig.op(OpKind.DeleteLayer, 0, 0, 0)
  gone.layerLow = 2
  gone.familyLow = 12
  assert.is(rig.run(gone), 0)
  const layers = stretches(rig, OpKind.ListLayers, LAYER_BYTES, () => {})
  assert.equal(
    layers.map((entry) => [entry.readUInt32LE(0), entry.readUInt32LE(8)]),
    [
      [11, 1],
      [13, 3]
    ]
  )
})

test('a void block holds nothing, takes an older version, and refuses the void one', () => {
  const rig = makeRig()
  rig.write(1, 5, 1, 50) // 1.1
  const lost = rig.op(OpKind.Write, 1, 5, 1)
  lost.writerEpoch = 3
  fillBlock(rig.memory, 0, 51)
  assert.is(rig.run(lost), 0)
  const last = { writerEpoch: 3, sequence: lost.sequence }
  assert.is(voidOp(rig, 1, 5, last, { writerEpoch: 2, sequence: 8 }), 0)
  assert.equal(versions(rig, 1, 5, 1), [''])
  assert.is(rig.run(lost), ErrorCode.StaleEpoch)
  const copy = rig.op(OpKind.Write, 1, 5, 1)
  copy.writerEpoch = 2
  copy.sequence = 8
  fillBlock(rig.memory, 0, 52)
  assert.is(rig.run(copy), 0)
  for (let round = 0; round < 2; round++) {
    assert.equal(rig.read(1, 5, 1), [52])
    assert.equal(versions(rig, 1, 5, 1), ['d2.8'])
    rig.reopen()
  }
})

test('a checkpoint brings no void version back', () => {
  const rig = makeRig()
  rig.write(1, 5, 1, 50)
  rig.flush()
  rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0))
  workThrough(rig)
  assert.is(rig.stat('checkpoints'), 1)
  assert.is(voidOp(rig, 1, 5, { writerEpoch: 1, sequence: rig.sequence }, NOTHING), 0)
  rig.reopen()
  assert.equal(versions(rig, 1, 5, 1), [''])
})

test('a void is forgotten when nothing of its time is left, and not before', () => {
  const rig = makeRig()
  rig.write(1, 5, 1, 50)
  assert.is(voidOp(rig, 1, 5, { writerEpoch: 1, sequence: rig.sequence }, NOTHING), 0)
  rig.shard.background(0)
  assert.ok(rig.files.list().includes('voids'))
  for (let i = 0; i < 40; i++) rig.write(2, 0, 8, i)
  for (let round = 0; round < 20 && rig.files.list().includes('voids'); round++) {
    rig.flush()
    rig.run(rig.op(OpKind.Compact, 0, 0, 0))
    workThrough(rig)
    rig.restart()
    assert.equal(versions(rig, 1, 5, 1), [''])
  }
  assert.not.ok(rig.files.list().includes('voids'))
  rig.reopen()
  assert.equal(versions(rig, 1, 5, 1), [''])
})

/** Makes everything dead but what is live in chunk 1, and frees what that leaves empty. */
function churn(rig: ShardRig): void {
  for (let round = 0; round < 6; round++) {
    for (let i = 0; i < 20; i++) rig.write(2, 0, 8, i)
    rig.flush()
    rig.run(rig.op(OpKind.Compact, 0, 0, 0))
    workThrough(rig)
  }
}

const damageIn = (rig: ShardRig): number =>
  rig.log.filter(({ message }) => message === 'damage found').length

test('a void outlives a checkpoint that was begun just before it', () => {
  const rig = makeRig()
  rig.write(1, 5, 1, 50)
  const last = { writerEpoch: 1, sequence: rig.sequence }
  rig.flush()
  rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0))
  rig.shard.background(0)
  assert.is(voidOp(rig, 1, 5, last, NOTHING), 0)
  churn(rig)
  assert.is(rig.stat('checkpoints'), 1)
  rig.reopen()
  assert.equal(versions(rig, 1, 5, 1), [''])
  assert.is(damageIn(rig), 0)
})

test('what a void version had replaced is not missed when its segment is gone', () => {
  const rig = makeRig()
  rig.write(1, 5, 1, 50)
  const floor = { writerEpoch: 1, sequence: rig.sequence }
  rig.flush()
  rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0))
  workThrough(rig)
  rig.write(1, 5, 1, 51)
  const last = { writerEpoch: 1, sequence: rig.sequence }
  churn(rig)
  assert.is(voidOp(rig, 1, 5, last, floor), 0)
  rig.reopen()
  assert.equal(versions(rig, 1, 5, 1), [''])
  assert.is(damageIn(rig), 0)
})

test('voids of another shard are refused', () => {
  const rig = makeRig()
  rig.write(1, 5, 1, 50)
  assert.is(voidOp(rig, 1, 5, { writerEpoch: 1, sequence: 1 }, NOTHING), 0)
  const files = rig.files as FaultyFiles
  files.flipBit('voids', 8 * 100)
  assert.throws(() => rig.reopen(), /voids: the checksum does not match/)
})

test('holes that are held outlive compaction until they are let go', () => {
  const rig = makeRig()
  const holdAbove = (lsn: number): number => {
    const op = rig.op(OpKind.HoldHoles, 0, 0, 0)
    op.sequence = lsn
    assert.is(rig.run(op), 0)
    return op.resultA
  }
  const compact = (): void => {
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 8; i++) rig.write(2, 0, 8, i)
      rig.flush()
      rig.run(rig.op(OpKind.Compact, 0, 0, 0))
      workThrough(rig)
    }
  }
  holdAbove(0)
  rig.write(1, 5, 2, 50)
  rig.trim(1, 5, 1)
  const lsn = holdAbove(0)
  rig.trim(1, 6, 1)
  const holes = versions(rig, 1, 5, 2)
  compact()
  assert.equal(versions(rig, 1, 5, 2), holes)
  assert.ok(holdAbove(lsn) > lsn)
  compact()
  assert.equal(versions(rig, 1, 5, 2), ['', holes[1]], 'copies keep the lsn that they had first')
  holdAbove(2 ** 40)
  compact()
  assert.equal(versions(rig, 1, 5, 2), ['', ''])
})

test.run()
