/**
 * A whole shard, one of two layers sealed, against the plainest thing that answers the same: an
 * array of blocks for each of the layers. Compaction, checkpoints, deletes and restarts are among
 * the random steps. `SEED=n` replays a run.
 */
import * as fc from 'fast-check'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { OpFlag, OpKind, StatusExtent } from '../../src/shard/op.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { blockValue, fillBlock, seededRandom, ShardRig } from '../helpers/shard-rig.ts'

const test = suite('shard model')

const BLOCKS = 40
const CHUNKS = 2
const ZERO = -1

interface Model {
  /** Value of each block of each chunk: 0 a hole, ZERO allocated zeroes. */
  blocks: number[][]
  layerLow: number
}

interface World {
  readonly rig: ShardRig
  readonly files: FaultyFiles
  readonly models: Model[]
  nextValue: number
  nextLayer: number
}

type Step =
  | {
      kind: 'write' | 'trim' | 'zeroes' | 'noHole'
      layer: number
      chunk: number
      at: number
      n: number
    }
  | { kind: 'delete'; layer: number }
  | { kind: 'compact' | 'checkpoint' | 'background' | 'flush' | 'restart' | 'kill' | 'scrub' }

const range = {
  layer: fc.nat(1),
  chunk: fc.nat(CHUNKS - 1),
  at: fc.nat(BLOCKS - 1),
  n: fc.integer({ min: 1, max: 12 })
}
const change = (kind: 'write' | 'trim' | 'zeroes' | 'noHole'): fc.Arbitrary<Step> =>
  fc.record({ kind: fc.constant(kind), ...range })
const plain = (
  kind: 'compact' | 'checkpoint' | 'background' | 'flush' | 'restart' | 'kill' | 'scrub'
): fc.Arbitrary<Step> => fc.constant({ kind })

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: change('write') },
  { weight: 4, arbitrary: change('trim') },
  { weight: 2, arbitrary: change('zeroes') },
  { weight: 2, arbitrary: change('noHole') },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('delete' as const), layer: fc.nat(1) }) },
  { weight: 3, arbitrary: plain('background') },
  { weight: 1, arbitrary: plain('compact') },
  { weight: 1, arbitrary: plain('checkpoint') },
  { weight: 1, arbitrary: plain('flush') },
  { weight: 1, arbitrary: plain('scrub') },
  { weight: 1, arbitrary: plain('restart') },
  { weight: 1, arbitrary: plain('kill') }
)

const emptyModel = (layerLow: number): Model => ({
  blocks: Array.from({ length: CHUNKS }, () => new Array<number>(BLOCKS).fill(0)),
  layerLow
})

function makeWorld(): World {
  const random = seededRandom(3)
  const files = new FaultyFiles(random)
  const rig = new ShardRig({
    files,
    random,
    memoryBytes: BLOCKS * BLOCK_BYTES,
    sealed: true,
    config: {
      segmentBytes: 64 * 1024,
      capacityBytes: 3 * 1024 * 1024,
      openFilesMax: 3,
      tagBytesMax: 2048
    }
  })
  return { rig, files, models: [emptyModel(101), emptyModel(102)], nextValue: 1, nextLayer: 103 }
}

function runStep(world: World, one: Step): void {
  const { rig, models } = world
  switch (one.kind) {
    case 'write':
    case 'trim':
    case 'zeroes':
    case 'noHole':
      applyChange(world, one)
      return
    case 'delete': {
      const op = rig.op(OpKind.DeleteLayer, 0, 0, 0)
      op.layerLow = models[one.layer]!.layerLow
      assert.is(rig.run(op), 0)
      models[one.layer] = emptyModel(world.nextLayer++) // ids are never used again
      return
    }
    case 'compact':
      rig.run(rig.op(OpKind.Compact, 0, 0, 0))
      return
    case 'checkpoint':
      rig.run(rig.op(OpKind.Checkpoint, 0, 0, 0))
      return
    case 'scrub':
      rig.run(rig.op(OpKind.Scrub, 0, 0, 0))
      return
    case 'flush':
      assert.is(rig.flush(), 0)
      return
    case 'background':
      for (let i = 0; i < 20 && rig.shard.background(0); i++);
      return
    case 'restart':
      rig.restart()
      return
    case 'kill':
      world.files.kill()
      rig.reopen()
  }
}

function applyChange(world: World, one: Extract<Step, { at: number }>): void {
  const { rig, models } = world
  const model = models[one.layer]!
  const count = Math.min(one.n, BLOCKS - one.at)
  const kind =
    one.kind === 'write' ? OpKind.Write : one.kind === 'trim' ? OpKind.Trim : OpKind.WriteZeroes
  const op = rig.op(kind, one.chunk, one.at, count)
  op.layerLow = model.layerLow
  op.keySlot = keySlotOf(world, model)
  op.flags = one.kind === 'noHole' ? OpFlag.NoHole : 0
  const value = one.kind === 'write' ? world.nextValue++ : one.kind === 'noHole' ? ZERO : 0
  for (let i = 0; i < count; i++) fillBlock(rig.memory, i * BLOCK_BYTES, Math.max(0, value))
  assert.is(rig.run(op), 0)
  model.blocks[one.chunk]!.fill(value, one.at, one.at + count)
}

/** Of two layers with numbers in a row one is sealed. */
const keySlotOf = ({ rig }: World, { layerLow }: Model): number =>
  layerLow % 2 === 0 ? 0 : rig.keySlot

const statusOf = (value: number): number =>
  value === ZERO ? StatusExtent.Zero : value === 0 ? StatusExtent.Hole : StatusExtent.Data

function compare(world: World): void {
  const { rig, models } = world
  for (const model of models) {
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      const expected = model.blocks[chunk]!
      const read = rig.op(OpKind.Read, chunk, 0, BLOCKS)
      read.layerLow = model.layerLow
      read.keySlot = keySlotOf(world, model)
      assert.is(rig.run(read), 0)
      const values = expected.map((_, i) => blockValue(rig.memory, i * BLOCK_BYTES))
      assert.equal(
        values,
        expected.map((value) => Math.max(0, value))
      )
      const status = rig.op(OpKind.BlockStatus, chunk, 0, BLOCKS)
      status.layerLow = model.layerLow
      rig.run(status)
      const words = new Uint32Array(rig.memory.buffer, rig.memory.byteOffset, 2 * status.resultA)
      const kinds: number[] = []
      for (let i = 0; i < words.length; i += 2) {
        for (let n = 0; n < words[i]!; n++) kinds.push(words[i + 1]!)
      }
      assert.equal(kinds, expected.map(statusOf))
    }
  }
  const live = models.flatMap(({ blocks }) => blocks.flat()).filter((value) => value > 0).length
  rig.shard.background(0)
  // Blocks of deleted layers are counted dead a little later.
  assert.ok(rig.stat('liveBytes') >= live * BLOCK_BYTES)
}

const seed = Number(process.env['SEED'] ?? 42)
const runs = Number(process.env['RUNS'] ?? 60)

test(`a shard answers as an array of blocks does (SEED=${seed})`, async () => {
  await fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 120 }), (steps) => {
      const world = makeWorld()
      steps.forEach((one, i) => {
        runStep(world, one)
        if (i % 4 === 0) compare(world)
      })
      runStep(world, { kind: 'kill' })
      compare(world)
      runStep(world, { kind: 'restart' })
      compare(world)
      const errors = world.rig.log.filter(({ level }) => level === 'error')
      assert.is(errors.length, 0, JSON.stringify(errors[0]))
    }),
    { seed, numRuns: runs, includeErrorInReport: true }
  )
})

test.run()
