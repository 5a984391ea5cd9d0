/**
 * Volumes on one shard that are snapshotted, cloned, restored, flattened and deleted, against a
 * model that keeps every version in memory. `SEED=n` replays a run.
 */
import * as fc from 'fast-check'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { OpKind } from '../../src/shard/op.ts'
import { BLOCKS, BranchModel, CHUNKS } from '../helpers/branch-model.ts'

const test = suite('branches of a shard')

const changes = ['write', 'trim', 'zeroes', 'noHole'] as const
const chosen = ['clone', 'restore', 'deleteSnapshot', 'switchTo'] as const
const plain = ['snapshot', 'flatten', 'remove', 'merge'] as const
const disk = ['background', 'compact', 'checkpoint', 'flush', 'restart', 'kill'] as const

type Step =
  | { kind: (typeof changes)[number]; chunk: number; at: number; n: number }
  | { kind: (typeof chosen)[number]; at: number }
  | { kind: (typeof plain)[number] | (typeof disk)[number] }

const weights: Record<Step['kind'], number> = {
  ...{ write: 14, trim: 5, zeroes: 2, noHole: 2 },
  ...{ snapshot: 5, clone: 3, restore: 3, deleteSnapshot: 3, switchTo: 4 },
  ...{ flatten: 2, remove: 1, merge: 2 },
  ...{ background: 3, compact: 2, checkpoint: 1, flush: 1, restart: 1, kill: 1 }
}

const arbitraryOf = (kind: Step['kind']): fc.Arbitrary<Step> =>
  fc.record({
    kind: fc.constant(kind),
    chunk: fc.nat(CHUNKS - 1),
    at: fc.nat(BLOCKS - 1),
    n: fc.integer({ min: 1, max: 12 })
  }) as fc.Arbitrary<Step>

const step = fc.oneof(
  ...Object.entries(weights).map(([kind, weight]) => ({
    weight,
    arbitrary: arbitraryOf(kind as Step['kind'])
  }))
)

function runStep(model: BranchModel, one: Step): void {
  const { rig } = model
  switch (one.kind) {
    case 'write':
    case 'trim':
    case 'zeroes':
    case 'noHole':
      model.change(one.kind, one.chunk, one.at, one.n)
      return
    case 'clone':
    case 'restore':
    case 'deleteSnapshot':
    case 'switchTo':
      model[one.kind](one.at)
      return
    case 'snapshot':
    case 'flatten':
    case 'remove':
    case 'merge':
      model[one.kind]()
      return
    case 'compact':
      rig.run(rig.op(OpKind.Compact, 0, 0, 0))
      return
    case 'checkpoint':
      rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0))
      return
    case 'flush':
      assert.is(rig.flush(), 0)
      return
    case 'background':
      for (let i = 0; i < 40 && rig.shard.background(0); i++);
      return
    case 'restart':
      rig.restart()
      return
    case 'kill':
      model.files.kill()
      rig.reopen()
  }
}

const seed = Number(process.env['SEED'] ?? 42)
const runs = Number(process.env['RUNS'] ?? 40)

for (const isSealed of [false, true]) {
  const kind = isSealed ? 'sealed' : 'plain'
  test(`${kind} clones and restored volumes read as they were made (SEED=${seed})`, async () => {
    await fc.assert(
      fc.property(fc.array(step, { minLength: 30, maxLength: 150 }), (steps) => {
        const model = new BranchModel(isSealed)
        steps.forEach((one, i) => {
          runStep(model, one)
          if (i % 10 === 0) model.compare()
        })
        runStep(model, { kind: 'kill' })
        model.compare()
        runStep(model, { kind: 'restart' })
        model.merge()
        for (let i = 0; i < 1000 && model.rig.shard.background(5); i++);
        model.compare()
        const least = model.readableData() * BLOCK_BYTES
        assert.ok(model.rig.stat('liveBytes') >= least, 'what is read lives')
        const errors = model.rig.log.filter(({ level }) => level === 'error')
        assert.is(errors.length, 0, JSON.stringify(errors[0]))
      }),
      { seed, numRuns: runs, includeErrorInReport: true }
    )
  })
}

test('a shard that was not told on what a branch stands says so, and never reads zeroes', () => {
  const model = new BranchModel(false)
  model.change('write', 0, 0, 8)
  model.snapshot()
  model.clone(0)
  model.compare()
  model.change('write', 0, 4, 2)
  model.rig.restart()
  model.compare()
})

test('what is brought to a layer late shows in all that stand on it', () => {
  const model = new BranchModel(false)
  for (let at = 0; at < 7; at++) {
    // Nobody wrote to these, so the shard does not know of them.
    if (at !== 2 && at !== 6) model.change('write', 0, at, 3)
    model.snapshot()
  }
  model.clone(6)
  model.change('write', 0, 12, 3)
  model.change('write', 1, 12, 3)
  model.compareHead()
  model.bring(6, 0, 32)
  model.compareHead()
  model.compare()
  model.bring(4, 0, 30)
  model.compare()
  model.bring(2, 0, 31)
  model.compare()
})

test('what a restore left and nobody reads is dead', () => {
  const model = new BranchModel(false)
  for (const at of [0, 10, 20]) {
    model.change('write', 0, at, 10)
    model.snapshot()
  }
  model.change('write', 1, 0, 10)
  model.restore(0)
  const settle = (): number => {
    model.merge()
    for (let i = 0; i < 1000 && model.rig.shard.background(5); i++);
    model.compare()
    return model.rig.stat('liveBytes') / BLOCK_BYTES
  }
  assert.is(settle(), 30)
  model.deleteSnapshot(2)
  assert.is(settle(), 20)
  model.restore(1)
  model.deleteSnapshot(0)
  assert.is(settle(), 20, 'the first layer is below the second')
})

test.run()
