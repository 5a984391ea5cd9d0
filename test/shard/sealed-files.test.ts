/**
 * What the seal shows of a disk that somebody worked on, and what it cannot show. All checksums
 * are right; nothing here has a key but the shard that reads.
 */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { OpKind } from '../../src/shard/op.ts'
import {
  findBlocks,
  type FoundBlock,
  type RecordField,
  swapBlocks,
  swapField
} from '../helpers/disk-attack.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { blockValue, fillBlock, seededRandom, ShardRig } from '../helpers/shard-rig.ts'

const test = suite('sealed files')
const CHUNK = 3

interface Place {
  readonly family?: number
  readonly layer?: number
  readonly chunk?: number
  readonly block: number
}

class Attacked {
  readonly files = new FaultyFiles(seededRandom(3))
  readonly rig = new ShardRig({
    files: this.files,
    memoryBytes: 16 * BLOCK_BYTES,
    config: { segmentBytes: 64 * 1024, capacityBytes: 8 * 1024 * 1024 },
    sealed: true
  })

  write(place: Place, value: number): void {
    const op = this.op(OpKind.Write, place)
    fillBlock(this.rig.memory, 0, value)
    assert.is(this.rig.run(op), 0)
  }

  /** Its value, or the code of the error. */
  read(place: Place): number | string {
    const op = this.op(OpKind.Read, place)
    const error = this.rig.run(op)
    if (error !== 0) return error === ErrorCode.SealBroken ? 'SealBroken' : `error ${error}`
    return blockValue(this.rig.memory, 0)
  }

  found({ family = 1, layer = 7, chunk = CHUNK, block }: Place): FoundBlock {
    const all = findBlocks(this.files).filter(
      (each) =>
        each.familyLow === family &&
        each.layerLow === layer &&
        each.chunk === chunk &&
        each.block === block
    )
    const newest = all.at(-1)
    assert.ok(newest, 'the block is on the disk')
    return newest!
  }

  /** The disk is worked on while the shard does not run. */
  restart(files: FaultyFiles = this.files): void {
    this.files.kill()
    files.kill()
    this.rig.reopen(files)
  }

  private op(kind: number, { family = 1, layer = 7, chunk = CHUNK, block }: Place) {
    const op = this.rig.op(kind, chunk, block, 1)
    op.familyLow = family
    op.layerLow = layer
    return op
  }
}

const places: Record<string, [Place, Place]> = {
  'blocks of a chunk': [{ block: 1 }, { block: 5 }],
  'chunks of a volume': [
    { chunk: 2, block: 1 },
    { chunk: 4, block: 1 }
  ],
  volumes: [
    { family: 1, block: 1 },
    { family: 2, block: 1 }
  ],
  layers: [
    { layer: 7, block: 1 },
    { layer: 8, block: 1 }
  ]
}

for (const [what, [a, b]] of Object.entries(places)) {
  test(`blocks that were swapped between ${what} do not open`, () => {
    const all = new Attacked()
    all.write(a, 11)
    all.write(b, 22)
    all.write({ block: 9 }, 33)
    swapBlocks(all.found(a), all.found(b))
    all.restart()
    assert.is(all.read(a), 'SealBroken')
    assert.is(all.read(b), 'SealBroken')
    assert.is(all.read({ block: 9 }), 33)
    assert.is(all.rig.stat('checksumErrors'), 0)
    swapBlocks(all.found(a), all.found(b))
    all.restart()
    assert.equal([all.read(a), all.read(b)], [11, 22])
  })
}

const otherPlaces: [RecordField, Place, Place][] = [
  ['first block', { block: 1 }, { block: 5 }],
  ['chunk', { chunk: 2, block: 1 }, { chunk: 4, block: 1 }],
  ['family', { family: 1, block: 1 }, { family: 2, block: 1 }]
]

for (const [field, a, b] of otherPlaces) {
  test(`records that say they are of another ${field} do not open`, () => {
    const all = new Attacked()
    all.write(a, 11)
    all.write(b, 22)
    swapField(field, all.found(a), all.found(b))
    all.restart()
    assert.equal([all.read(a), all.read(b)], ['SealBroken', 'SealBroken'])
    assert.is(all.rig.stat('checksumErrors'), 0)
  })
}

// Layers of a volume share blocks and merge without resealing, so the seal names none: who has
// the disk can show a block of one layer as that of another, which is to put back an older one.
test('records that say they are of another layer of the volume are believed', () => {
  const all = new Attacked()
  const [a, b] = places['layers']!
  all.write(a, 11)
  all.write(b, 22)
  swapField('layer', all.found(a), all.found(b))
  all.restart()
  assert.equal([all.read(a), all.read(b)], [22, 11])
})

test('a disk that is put back as a whole shows its earlier state', () => {
  const all = new Attacked()
  all.write({ block: 1 }, 11)
  all.rig.flush()
  const earlier = all.files.copy()
  all.write({ block: 1 }, 22)
  all.rig.flush()
  all.restart(earlier)
  assert.is(all.read({ block: 1 }), 11)
  assert.is(all.rig.stat('sealErrors') + all.rig.stat('damagedBatches'), 0)
})

/** The first segment's file alone is put back; `later` writes went to it and to others since. */
function withOlderFile(later: number, closed: boolean): Attacked {
  const all = new Attacked()
  all.write({ block: 1 }, 11)
  all.rig.flush()
  const name = all.files.list().find((each) => each.startsWith('seg-'))!
  const earlier = Buffer.from(all.files.bytesOf(name))
  all.write({ block: 1 }, 22)
  for (let i = 1; i <= later; i++) all.write({ block: 3 }, 100 + i)
  all.rig.flush()
  if (closed) all.rig.shard.close()
  const now = all.files.bytesOf(name)
  now.fill(0)
  earlier.copy(now)
  all.restart()
  return all
}

test('an older file is believed where no other knows better', () => {
  const all = withOlderFile(0, false)
  assert.is(all.read({ block: 1 }), 11)
  assert.is(all.rig.stat('damagedBatches'), 0)
})

test('an older file beside newer ones is told as damage, and shows what it had', () => {
  const all = withOlderFile(12, false)
  assert.is(all.rig.stat('damagedBatches'), 1)
  assert.ok(all.rig.log.some(({ fields }) => /cannot be read/.test(JSON.stringify(fields))))
  assert.equal([all.read({ block: 1 }), all.read({ block: 3 })], [11, 112])
})

test('an older file under a checkpoint is told as damage, and what it lost is an error', () => {
  const all = withOlderFile(0, true)
  assert.is(all.rig.stat('damagedBatches'), 1)
  assert.is(all.read({ block: 1 }), `error ${ErrorCode.ChecksumMismatch}`)
})

test.run()
