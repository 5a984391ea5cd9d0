/** Blocks of encrypted volumes in one shard: what stands on its disk, and what opens. */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { SEAL_TAG_BYTES, tagsAtOf } from '../../src/format/batch.ts'
import { OpFlag, OpKind, SEAL_ENTRY_BYTES, SealKind, type ShardOp } from '../../src/shard/op.ts'
import { dataRecordsIn } from '../helpers/data-records.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import {
  blockValue,
  fillBlock,
  seededRandom,
  ShardRig,
  summedMemory
} from '../helpers/shard-rig.ts'

const test = suite('sealed')

const BLOCKS = 16
/** Where tags and seal entries go in the rig's memory: behind the blocks. */
const TAGS_AT = BLOCKS * BLOCK_BYTES
const CHUNK = 3

function makeRig(sealed = true, tagBytesMax = 1024 * 1024): ShardRig {
  const random = seededRandom(5)
  return new ShardRig({
    files: new FaultyFiles(random),
    random,
    memoryBytes: TAGS_AT + BLOCK_BYTES,
    config: { segmentBytes: 64 * 1024, capacityBytes: 8 * 1024 * 1024, tagBytesMax },
    sealed
  })
}

/** Everything on the rig's disk. */
function diskOf(rig: ShardRig): Buffer {
  const parts = rig.files.list().map((name) => {
    const handle = rig.files.open(name, 'readOnly')
    const bytes = Buffer.alloc(rig.files.size(handle))
    rig.files.read(handle, 0, bytes, 0, bytes.length)
    rig.files.close(handle)
    return bytes
  })
  return Buffer.concat(parts)
}

/** Reads blocks as they are, with what opens them behind them. */
function readSealed(rig: ShardRig, first: number, count: number): ShardOp {
  const op = rig.op(OpKind.Read, CHUNK, first, count)
  op.keySlot = 0
  op.flags = OpFlag.Sealed
  op.tags = TAGS_AT
  assert.is(rig.run(op), 0)
  return op
}

/** What a member, or a disk whose checksums are right, might come up with. */
function plant(rig: ShardRig, block: number, sealed: { bytes: Buffer; tag: Buffer }): void {
  const op = rig.op(OpKind.Write, CHUNK, block, 1)
  op.keySlot = 0
  op.flags = OpFlag.Sealed
  op.tags = TAGS_AT
  sealed.bytes.copy(rig.memory)
  sealed.tag.copy(rig.memory, TAGS_AT)
  assert.is(rig.run(op), 0)
}

function take(rig: ShardRig, block: number): { bytes: Buffer; tag: Buffer; op: ShardOp } {
  const op = readSealed(rig, block, 1)
  const bytes = Buffer.from(rig.memory.subarray(0, BLOCK_BYTES))
  return { bytes, tag: Buffer.from(rig.memory.subarray(TAGS_AT, TAGS_AT + SEAL_TAG_BYTES)), op }
}

const readError = (rig: ShardRig, first: number, count = 1): ShardOp => {
  const op = rig.op(OpKind.Read, CHUNK, first, count)
  rig.run(op)
  return op
}

/** Data records of all batches on the rig's disk, of whichever life of a segment. */
const recordsOf = (rig: ShardRig) => dataRecordsIn(diskOf(rig))

test('no plaintext is on the disk, and what was written stays as it is in memory', () => {
  for (const sealed of [false, true]) {
    const rig = makeRig(sealed)
    rig.write(CHUNK, 0, 4, 0x31415926)
    const plain = Buffer.from(rig.memory.subarray(0, 64))
    assert.is(blockValue(rig.memory, 0), 0x31415926)
    assert.is(diskOf(rig).includes(plain), !sealed)
    assert.equal(rig.read(CHUNK, 0, 4), [0x31415926, 0x31415926, 0x31415926, 0x31415926])
  }
})

test('a write that is carried out again has the same ciphertext and tag', () => {
  const rig = makeRig()
  const op = rig.op(OpKind.Write, CHUNK, 2, 1)
  fillBlock(rig.memory, 0, 77)
  assert.is(rig.run(op), 0)
  const first = take(rig, 2)
  fillBlock(rig.memory, 0, 77)
  assert.is(rig.run(op), 0)
  const second = take(rig, 2)
  assert.ok(first.bytes.equals(second.bytes) && first.tag.equals(second.tag))
})

test('sealed blocks go to another shard without a key, and open there', () => {
  const from = makeRig()
  from.write(CHUNK, 1, 2, 11)
  const read = readSealed(from, 0, 4)
  const view = new DataView(from.memory.buffer, from.memory.byteOffset)
  const kinds = [0, 1, 2, 3].map((i) => view.getUint32(read.tags + i * SEAL_ENTRY_BYTES + 28, true))
  assert.equal(kinds, [SealKind.Zeroes, SealKind.Sealed, SealKind.Sealed, SealKind.Zeroes])
  assert.is(view.getUint32(read.tags + SEAL_ENTRY_BYTES + 16, true), 1)
  assert.is(view.getUint32(read.tags + SEAL_ENTRY_BYTES + 20, true), 1)
  const to = makeRig()
  const write = to.op(OpKind.Write, CHUNK, 1, 2)
  write.keySlot = 0
  write.flags = OpFlag.Sealed
  write.tags = TAGS_AT
  write.writerEpoch = 1
  write.sequence = 1
  from.memory.copy(to.memory, 0, BLOCK_BYTES, 3 * BLOCK_BYTES)
  for (const i of [1, 2]) {
    const at = TAGS_AT + i * SEAL_ENTRY_BYTES
    from.memory.copy(to.memory, TAGS_AT + (i - 1) * SEAL_TAG_BYTES, at, at + SEAL_TAG_BYTES)
  }
  assert.is(to.run(write), 0)
  assert.equal(to.read(CHUNK, 0, 4), [0, 11, 11, 0])
  to.restart()
  assert.equal(to.read(CHUNK, 0, 4), [0, 11, 11, 0])
})

test('a block that was changed, moved or is of another write does not open', () => {
  const rig = makeRig()
  rig.write(CHUNK, 0, 1, 1)
  const old = take(rig, 0)
  rig.write(CHUNK, 0, 1, 2)
  rig.write(CHUNK, 1, 1, 3)
  const present = take(rig, 1)

  plant(rig, 0, old)
  assert.is(readError(rig, 0).error, ErrorCode.SealBroken, 'an older write under a newer version')
  plant(rig, 2, present)
  assert.is(readError(rig, 2).error, ErrorCode.SealBroken, 'another block')
  present.bytes[4000]! ^= 1
  plant(rig, 1, present)
  const failed = readError(rig, 0, 4)
  assert.is(failed.error, ErrorCode.SealBroken)
  assert.is(failed.resultA, 0, 'the first bad block is named')
  assert.is(readError(rig, 1).resultA, 1)
  assert.ok(rig.stat('sealErrors') >= 4)
  assert.is(rig.stat('checksumErrors'), 0)
})

test('no bit of a sealed block or its tag can change', () => {
  const rig = makeRig()
  rig.write(CHUNK, 0, 1, 1)
  const good = take(rig, 0)
  const { sequence } = rig
  for (let at = 0; at < BLOCK_BYTES + SEAL_TAG_BYTES; at += at < BLOCK_BYTES ? 97 : 1) {
    const bad = { bytes: Buffer.from(good.bytes), tag: Buffer.from(good.tag) }
    if (at < BLOCK_BYTES) bad.bytes[at]! ^= 0x10
    else bad.tag[at - BLOCK_BYTES]! ^= 0x10
    rig.sequence = 0 // under the version of the write itself
    plant(rig, 0, bad)
    assert.is(readError(rig, 0).error, ErrorCode.SealBroken, `byte ${at}`)
  }
  rig.sequence = 0
  plant(rig, 0, good)
  rig.sequence = sequence
  assert.equal(rig.read(CHUNK, 0, 1), [1])
})

test('plain data in the place of sealed data does not open, nor does zeroes as data', () => {
  const rig = makeRig()
  rig.write(CHUNK, 0, 1, 1)
  const op = rig.op(OpKind.Write, CHUNK, 0, 1)
  op.keySlot = 0
  rig.memory.fill(0, 0, BLOCK_BYTES)
  assert.is(rig.run(op), 0)
  assert.is(readError(rig, 0).error, ErrorCode.SealBroken)
})

test('who is told that a volume is not encrypted reads noise', () => {
  const rig = makeRig()
  rig.write(CHUNK, 0, 1, 65)
  const op = rig.op(OpKind.Read, CHUNK, 0, 1)
  op.keySlot = 0
  assert.is(rig.run(op), 0)
  assert.not.ok(rig.memory.subarray(0, BLOCK_BYTES).includes(Buffer.alloc(8, 65)))
  assert.ok(new Set(rig.memory.subarray(0, BLOCK_BYTES)).size > 200)
})

test('without the key nothing is written or read, and with another one nothing opens', () => {
  const rig = makeRig()
  rig.write(CHUNK, 0, 1, 1)
  const other = rig.keys.hold(Buffer.alloc(32, 9))
  const read = rig.op(OpKind.Read, CHUNK, 0, 1)
  read.keySlot = other
  assert.is(rig.run(read), ErrorCode.SealBroken)
  rig.keys.drop(rig.keySlot)
  assert.is(readError(rig, 0).error, ErrorCode.Locked)
  assert.is(rig.write(CHUNK, 0, 1, 2), ErrorCode.Locked)
  assert.is(readError(rig, 5).error, 0, 'where nothing is there is nothing to open')
})

test('tags that memory has no room for are read again from the segments', () => {
  const rig = makeRig(true, 0)
  for (let block = 0; block < BLOCKS; block++) {
    for (let value = 1; value <= 3; value++) rig.write(CHUNK, block, 1, 100 * value + block)
  }
  for (let round = 0; round < 2; round++) {
    for (const block of [15, 0, 7, 3]) assert.equal(rig.read(CHUNK, block, 1), [300 + block])
    rig.restart()
  }
  rig.shard.background(0)
  assert.ok(rig.stat('tagBytes') <= 2 * 256, `${rig.stat('tagBytes')} bytes of tags`)
})

test('under one nonce there is one ciphertext, whatever happened to the shard', () => {
  const random = seededRandom(11)
  const files = new FaultyFiles(random)
  const config = { segmentBytes: 64 * 1024, capacityBytes: 4 * 1024 * 1024, freeSegmentsMax: 99 }
  const memoryBytes = TAGS_AT + BLOCK_BYTES
  const rig = new ShardRig({ files, random, memoryBytes, config, sealed: true })
  const seen = new Map<string, string>()
  let writerEpoch = 1
  let records = 0
  const collect = (): void => {
    for (const { record, bytes, view } of recordsOf(rig)) {
      for (let i = 0; i < record.blockCount; i++) {
        const { firstBlock, writerEpoch: epoch, sequence } = record
        const nonce = `${epoch} ${sequence} ${record.chunk} ${firstBlock + i}`
        const at = tagsAtOf(record) + i * SEAL_TAG_BYTES
        const tag = bytes.toString('hex', at, at + SEAL_TAG_BYTES)
        const crc = view.getUint32(record.checksumsAt + 4 * i)
        assert.is(seen.get(nonce) ?? `${crc} ${tag}`, `${crc} ${tag}`, nonce)
        seen.set(nonce, `${crc} ${tag}`)
        records++
      }
    }
  }
  for (let step = 0; step < 400; step++) {
    const choice = random.below(24)
    if (choice < 16) {
      const first = random.below(BLOCKS - 4)
      const op = rig.op(OpKind.Write, CHUNK, first, 1 + random.below(4))
      op.writerEpoch = writerEpoch
      for (let i = 0; i < op.blockCount; i++) fillBlock(rig.memory, i * BLOCK_BYTES, random.u32())
      rig.run(op)
      // The worker died over it: it is carried out again.
      if (random.below(5) === 0) rig.run(op)
    } else if (choice < 18) rig.flush()
    else if (choice < 21) for (let i = 0; i < 10; i++) rig.shard.background(0)
    else if (choice === 21) rig.run(rig.op(OpKind.Compact, 0, 0, 0))
    else {
      collect()
      if (choice === 22) files.kill()
      else files.crash('some')
      rig.reopen()
      // Whoever writes next took a writerEpoch that nobody had; sequences begin again.
      writerEpoch++
      rig.sequence = 0
    }
  }
  collect()
  assert.ok(records > 500 && seen.size > 200, `${records} blocks under ${seen.size} nonces`)
})

test('of a batch of plain and sealed writes each block has its own checksum', () => {
  const files = new FaultyFiles(seededRandom(5))
  const config = { segmentBytes: 1024 * 1024 }
  const rig = new ShardRig({ files, config, sealed: true, summed: summedMemory() })
  const counts = [1, 1, 5, 2, 3, 1, 16, 1, 7]
  const isSealed = (write: number): boolean => [1, 2, 5, 6].includes(write)
  const opOf = (rig: ShardRig, kind: number, write: number): ShardOp => {
    const op = rig.op(kind, CHUNK, 20 * write, counts[write]!)
    op.payload = 20 * write * BLOCK_BYTES
    if (!isSealed(write)) op.keySlot = 0
    return op
  }
  const patternOf = (write: number, block: number): number => 1000 * write + block
  const ops = counts.map((count, write) => {
    const op = opOf(rig, OpKind.Write, write)
    for (let i = 0; i < count; i++) {
      fillBlock(rig.memory, op.payload + i * BLOCK_BYTES, patternOf(write, i))
    }
    return op
  })
  rig.shard.execute(ops, ops.length)
  rig.flush()
  assert.equal(
    ops.map((op) => op.error),
    counts.map(() => 0)
  )
  // Another one reads, which takes checksums by the native package.
  rig.shard.close()
  const other = new ShardRig({ files, config, sealed: true, format: false })
  for (const [write, count] of counts.entries()) {
    const op = opOf(other, OpKind.Read, write)
    assert.is(other.run(op), 0)
    for (let i = 0; i < count; i++) {
      assert.is(blockValue(other.memory, op.payload + i * BLOCK_BYTES), patternOf(write, i))
    }
  }
  assert.is(other.stat('checksumErrors'), 0)
})

test.run()
