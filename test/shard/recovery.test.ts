/** Recovery at a size where it shows what it costs: by records read, not by time. */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { DiskFiles } from '../../src/shard/disk-files.ts'
import { OpKind } from '../../src/shard/op.ts'
import { fillBlock, seededRandom, ShardRig, temporaryDirectory } from '../helpers/shard-rig.ts'

const test = suite('recovery')

const DEPTH = 64
const CHUNKS = 64

test('200,000 random blocks come back after a kill, from records in line with writes', () => {
  const directory = temporaryDirectory()
  try {
    const random = seededRandom(17)
    const rig = new ShardRig({
      files: new DiskFiles(directory.path),
      random,
      config: { segmentBytes: 32 * 2 ** 20, capacityBytes: 4 * 2 ** 30, syncBytes: 2 ** 40 }
    })
    for (let i = 0; i < 256; i++) fillBlock(rig.memory, i * BLOCK_BYTES, i + 1)
    const expected = new Map<number, number>()
    const ops = Array.from({ length: DEPTH }, () => rig.op(OpKind.Write, 0, 0, 1))
    const seen: number[] = []
    let written = 0
    for (const target of [50_000, 100_000, 200_000]) {
      while (written < target) {
        for (const op of ops) {
          const value = random.below(256)
          op.chunk = random.below(CHUNKS)
          op.firstBlock = random.below(1024)
          op.payload = value * BLOCK_BYTES
          op.sequence = ++rig.sequence
          expected.set(op.chunk * 1024 + op.firstBlock, value + 1)
        }
        rig.shard.execute(ops, DEPTH)
        written += DEPTH
      }
      assert.is(rig.flush(), 0)
      const memory = Buffer.from(rig.memory)
      rig.reopen()
      memory.copy(rig.memory)
      seen.push(rig.stat('recoveryRecords'))
      assert.is(rig.stat('damagedBatches'), 0)
      assert.is(rig.stat('liveBytes'), expected.size * BLOCK_BYTES)
      assert.is(rig.stat('indexEntries'), expected.size)
    }
    // Without a checkpoint every record is read once.
    for (const [i, target] of [50_000, 100_000, 200_000].entries()) {
      assert.ok(seen[i]! >= target && seen[i]! < target + 200, `${seen}`)
    }
    for (let i = 0; i < 2000; i++) {
      const chunk = random.below(CHUNKS)
      const block = random.below(1024)
      assert.equal(rig.read(chunk, block, 1), [expected.get(chunk * 1024 + block) ?? 0])
    }
    // With one it reads what came after, copies of compaction among it.
    rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0))
    while (rig.shard.background(5));
    rig.flush()
    rig.shard.background(5)
    rig.write(0, 0, 1, 7)
    rig.flush()
    rig.reopen()
    assert.ok(rig.stat('recoveryRecords') < 100_000)
    assert.is(rig.stat('indexEntries'), new Set([...expected.keys(), 0]).size)
  } finally {
    directory.remove()
  }
})

test.run()
