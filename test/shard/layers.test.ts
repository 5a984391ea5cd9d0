/**
 * A shard whose head layer is frozen by snapshots again and again, against a model that keeps every
 * version in memory: each snapshot, and the head, is an array of blocks. `SEED=n` replays a run.
 */
import * as fc from 'fast-check'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { nextLayerLow } from '../../src/core/layer-ids.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import {
  GROUP_BITS_PAGES,
  OpFlag,
  OpKind,
  type ShardOp,
  SPACE_BYTES,
  StatusExtent
} from '../../src/shard/op.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { blockValue, fillBlock, seededRandom, ShardRig } from '../helpers/shard-rig.ts'

const test = suite('layers of a shard')

const BLOCKS = 40
const CHUNKS = 2
const ZERO = -1
const ROOT = 77

/** Value of each block of each chunk: 0 a hole, ZERO allocated zeroes. */
type Blocks = number[][]

interface World {
  readonly rig: ShardRig
  readonly files: FaultyFiles
  readonly keySlot: number
  /** `steps`: when each block was changed last. */
  readonly snapshots: { layerLow: number; blocks: Blocks; steps: Blocks }[]
  head: number
  blocks: Blocks
  steps: Blocks
  nextValue: number
  nextStep: number
}

const changes = ['write', 'trim', 'zeroes', 'noHole'] as const
const others = [
  ...(['snapshot', 'background', 'compact', 'checkpoint', 'flush', 'restart', 'kill'] as const)
]
type Step =
  | { kind: 'delete'; at: number }
  | { kind: (typeof changes)[number]; chunk: number; at: number; n: number }
  | { kind: (typeof others)[number] }

const change = (kind: (typeof changes)[number]): fc.Arbitrary<Step> =>
  fc.record({
    kind: fc.constant(kind),
    chunk: fc.nat(CHUNKS - 1),
    at: fc.nat(BLOCKS - 1),
    n: fc.integer({ min: 1, max: 12 })
  })
const plain = (kind: (typeof others)[number]): fc.Arbitrary<Step> => fc.constant({ kind })

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: change('write') },
  { weight: 5, arbitrary: change('trim') },
  { weight: 2, arbitrary: change('zeroes') },
  { weight: 2, arbitrary: change('noHole') },
  { weight: 4, arbitrary: plain('snapshot') },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('delete' as const), at: fc.nat(20) })
  },
  { weight: 3, arbitrary: plain('background') },
  { weight: 2, arbitrary: plain('compact') },
  { weight: 1, arbitrary: plain('checkpoint') },
  { weight: 1, arbitrary: plain('flush') },
  { weight: 1, arbitrary: plain('restart') },
  { weight: 1, arbitrary: plain('kill') }
)

function makeWorld(isSealed: boolean): World {
  const random = seededRandom(3)
  const files = new FaultyFiles(random)
  const rig = new ShardRig({
    files,
    random,
    memoryBytes: BLOCKS * BLOCK_BYTES,
    sealed: isSealed,
    config: {
      segmentBytes: 64 * 1024,
      capacityBytes: 8 * 1024 * 1024,
      openFilesMax: 3,
      tagBytesMax: 2048
    }
  })
  const blocks = Array.from({ length: CHUNKS }, () => new Array<number>(BLOCKS).fill(0))
  const { keySlot } = rig
  const counts = { nextValue: 1, nextStep: 1 }
  const steps = structuredClone(blocks)
  return { rig, files, keySlot, snapshots: [], head: ROOT, blocks, steps, ...counts }
}

function runStep(world: World, one: Step): void {
  const { rig } = world
  switch (one.kind) {
    case 'write':
    case 'trim':
    case 'zeroes':
    case 'noHole':
      applyChange(world, one)
      return
    case 'snapshot':
      world.snapshots.push({ ...structuredClone(pick(world)), layerLow: world.head })
      world.head = nextLayerLow(world.head)
      return
    case 'delete':
      if (world.snapshots.length > 0) world.snapshots.splice(one.at % world.snapshots.length, 1)
      merge(world)
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
      merge(world)
      return
    case 'kill':
      world.files.kill()
      rig.reopen()
      if (world.nextValue % 2 === 0) merge(world)
  }
}

const pick = ({ blocks, steps }: World): { blocks: Blocks; steps: Blocks } => ({ blocks, steps })

/** As a peer does that learns which snapshots there are. */
function merge({ rig, snapshots, head }: World): void {
  let lowest = ROOT
  for (const layerLow of [...snapshots.map((each) => each.layerLow), head]) {
    const op = rig.op(OpKind.MergeLayers, lowest, 0, 0)
    op.layerLow = layerLow
    assert.is(rig.run(op), 0)
    lowest = nextLayerLow(layerLow)
  }
}

/** All background work that there is. */
function settle({ rig }: World): void {
  for (let i = 0; i < 1000 && rig.shard.background(5); i++);
}

function applyChange(world: World, one: Extract<Step, { chunk: number }>): void {
  const { rig } = world
  const count = Math.min(one.n, BLOCKS - one.at)
  const kind =
    one.kind === 'write' ? OpKind.Write : one.kind === 'trim' ? OpKind.Trim : OpKind.WriteZeroes
  const op = rig.op(kind, one.chunk, one.at, count)
  op.layerLow = world.head
  op.flags = one.kind === 'noHole' ? OpFlag.NoHole : 0
  const value = one.kind === 'write' ? world.nextValue++ : one.kind === 'noHole' ? ZERO : 0
  for (let i = 0; i < count; i++) fillBlock(rig.memory, i * BLOCK_BYTES, Math.max(0, value))
  assert.is(rig.run(op), 0)
  world.blocks[one.chunk]!.fill(value, one.at, one.at + count)
  world.steps[one.chunk]!.fill(world.nextStep++, one.at, one.at + count)
}

const statusOf = (value: number): number =>
  value === ZERO ? StatusExtent.Zero : value === 0 ? StatusExtent.Hole : StatusExtent.Data

function compareLayer({ rig }: World, layerLow: number, blocks: Blocks): void {
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    const expected = blocks[chunk]!
    const read = rig.op(OpKind.Read, chunk, 0, BLOCKS)
    read.layerLow = layerLow
    assert.is(rig.run(read), 0)
    const values = expected.map((_, i) => blockValue(rig.memory, i * BLOCK_BYTES))
    const wanted = expected.map((value) => Math.max(0, value))
    assert.equal(values, wanted, `chunk ${chunk} of layer ${layerLow}`)
    const one = (layerLow + chunk) % BLOCKS
    const single = rig.op(OpKind.Read, chunk, one, 1)
    single.layerLow = layerLow
    assert.is(rig.run(single), 0)
    assert.is(blockValue(rig.memory, 0), wanted[one])
    const status = rig.op(OpKind.BlockStatus, chunk, 0, BLOCKS)
    status.layerLow = layerLow
    rig.run(status)
    assert.equal(kindsOf(rig, status), expected.map(statusOf))
  }
}

function kindsOf(rig: ShardRig, { resultA }: ShardOp): number[] {
  const words = new Uint32Array(rig.memory.buffer, rig.memory.byteOffset, 2 * resultA)
  const kinds: number[] = []
  for (let i = 0; i < words.length; i += 2) {
    for (let n = 0; n < words[i]!; n++) kinds.push(words[i + 1]!)
  }
  return kinds
}

/** What the shard says has changed from each snapshot to each later one, and to the head. */
function compareChanges({ rig, snapshots, head, blocks, steps }: World): void {
  const all = [...snapshots, { layerLow: head, blocks, steps }]
  for (const [at, older] of all.entries()) {
    for (const newer of all.slice(at)) {
      for (let chunk = 0; chunk < CHUNKS; chunk++) {
        const op = rig.op(OpKind.BlockStatus, chunk, 0, BLOCKS)
        op.layerLow = newer.layerLow
        op.flags = OpFlag.Since
        op.writerEpoch = op.layerHigh
        op.sequence = older.layerLow
        assert.is(rig.run(op), 0)
        for (const [block, kind] of kindsOf(rig, op).entries()) {
          const where = `block ${block} of ${chunk}, ${older.layerLow} to ${newer.layerLow}`
          const value = newer.blocks[chunk]![block]!
          const isSame = older.steps[chunk]![block] === newer.steps[chunk]![block]
          if (kind !== StatusExtent.Unchanged) assert.is(kind, statusOf(value), where)
          if (isSame) assert.is(kind, StatusExtent.Unchanged, where)
          else if (kind === StatusExtent.Unchanged) {
            // A hole over nothing need not be kept.
            assert.is(Math.max(0, older.blocks[chunk]![block]!), 0, where)
            assert.is(value, 0, where)
          }
        }
      }
    }
  }
}

/** What each snapshot, and the head, takes, as the shard counts it; the last is what is pending. */
function spaceOf({ rig, snapshots, head }: World): number[][] {
  const words = new Uint32Array(rig.memory.buffer, rig.memory.byteOffset, rig.memory.length / 4)
  const op = rig.op(OpKind.LayerSpace, 1, 0, 2)
  const views = [...snapshots.map(({ layerLow }) => layerLow), head]
  const at = (op.payload + GROUP_BITS_PAGES * BLOCK_BYTES) / 4
  words.fill(0xffffffff, op.payload / 4, at)
  const branch = [op.familyHigh, op.familyLow, op.layerHigh, 1]
  // The parent of node n is n - 1, which stands there as n.
  const nodes = views.flatMap((layerLow, node) => [node, 0, layerLow])
  words.set([1, views.length, ...branch, ...nodes], at)
  const found: number[][] = []
  for (op.sequence = 0; ; op.sequence = op.resultB) {
    assert.is(rig.run(op), 0)
    for (let i = 0; i < op.resultA; i++) {
      const entry = op.payload + i * SPACE_BYTES
      found.push([0, 8, 16].map((offset) => rig.memory.readDoubleLE(entry + offset)))
    }
    if (op.resultB === 0) return found
  }
}

/** Data of a view, and that of no other, by the steps at which blocks were changed last. */
function compareSpace(world: World): void {
  const { snapshots, head, blocks, steps, rig } = world
  const all = [...snapshots, { layerLow: head, blocks, steps }]
  const found = spaceOf(world)
  const [pending = 0] = found.pop()!
  assert.is(found.length, all.length)
  let allocated = 0
  for (const [at, view] of all.entries()) {
    const [own = 0, exclusive = 0, change = 0] = found[at]!
    allocated += change
    const stepsOf = ({ steps }: { steps: Blocks } | Record<string, never> = {}): number[] =>
      steps?.flat() ?? []
    const [before, here, after] = [all[at - 1], view, all[at + 1]].map(stepsOf)
    const data = view.blocks.flat().map((value) => value > 0)
    const count = (isIt: (block: number) => boolean): number =>
      data.filter((isData, block) => isData && isIt(block)).length
    const isNew = (block: number): boolean => before![block] !== here![block]
    assert.is(allocated, data.filter(Boolean).length, `view ${at} sees`)
    assert.is(own, count(isNew), `view ${at} has`)
    const alone = count((block) => isNew(block) && after![block] !== here![block])
    assert.is(exclusive, alone, `view ${at} alone sees`)
  }
  const usage = rig.op(OpKind.Usage, 0, 0, 0)
  usage.layerLow = 0
  usage.layerHigh = 0
  assert.is(rig.run(usage), 0)
  const owned = found.reduce((sum, [own = 0]) => sum + own, 0)
  assert.is(usage.resultA, owned + pending, 'all live blocks')
}

function compare(world: World): void {
  for (const { layerLow, blocks } of world.snapshots) compareLayer(world, layerLow, blocks)
  compareLayer(world, world.head, world.blocks)
  compareChanges(world)
  compareSpace(world)
}

const seed = Number(process.env['SEED'] ?? 42)
const runs = Number(process.env['RUNS'] ?? 30)

for (const isSealed of [false, true]) {
  const kind = isSealed ? 'sealed' : 'plain'
  test(`every snapshot of ${kind} blocks reads the same for ever (SEED=${seed})`, async () => {
    await fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 120 }), (steps) => {
        const world = makeWorld(isSealed)
        steps.forEach((one, i) => {
          runStep(world, one)
          if (i % 8 === 0) compare(world)
        })
        runStep(world, { kind: 'kill' })
        compare(world)
        runStep(world, { kind: 'restart' })
        compare(world)
        while (world.snapshots.length > 0) runStep(world, { kind: 'delete', at: 0 })
        settle(world)
        compare(world)
        assert.equal(spaceOf(world).at(-1), [0, 0, 0], 'nothing is pending')
        const data = world.blocks.flat().filter((value) => value > 0).length
        assert.is(world.rig.stat('liveBytes'), data * BLOCK_BYTES, 'only what is read lives')
        const errors = world.rig.log.filter(({ level }) => level === 'error')
        assert.is(errors.length, 0, JSON.stringify(errors[0]))
      }),
      { seed, numRuns: runs, includeErrorInReport: true }
    )
  })
}

test('a trim hides what is below for good, whatever compaction and restarts make of it', () => {
  const world = makeWorld(false)
  runStep(world, { kind: 'write', chunk: 0, at: 0, n: 12 })
  runStep(world, { kind: 'snapshot' })
  runStep(world, { kind: 'trim', chunk: 0, at: 0, n: 12 })
  for (let round = 0; round < 3; round++) {
    for (const kind of ['compact', 'background', 'checkpoint', 'background', 'restart'] as const) {
      runStep(world, { kind })
      compare(world)
    }
  }
  assert.equal(world.blocks[0]!.slice(0, 12), new Array(12).fill(0))
})

test('a layer that is read for the first time between others changes nothing', () => {
  const world = makeWorld(false)
  for (let round = 0; round < 6; round++) {
    // Nobody writes to the third one, so the shard knows of it when it is read.
    if (round !== 2) runStep(world, { kind: 'write', chunk: 0, at: 4 * round, n: 6 })
    runStep(world, { kind: 'snapshot' })
  }
  runStep(world, { kind: 'write', chunk: 0, at: 2, n: 3 })
  compareLayer(world, world.head, world.blocks)
  const { layerLow, blocks } = world.snapshots[2]!
  compareLayer(world, layerLow, blocks)
  compareLayer(world, world.head, world.blocks)
  runStep(world, { kind: 'write', chunk: 0, at: 9, n: 3 })
  compare(world)
})

test('what a deleted snapshot alone had is dead, and the others keep theirs', () => {
  const world = makeWorld(false)
  for (let round = 0; round < 4; round++) {
    runStep(world, { kind: 'write', chunk: 0, at: 0, n: 10 })
    runStep(world, { kind: 'write', chunk: 1, at: 10 * round, n: 10 })
    runStep(world, { kind: 'snapshot' })
  }
  settle(world)
  assert.is(world.rig.stat('liveBytes'), 80 * BLOCK_BYTES)
  for (const [left, blocks] of [
    [3, 70],
    [2, 60],
    [1, 60]
  ] as const) {
    const [, frees = 0] = spaceOf(world)[1]!
    const before = world.rig.stat('liveBytes')
    runStep(world, { kind: 'delete', at: 1 })
    settle(world)
    compare(world)
    assert.is(before - world.rig.stat('liveBytes'), frees * BLOCK_BYTES, 'as it was said')
    assert.is(world.snapshots.length, left)
    assert.is(world.rig.stat('liveBytes'), blocks * BLOCK_BYTES)
  }
  runStep(world, { kind: 'kill' })
  merge(world)
  settle(world)
  compare(world)
  assert.is(world.rig.stat('liveBytes'), 60 * BLOCK_BYTES)
})

test('a volume deleted after its snapshots stays so, whatever a checkpoint has of them', () => {
  const world = makeWorld(false)
  const { rig } = world
  for (let round = 0; round < 2; round++) {
    runStep(world, { kind: 'write', chunk: 0, at: 0, n: 10 })
    runStep(world, { kind: 'snapshot' })
  }
  runStep(world, { kind: 'checkpoint' })
  settle(world)
  const layers = [...world.snapshots.map(({ layerLow }) => layerLow), world.head]
  // The oldest layer is left with nothing, and forgotten.
  runStep(world, { kind: 'delete', at: 0 })
  settle(world)
  for (const layerLow of layers) {
    assert.is(rig.run(Object.assign(rig.op(OpKind.DeleteLayer, 0, 0, 0), { layerLow })), 0)
  }
  rig.flush()
  world.files.kill()
  rig.reopen()
  settle(world)
  assert.is(rig.stat('indexEntries'), 0)
  assert.is(rig.stat('liveBytes'), 0)
})

test('a thousand snapshots of one volume read as they were', () => {
  const world = makeWorld(false)
  const random = seededRandom(9)
  for (let i = 0; i < 1000; i++) {
    runStep(world, { kind: 'write', chunk: i % 2, at: random.below(BLOCKS), n: 1 })
    runStep(world, { kind: 'snapshot' })
  }
  const sample = (): void => {
    for (let at = 0; at < 1000; at += 97) {
      const { layerLow, blocks } = world.snapshots[at]!
      compareLayer(world, layerLow, blocks)
    }
    compareLayer(world, world.head, world.blocks)
  }
  sample()
  runStep(world, { kind: 'restart' })
  sample()
})

test.run()
