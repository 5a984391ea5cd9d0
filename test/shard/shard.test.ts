import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { DiskFiles } from '../../src/shard/disk-files.ts'
import { OpFlag, OpKind, type ShardOp, StatusExtent } from '../../src/shard/op.ts'
import { diskRig, fillBlock, ShardRig, temporaryDirectory } from '../helpers/shard-rig.ts'

const test = suite('shard')

/** Runs `body` on a new shard in a temporary directory. */
function withRig(body: (rig: ShardRig, path: string) => void): () => void {
  return () => {
    const directory = temporaryDirectory()
    try {
      body(diskRig(directory.path), directory.path)
    } finally {
      directory.remove()
    }
  }
}

test(
  'a written block is read back, and others read as zeroes',
  withRig((rig) => {
    assert.is(rig.write(3, 5, 2, 77), 0)
    assert.equal(rig.read(3, 4, 4), [0, 77, 77, 0])
    assert.equal(rig.read(4, 5, 1), [0])
  })
)

test(
  'the newest write wins, also after a restart without a clean close',
  withRig((rig) => {
    rig.write(0, 0, 8, 1)
    rig.write(0, 2, 3, 2)
    rig.write(0, 3, 1, 3)
    const expected = [1, 1, 2, 3, 2, 1, 1, 1]
    assert.equal(rig.read(0, 0, 8), expected)
    rig.reopen()
    assert.equal(rig.read(0, 0, 8), expected)
    rig.write(0, 0, 1, 9)
    rig.restart()
    assert.equal(rig.read(0, 0, 8), [9, ...expected.slice(1)])
    rig.shard.close()
  })
)

test(
  'an older version never overwrites a newer one',
  withRig((rig) => {
    rig.sequence = 10
    rig.write(0, 0, 1, 1)
    rig.sequence = 5
    rig.write(0, 0, 2, 2)
    assert.equal(rig.read(0, 0, 2), [1, 2])
    rig.reopen()
    assert.equal(rig.read(0, 0, 2), [1, 2])
  })
)

test(
  'trimmed blocks read as zeroes, after recovery too',
  withRig((rig) => {
    rig.write(1, 0, 8, 4)
    assert.is(rig.trim(1, 2, 3), 0)
    assert.equal(rig.read(1, 0, 8), [4, 4, 0, 0, 0, 4, 4, 4])
    rig.reopen()
    assert.equal(rig.read(1, 0, 8), [4, 4, 0, 0, 0, 4, 4, 4])
  })
)

test(
  'a write and a trim of the same new block in one batch leave a hole after recovery',
  withRig((rig) => {
    const write = rig.op(OpKind.Write, 0, 0, 1)
    const trim = rig.op(OpKind.Trim, 0, 0, 1)
    fillBlock(rig.memory, 0, 5)
    rig.shard.execute([write, trim], 2)
    assert.equal(rig.read(0, 0, 1), [0])
    rig.reopen()
    assert.equal(rig.read(0, 0, 1), [0])
  })
)

test(
  'trimming what was never written appends nothing',
  withRig((rig) => {
    const batches = rig.stat('batches')
    assert.is(rig.trim(9, 0, 1024), 0)
    assert.is(rig.stat('batches'), batches)
  })
)

test(
  'block status tells data, holes and zeroes apart',
  withRig((rig) => {
    rig.write(0, 0, 4, 1)
    rig.trim(0, 1, 1)
    const zeroes = rig.op(OpKind.WriteZeroes, 0, 6, 2)
    zeroes.flags = OpFlag.NoHole
    rig.run(zeroes)
    const check = (): void => {
      const status = rig.op(OpKind.BlockStatus, 0, 0, 16)
      rig.run(status)
      const words = new Uint32Array(rig.memory.buffer, rig.memory.byteOffset, 2 * status.resultA)
      const { Data, Hole, Zero } = StatusExtent
      assert.equal([...words], [1, Data, 1, Hole, 2, Data, 2, Hole, 2, Zero, 8, Hole])
    }
    check()
    assert.equal(rig.read(0, 6, 2), [0, 0])
    rig.reopen()
    check()
  })
)

test(
  'a deleted layer is gone, after recovery too',
  withRig((rig) => {
    rig.write(0, 0, 4, 1)
    assert.is(rig.run(rig.op(OpKind.DeleteLayer, 0, 0, 0)), 0)
    assert.equal(rig.read(0, 0, 4), [0, 0, 0, 0])
    assert.is(rig.run(rig.op(OpKind.DeleteLayer, 0, 0, 0)), 0)
    rig.reopen()
    assert.equal(rig.read(0, 0, 4), [0, 0, 0, 0])
  })
)

test(
  'many ops in one call are carried out in order, over several batches and segments',
  withRig((rig) => {
    const ops: ShardOp[] = []
    for (let i = 0; i < 300; i++) {
      const op = rig.op(OpKind.Write, 0, i % 100, 1 + (i % 20))
      op.payload = (i % 200) * BLOCK_BYTES
      ops.push(op)
    }
    for (let i = 0; i < 230; i++) fillBlock(rig.memory, i * BLOCK_BYTES, i + 1)
    const model = new Array<number>(120).fill(0)
    for (const op of ops) {
      for (let b = 0; b < op.blockCount; b++) {
        model[op.firstBlock + b] = op.payload / BLOCK_BYTES + b + 1
      }
    }
    rig.shard.execute(ops, ops.length)
    for (const op of ops) assert.is(op.error, 0)
    assert.equal(rig.read(0, 0, 120), model)
    assert.ok(rig.stat('batches') > 3)
    rig.reopen()
    assert.equal(rig.read(0, 0, 120), model)
    rig.restart()
    assert.equal(rig.read(0, 0, 120), model)
  })
)

test(
  'ops that make no sense are refused and harm nobody',
  withRig((rig) => {
    const bad = rig.op(OpKind.Write, 0, 1020, 8)
    assert.is(rig.run(bad), ErrorCode.InvalidArgument)
    assert.is(rig.run(rig.op(99, 0, 0, 1)), ErrorCode.InvalidArgument)
    assert.is(rig.write(0, 0, 1, 1), 0)
  })
)

test(
  'a directory of another peer is refused',
  withRig((rig, path) => {
    rig.write(0, 0, 1, 1)
    rig.shard.close()
    const peerId = '00000000000000000000000000000001'
    assert.throws(
      () =>
        new ShardRig({
          files: new DiskFiles(path),
          config: { peerId },
          format: false
        }),
      /peer id/
    )
  })
)

test.run()
