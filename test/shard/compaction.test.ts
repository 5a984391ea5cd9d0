import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { OpKind } from '../../src/shard/op.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { seededRandom, ShardRig } from '../helpers/shard-rig.ts'

const test = suite('compaction')

/** One of more than a slice of compaction has, which is read without what stands behind it. */
const LARGE = 70
const SMALL = 60

test('small records behind a large one are copied whole', () => {
  const files = new FaultyFiles(seededRandom(5))
  const config = { segmentBytes: 1024 * 1024, capacityBytes: 64 * 1024 * 1024 }
  const rig = new ShardRig({ files, config })
  for (const chunk of [0, 1]) {
    rig.write(chunk, 0, LARGE, 1)
    for (let block = LARGE; block < LARGE + SMALL; block++) rig.write(chunk, block, 1, 2)
    rig.write(chunk, 0, LARGE / 2, 3)
  }
  rig.run(rig.op(OpKind.Compact, 0, 0, 0))
  for (let i = 0; i < 500; i++) {
    rig.shard.background(1)
    rig.tracker.syncNow()
  }
  assert.equal(
    rig.log.map(({ message }) => message),
    []
  )
  assert.is(rig.stat('checksumErrors'), 0)
  assert.ok(rig.stat('compactionWrittenBytes') > 0, 'something was copied')
  for (const chunk of [0, 1]) {
    const values = rig.read(chunk, 0, LARGE + SMALL)
    const half = LARGE / 2
    const wanted = values.map((_, block) => (block < half ? 3 : block < LARGE ? 1 : 2))
    assert.equal(values, wanted)
  }
})

test('what compaction freed is dead no more, though its files are kept', () => {
  const config = { segmentBytes: 1024 * 1024, capacityBytes: 64 * 1024 * 1024 }
  const rig = new ShardRig({ files: new FaultyFiles(seededRandom(6)), config })
  const chunks = [0, 1, 2, 3, 4, 5, 6, 7]
  for (const chunk of chunks) for (let i = 0; i < 8; i++) rig.write(chunk, i * 32, 32, 1)
  for (const chunk of chunks) for (let i = 0; i < 7; i++) rig.write(chunk, i * 32, 32, 2)
  rig.run(rig.op(OpKind.Compact, 0, 0, 0))
  for (let i = 0; i < 500; i++) {
    rig.shard.background(1)
    rig.tracker.syncNow()
  }
  assert.ok(rig.stat('segmentsFree') > 0, 'files are kept')
  const [used, live, dead] = [rig.stat('usedBytes'), rig.stat('liveBytes'), rig.stat('deadBytes')]
  assert.is(live, chunks.length * 8 * 32 * 4096)
  assert.ok(live + dead <= used, `${live} live and ${dead} dead, of ${used}`)
})

test.run()
