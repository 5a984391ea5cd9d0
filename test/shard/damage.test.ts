import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ErrorCode } from '../../src/core/errors.ts'
import { decodeSegmentHeader, SegmentUse } from '../../src/format/segment.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { OpKind } from '../../src/shard/op.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { seededRandom, ShardRig, summedMemory } from '../helpers/shard-rig.ts'

const test = suite('damage')

const PAGE_BITS = 4096 * 8

/** A shard on a faulty disk, with three flushed writes in one segment: chunk 0, blocks 0, 1, 2. */
function rigWithBlocks(): { rig: ShardRig; files: FaultyFiles } {
  const files = new FaultyFiles(seededRandom(7))
  const rig = new ShardRig({ files })
  for (let block = 0; block < 3; block++) rig.write(0, block, 1, 10 + block)
  rig.flush()
  // A later header, by which recovery knows that the ones before are durable.
  rig.write(0, 9, 1, 19)
  return { rig, files }
}

const problems = (rig: ShardRig): unknown[] =>
  rig.log.filter((line) => line.message === 'damage found').map((line) => line.fields['kind'])

/** Page of batch n (0..): a header and one payload page each, behind the segment header. */
const headerPage = (batch: number): number => 1 + 2 * batch

test('in a long run, read in pieces, the one block that is damaged is named', () => {
  const files = new FaultyFiles(seededRandom(7))
  const config = { segmentBytes: 2 * 1024 * 1024 }
  const rig = new ShardRig({ files, config, summed: summedMemory() })
  rig.write(0, 0, 200, 21)
  assert.equal(rig.read(0, 0, 200), new Array(200).fill(21))
  for (const block of [199, 130, 64, 0]) {
    files.flipBit('seg-000000', (headerPage(0) + 1 + block) * PAGE_BITS + 9)
    const op = rig.op(OpKind.Read, 0, 0, 200)
    assert.is(rig.run(op), ErrorCode.ChecksumMismatch)
    assert.is(op.resultA, block)
  }
  assert.equal(rig.read(0, 1, 63), new Array(63).fill(21))
})

test('a flipped bit in a payload is an error for that block, and for no other', () => {
  const { rig, files } = rigWithBlocks()
  files.flipBit('seg-000000', (headerPage(1) + 1) * PAGE_BITS + 77)
  assert.equal(rig.read(0, 0, 1), [10])
  assert.throws(() => rig.read(0, 1, 1), /ChecksumMismatch/)
  assert.equal(rig.read(0, 2, 1), [12])
  const op = rig.op(OpKind.Read, 0, 0, 3)
  assert.is(rig.run(op), ErrorCode.ChecksumMismatch)
  assert.is(op.resultA, 1)
  rig.restart()
  assert.throws(() => rig.read(0, 1, 1), /ChecksumMismatch/)
  assert.equal(rig.read(0, 2, 1), [12])
  // A new write of the block heals it.
  rig.write(0, 1, 1, 99)
  assert.equal(rig.read(0, 0, 3), [10, 99, 12])
})

test('a flipped bit in a durable batch header loses that batch by name, and none behind it', () => {
  const { rig, files } = rigWithBlocks()
  files.flipBit('seg-000000', headerPage(1) * PAGE_BITS + 8 * 100)
  files.kill()
  rig.reopen()
  assert.equal(problems(rig), ['batchLost'])
  assert.is(rig.stat('damagedBatches'), 1)
  assert.equal(rig.read(0, 0, 1), [10])
  assert.equal(rig.read(0, 2, 1), [12])
  assert.equal(rig.read(0, 9, 1), [19])
})

test('a flipped bit in the header of a segment is repaired from its batches', () => {
  const { rig, files } = rigWithBlocks()
  files.flipBit('seg-000000', 8 * 70)
  files.kill()
  rig.reopen()
  assert.equal(problems(rig), ['segmentHeader'])
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
  rig.log.length = 0
  rig.reopen()
  assert.equal(problems(rig), [])
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
})

test('a flipped bit in the header of a sealed segment is repaired from its trailer', () => {
  const { rig, files } = rigWithBlocks()
  rig.shard.close()
  files.flipBit('seg-000000', 8 * 70)
  rig.reopen()
  assert.equal(problems(rig), ['segmentHeader'])
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
  rig.log.length = 0
  rig.reopen()
  assert.equal(problems(rig), [])
})

test('a flipped bit in a footer or trailer only costs time', () => {
  for (const where of ['footer', 'trailer']) {
    const { rig, files } = rigWithBlocks()
    rig.shard.close()
    const last = files.bytesOf('seg-000000').length / 4096 - 1
    const page = where === 'trailer' ? last : headerPage(4)
    files.flipBit('seg-000000', page * PAGE_BITS + 8 * 30)
    rig.reopen()
    assert.equal(rig.read(0, 0, 3), [10, 11, 12], where)
    assert.equal(rig.read(0, 9, 1), [19], where)
  }
})

/** Enough records, and a checkpoint of them, then some more. */
function rigWithCheckpoint(): { rig: ShardRig; files: FaultyFiles } {
  const { rig, files } = rigWithBlocks()
  rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0))
  while (rig.shard.background(0));
  rig.flush()
  rig.shard.background(10)
  assert.is(rig.stat('checkpoints'), 1)
  rig.write(0, 2, 1, 22)
  rig.flush()
  return { rig, files }
}

test('recovery starts from a checkpoint and replays only what came after', () => {
  const { rig } = rigWithCheckpoint()
  rig.reopen()
  assert.is(rig.stat('recoveryRecords'), 1)
  assert.equal(rig.read(0, 0, 3), [10, 11, 22])
  assert.equal(rig.read(0, 9, 1), [19])
})

test('a damaged checkpoint is named, and everything comes from the segments', () => {
  for (const bit of [8 * 20, PAGE_BITS + 8 * 3, PAGE_BITS + 8 * 90]) {
    const { rig, files } = rigWithCheckpoint()
    files.flipBit('checkpoint-1', bit)
    rig.reopen()
    assert.equal(problems(rig), ['checkpoint'])
    assert.is(rig.stat('recoveryRecords'), 5)
    assert.equal(rig.read(0, 0, 3), [10, 11, 22])
  }
})

function scrub(rig: ShardRig): void {
  rig.run(rig.op(OpKind.Scrub, 0, 0, 0))
  while (rig.shard.background(5));
}

test('a missing segment is named, and its blocks are errors rather than zeroes', () => {
  const { rig, files } = rigWithCheckpoint()
  rig.shard.close()
  files.remove('seg-000000')
  rig.reopen()
  assert.is(problems(rig)[0], 'segmentMissing')
  assert.ok(problems(rig).includes('blocksLost'))
  const missing = rig.stat('missingBlocks')
  assert.ok(missing > 0)
  assert.throws(() => rig.read(0, 0, 1), /ChecksumMismatch/)
  assert.throws(() => rig.read(0, 9, 1), /ChecksumMismatch/)
  assert.is(rig.stat('checksumErrors'), 0)
  assert.equal(rig.read(0, 500, 1), [0])
  scrub(rig)
  assert.is(rig.stat('scrubErrorsLast'), missing)
  rig.write(0, 0, 1, 5)
  assert.equal(rig.read(0, 0, 1), [5])
  rig.shard.background(1)
  assert.is(rig.stat('missingBlocks'), missing - 1)
})

test('a segment whose file is taken away while it is open is told as missing', () => {
  const { rig, files } = rigWithCheckpoint()
  scrub(rig)
  assert.is(rig.stat('scrubErrorsLast'), 0)
  const [name] = files.list().filter((each) => each.startsWith('seg-'))
  files.remove(name!)
  scrub(rig)
  assert.ok(rig.stat('missingBlocks') > 0)
  assert.is(rig.stat('scrubErrorsLast'), rig.stat('missingBlocks'))
})

test('a truncated segment is named, and what is left of it is served', () => {
  const { rig, files } = rigWithBlocks()
  rig.shard.close()
  const handle = files.open('seg-000000', 'existing')
  files.truncate(handle, (headerPage(2) + 1) * 4096)
  rig.reopen()
  assert.ok(problems(rig).includes('batchLost'))
  assert.equal(rig.read(0, 0, 2), [10, 11])
})

test('both copies of the superblock guard each other', () => {
  const { rig, files } = rigWithBlocks()
  files.flipBit('superblock', PAGE_BITS + 100)
  rig.reopen()
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
  files.flipBit('superblock', 100)
  assert.throws(() => rig.reopen(), /no valid superblock/)
})

test('a flipped bit anywhere in any file never makes a read answer with wrong bytes', () => {
  const random = seededRandom(11)
  for (let round = 0; round < 150; round++) {
    const { rig, files } = rigWithCheckpoint()
    rig.trim(0, 9, 1)
    rig.write(0, 3, 2, 13)
    rig.flush()
    rig.write(1, 0, 1, 1) // tells recovery what was durable
    if (round % 2 === 0) rig.shard.close()
    const names = files.list().filter((name) => name !== 'superblock')
    const name = names[random.below(names.length)]!
    // Where something is: the rest of a file is empty.
    const pages = Math.min(16, files.bytesOf(name).length / 4096)
    files.flipBit(name, random.below(pages * PAGE_BITS))
    rig.reopen()
    const isNamed = problems(rig).length > 0
    const expected = [10, 11, 22, 13, 13, 0, 0, 0, 0, 0]
    const older = [0, 0, 12, 0, 0, 0, 0, 0, 0, 19]
    for (let block = 0; block < 10; block++) {
      let value = -2
      try {
        value = rig.read(0, block, 1)[0]!
      } catch {
        continue
      }
      if (value === expected[block]) continue
      // A header that was lost may show what was there before: then it was reported.
      assert.ok(isNamed && value === older[block], `round ${round} ${name}: ${block} is ${value}`)
    }
  }
})

test('a read error of the disk is an error for the read, and the next one is served', () => {
  const { rig, files } = rigWithBlocks()
  files.fault = (call) => (call === 'read' ? 'EIO' : '')
  const op = rig.op(OpKind.Read, 0, 0, 1)
  assert.is(rig.run(op), ErrorCode.DiskFailure)
  files.fault = () => ''
  assert.equal(rig.read(0, 0, 1), [10])
})

test('a failed write fails its ops only, and is never brought back by recovery', () => {
  for (const errno of ['EIO', 'ENOSPC'] as const) {
    const { rig, files } = rigWithBlocks()
    let failing = true
    files.fault = (call) => (call === 'write' && failing ? errno : '')
    const code = errno === 'EIO' ? ErrorCode.DiskFailure : ErrorCode.OutOfSpace
    assert.is(rig.write(0, 0, 2, 66), code)
    assert.is(rig.trim(0, 2, 1), code)
    assert.equal(rig.read(0, 0, 3), [10, 11, 12])
    failing = false
    assert.is(rig.write(0, 2, 1, 32), 0)
    rig.flush()
    assert.equal(rig.read(0, 0, 3), [10, 11, 32])
    files.kill()
    rig.reopen()
    assert.equal(rig.read(0, 0, 3), [10, 11, 32])
    assert.equal(problems(rig), [])
  }
})

test('two failed writes in a row void what either left behind', () => {
  // The payload fails with its header written, then the footer; then the next segment's first.
  const outcomes = [true, false, false, true, false]
  for (let seed = 1; seed < 30; seed++) {
    const files = new FaultyFiles(seededRandom(seed))
    const rig = new ShardRig({ files })
    assert.is(rig.write(0, 0, 20, 10), 0)
    rig.flush()
    let writes = 0
    files.fault = (call) => (call === 'write' && outcomes[writes++] === false ? 'EIO' : '')
    assert.is(rig.write(0, 0, 20, 66), ErrorCode.DiskFailure)
    assert.is(rig.write(0, 0, 20, 77), ErrorCode.DiskFailure)
    assert.is(writes, outcomes.length)
    files.fault = () => ''
    for (const block of [100, 101]) {
      assert.is(rig.write(0, block, 1, 5), 0)
      rig.flush()
    }
    files.kill()
    rig.reopen()
    assert.equal(rig.read(0, 0, 20), new Array(20).fill(10), `seed ${seed}`)
  }
})

test('many failed writes in a row leave no trail of segments', () => {
  const { rig, files } = rigWithBlocks()
  files.fault = (call) => (call === 'write' ? 'EIO' : '')
  for (let i = 0; i < 100; i++) assert.is.not(rig.write(0, 0, 1, 66), 0)
  files.fault = () => ''
  assert.is(rig.write(0, 0, 1, 20), 0)
  rig.shard.background(1)
  assert.ok(rig.stat('segments') + rig.stat('segmentsFree') < 6)
})

test('a read-only filesystem is served for reading', () => {
  const { rig, files } = rigWithBlocks()
  files.fault = (call) => (call === 'read' ? '' : 'EROFS')
  files.kill()
  rig.reopen()
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
  assert.is(rig.write(0, 0, 1, 1), ErrorCode.ShardFailed)
  assert.is(rig.flush(), ErrorCode.ShardFailed)
  assert.is(rig.stat('state'), 2)
  rig.shard.close()
})

test('a filesystem that becomes read-only stops the writes, not the reads', () => {
  const { rig, files } = rigWithBlocks()
  files.fault = (call) => (call === 'read' ? '' : 'EROFS')
  assert.is.not(rig.write(0, 0, 1, 1), 0)
  assert.is(rig.write(0, 0, 1, 1), ErrorCode.ShardFailed)
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
})

test('a failed sync stops the writes, outlives the process, and loses nothing flushed', () => {
  const { rig, files } = rigWithBlocks()
  rig.flush()
  rig.write(0, 1, 1, 41)
  files.fault = (call, name) => (call === 'sync' && name.startsWith('seg-') ? 'EIO' : '')
  assert.is(rig.flush(), ErrorCode.ShardFailed)
  files.fault = () => ''
  assert.is(rig.flush(), ErrorCode.ShardFailed, 'a later success proves nothing')
  assert.is(rig.write(0, 0, 1, 1), ErrorCode.ShardFailed)
  assert.equal(rig.read(0, 0, 3), [10, 41, 12])
  assert.ok(files.list().includes('failed'))
  // The process starts again; what the system had dropped is written anew.
  files.kill()
  rig.reopen()
  assert.equal(rig.read(0, 0, 3), [10, 41, 12])
  assert.not(files.list().includes('failed'))
  assert.is(rig.write(0, 2, 1, 52), 0)
  assert.is(rig.flush(), 0)
  files.crash('none')
  rig.log.length = 0
  rig.reopen()
  assert.equal(rig.read(0, 0, 3), [10, 41, 52])
  assert.equal(problems(rig), [])
})

test('what a failed sync left waits for room to be written anew, and the shard is read', () => {
  const files = new FaultyFiles(seededRandom(3))
  const clock = new ManualClock()
  const tracker = new LocalSyncTracker(files, { lazy: true })
  const rig = new ShardRig({ files, clock, tracker, config: { segmentBytes: 128 * 1024 } })
  rig.flush()
  for (let block = 0; block < 90; block++) rig.write(0, block, 1, 100 + block)
  files.fault = (call, name) => (call === 'sync' && name.startsWith('seg-') ? 'EIO' : '')
  assert.is(rig.flush(), ErrorCode.ShardFailed)
  files.fault = () => ''
  files.kill()
  // Room for some of the copies: the rest follows where these ended.
  const used = files.list().reduce((bytes, name) => bytes + files.bytesOf(name).length, 0)
  files.capacityBytes = used + 200 * 1024
  rig.reopen()
  rig.shard.background(0)
  assert.is(rig.write(0, 0, 1, 1), ErrorCode.ShardFailed)
  assert.is(rig.read(0, 89, 1)[0], 189)
  assert.ok(files.list().includes('failed'))
  files.capacityBytes = Number.POSITIVE_INFINITY
  assert.not(rig.shard.background(0), 'it is not tried all the time')
  clock.nowMs += 1000
  for (let i = 0; i < 20 && rig.shard.background(0); i++);
  assert.is(rig.write(0, 0, 1, 2), 0)
  assert.not(files.list().includes('failed'))
  assert.is(rig.flush(), 0)
  files.crash('none')
  rig.log.length = 0
  rig.reopen()
  assert.equal(rig.read(0, 0, 90), [2, ...Array.from({ length: 89 }, (_, i) => 101 + i)])
  assert.equal(problems(rig), [])
})

test('a failed sync of which only an empty marker tells hides no damage below the mark', () => {
  const { rig, files } = rigWithBlocks()
  rig.write(0, 3, 1, 13)
  files.fault = (call, name) => {
    const isMarker = call === 'write' && name === 'failed'
    return isMarker || (call === 'sync' && name.startsWith('seg-')) ? 'EIO' : ''
  }
  assert.is(rig.flush(), ErrorCode.ShardFailed)
  assert.ok(files.list().includes('failed'))
  assert.is(files.bytesOf('failed').length, 0)
  files.fault = () => ''
  files.flipBit('seg-000000', (headerPage(1) + 1) * PAGE_BITS + 77)
  files.kill()
  rig.reopen()
  assert.equal(rig.read(0, 0, 1), [10])
  assert.throws(() => rig.read(0, 1, 1), /ChecksumMismatch/)
  assert.equal(rig.read(0, 2, 2), [12, 13])
  assert.not(files.list().includes('failed'))
  assert.is(rig.write(0, 1, 1, 41), 0)
})

test('compaction gets past the damaged blocks of a long write, and moves the others', () => {
  const files = new FaultyFiles(seededRandom(5))
  const rig = new ShardRig({ files, config: { segmentBytes: 2 * 1024 * 1024 } })
  rig.write(0, 0, 250, 1)
  rig.write(0, 200, 50, 2)
  // Behind the header pages of segment and batch: more of them than one slice copies.
  for (let block = 0; block < 150; block++) files.flipBit('seg-000000', (2 + block) * 4096 * 8)
  rig.run(rig.op(OpKind.Compact, 0, 0, 0))
  for (let i = 0; i < 200 && rig.shard.background(1); i++);
  rig.flush()
  assert.is(rig.stat('compactionActive'), 0)
  assert.is(rig.stat('checksumErrors'), 150, 'each is met once')
  assert.equal(rig.read(0, 150, 100), [...new Array(50).fill(1), ...new Array(50).fill(2)])
  assert.throws(() => rig.read(0, 149, 1), /ChecksumMismatch/)
})

test('a segment whose freeing could not be synced brings nothing back', () => {
  const files = new FaultyFiles(seededRandom(5))
  const rig = new ShardRig({ files, config: { segmentBytes: 128 * 1024 } })
  const victim = 'seg-000004'
  const isFree = (name: string): boolean =>
    decodeSegmentHeader(files.bytesOf(name).subarray(0, 4096))?.use === SegmentUse.Free
  for (let block = 0; block < 120; block++) rig.write(0, block, 1, 100 + block)
  rig.trim(0, 0, 120)
  rig.flush()
  files.fault = (call, name) => (call === 'sync' && name === victim && isFree(name) ? 'EIO' : '')
  const compact = (): void => {
    rig.run(rig.op(OpKind.Compact, 0, 0, 0))
    for (let i = 0; i < 100 && rig.shard.background(1); i++);
    rig.flush()
    for (let i = 0; i < 100 && rig.shard.background(1); i++);
    rig.shard.background(1) // a failure of the last step is noted by the next
  }
  compact()
  assert.ok(files.list().includes('failed'))
  files.fault = () => ''
  files.kill()
  rig.reopen()
  for (let i = 0; i < 3; i++) compact() // now the tombstones go
  assert.is(rig.stat('indexEntries'), 0)
  assert.is(rig.write(0, 500, 1, 9), 0)
  rig.flush()
  files.crash('none')
  rig.reopen()
  assert.equal(rig.read(0, 0, 120), new Array(120).fill(0))
  assert.equal(rig.read(0, 500, 1), [9])
})

test('a sync that fails again at the next start keeps the shard from taking writes', () => {
  const { rig, files } = rigWithBlocks()
  files.fault = (call, name) => (call === 'sync' && name.startsWith('seg-') ? 'EIO' : '')
  assert.is(rig.flush(), ErrorCode.ShardFailed)
  files.kill()
  let syncs = 0
  files.fault = (call, name) =>
    call === 'sync' && name.startsWith('seg-') && ++syncs > 1 ? 'EIO' : ''
  rig.reopen()
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
  assert.is(rig.write(0, 0, 1, 1), ErrorCode.ShardFailed)
  assert.ok(files.list().includes('failed'))
  files.fault = () => ''
  files.crash('none')
  rig.reopen()
  assert.equal(rig.read(0, 0, 3), [10, 11, 12])
  assert.is(rig.write(0, 0, 1, 1), 0)
})

test('scrub finds a damaged block and names it, also of what was written last', () => {
  const { rig, files } = rigWithBlocks()
  rig.run(rig.op(OpKind.Scrub, 0, 0, 0))
  while (rig.shard.background(5));
  assert.is(rig.stat('scrubRounds'), 1)
  assert.is(rig.stat('scrubErrors'), 0)
  assert.is(rig.stat('scrubbedBytes'), 4 * 4096)
  files.flipBit('seg-000000', (headerPage(1) + 1) * PAGE_BITS)
  rig.run(rig.op(OpKind.Scrub, 0, 0, 0))
  while (rig.shard.background(5));
  assert.is(rig.stat('scrubErrors'), 1)
  const line = rig.log.find((one) => one.message === 'scrub found damage')
  assert.is(line?.fields['chunk'], 0)
  assert.is(line?.fields['block'], 1)
})

test('a round that finds nothing says that damage of before is gone', () => {
  const { rig, files } = rigWithBlocks()
  files.flipBit('seg-000000', (headerPage(1) + 1) * PAGE_BITS)
  assert.throws(() => rig.read(0, 1, 1), /ChecksumMismatch/)
  scrub(rig)
  scrub(rig)
  assert.is(rig.stat('scrubErrors'), 2)
  assert.is(rig.stat('scrubErrorsLast'), 1)
  assert.is(rig.stat('checksumErrorsChecked'), 0)
  assert.is(rig.write(0, 1, 1, 77), 0)
  scrub(rig)
  assert.is(rig.stat('scrubErrorsLast'), 0)
  assert.is(rig.stat('checksumErrorsChecked'), rig.stat('checksumErrors'))
})

test.run()
