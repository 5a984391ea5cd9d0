import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { crc32c } from '../../src/core/checksum.ts'
import { LEVEL_MAX } from '../../src/core/levels.ts'
import {
  decodeSuperblock,
  encodeSuperblock,
  ReshardPhase,
  SUPERBLOCK_BYTES,
  SUPERBLOCK_COPY_BYTES,
  type Superblock,
  superblockCopyOffset
} from '../../src/format/superblock.ts'
import { equalGolden } from '../helpers/golden.ts'

const test = suite('superblock')

const superblock: Superblock = {
  formatVersion: 1,
  generation: 3,
  clusterId: '000102030405060708090a0b0c0d0e0f',
  peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
  shard: 2,
  shards: 4,
  segmentBytes: 134217728,
  bootCounter: 5,
  createdMs: 1700000000000,
  reshardPhase: ReshardPhase.Copying,
  reshardTo: 8,
  reshardDone: 2
}

function fileOf(...copies: readonly Superblock[]): Buffer {
  const file = Buffer.alloc(SUPERBLOCK_BYTES)
  for (const copy of copies)
    encodeSuperblock(copy).copy(file, superblockCopyOffset(copy.generation))
  return file
}

test('a superblock copy has its golden bytes', () => {
  equalGolden(encodeSuperblock(superblock), [
    '54535550dc3de5b00000000100000002',
    '00000000000000030001020304050607',
    '08090a0b0c0d0e0ff0f1f2f3f4f5f6f7',
    'f8f9fafbfcfdfeff0000000408000000',
    '00000000000000050000018bcfe56800',
    '000000010000000800000002'
  ])
})

test('the valid copy with the higher generation counts', () => {
  const newer = { ...superblock, generation: 4, bootCounter: 6 }
  const file = fileOf(superblock, newer)
  assert.equal(decodeSuperblock(file, 's'), newer)
  file[superblockCopyOffset(4) + 50]! ^= 1
  assert.equal(decodeSuperblock(file, 's'), superblock)
  assert.equal(decodeSuperblock(fileOf(superblock), 's'), superblock)
})

test('a file without a valid copy is refused by name', () => {
  const file = fileOf(superblock)
  for (let bit = 0; bit < 96 * 8; bit++) {
    const flipped = Buffer.from(file)
    flipped[superblockCopyOffset(3) + (bit >> 3)]! ^= 1 << (bit & 7)
    assert.throws(() => decodeSuperblock(flipped, 'D/superblock'), /D\/superblock holds no valid/)
  }
  assert.throws(() => decodeSuperblock(Buffer.alloc(0), 's'), /no valid/)
  assert.throws(() => decodeSuperblock(file.subarray(0, 5000), 's'), /no valid/)
})

test('a newer format is refused with both versions', () => {
  const file = fileOf({ ...superblock, generation: 2 })
  file.writeUInt32BE(LEVEL_MAX + 1, 8)
  file.writeUInt32BE(crc32c(file.subarray(8, SUPERBLOCK_COPY_BYTES)), 4)
  const refused = new RegExp(
    `s has format version ${LEVEL_MAX + 1}, this .* knows 1 to ${LEVEL_MAX}`
  )
  assert.throws(() => decodeSuperblock(file, 's'), refused)
  // Also where the copy before it is of a format that we know.
  const older = encodeSuperblock({ ...superblock, generation: 1 })
  older.copy(file, superblockCopyOffset(1))
  assert.throws(() => decodeSuperblock(file, 's'), refused)
})

test.run()
