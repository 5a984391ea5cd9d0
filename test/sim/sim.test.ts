/** Seeds of the simulator. `SEED=n` replays one with its trace, `SEEDS=n` runs so many. */
import { ok } from 'node:assert'
import { suite } from 'uvu'
import { runSeed, SimFailure } from './run.ts'

const test = suite('simulation')
const fixed = process.env['SEED']
const seeds = Number(process.env['SEEDS'] ?? 165)

const SHOWN = 150
/** `ENGINE=1`: the seeds run with the real engine. */
const engine = process.env['ENGINE'] === '1'
const engineSeeds = Number(process.env['ENGINE_SEEDS'] ?? 15)
const restores = Number(process.env['RESTORES'] ?? 8)

/** `MOVES=1`: also while groups move. */
const moves = process.env['MOVES'] === '1'
/** `SCRUB=1`: also while shards are scrubbed and members compared. */
const scrub = process.env['SCRUB'] === '1'
const scrubSeeds = Number(process.env['SCRUB_SEEDS'] ?? 4)
const movesSeeds = Number(process.env['MOVES_SEEDS'] ?? 15)

/** `LAYERS=1`, with the engine: volumes have snapshots, and clones. */
const layers = process.env['LAYERS'] === '1'
const layerSeeds = Number(process.env['LAYER_SEEDS'] ?? 6)
const findSeeds = Number(process.env['FIND_SEEDS'] ?? 4)
/** `RESTORE=1`: at the end the metadata is restored. */
const restore = process.env['RESTORE'] === '1'

/** `SPLITS=1`: also while groups are split. */
const splits = process.env['SPLITS'] === '1'
const splitSeeds = Number(process.env['SPLIT_SEEDS'] ?? 6)

async function run(seed: number, real: boolean = engine, moving: boolean = moves): Promise<void> {
  try {
    const mode = { engine: real, moves: moving, scrub, splits, layers, restore }
    const report = await runSeed({ seed, ...mode })
    if (fixed !== undefined) console.log({ ...report, trace: report.trace.length })
  } catch (thrown) {
    if (thrown instanceof SimFailure && fixed !== undefined) {
      console.log(thrown.trace.slice(-Number(process.env['SHOWN'] ?? SHOWN)).join('\n'))
    }
    throw thrown
  }
}

test('a cluster without faults serves', async () => {
  await runSeed({ seed: 1, faults: false, faultyMs: 2000 })
})

test('nothing that was promised is broken by faults', async () => {
  if (fixed !== undefined) return run(Number(fixed))
  for (let seed = 1; seed <= seeds; seed++) await run(seed)
})

test('nor with the real engine on a faulty disk', async () => {
  if (fixed !== undefined) return
  for (let seed = 1; seed <= engineSeeds; seed++) await run(seed, true)
})

test('nor while groups move, and what they leave behind is given back', async () => {
  if (fixed !== undefined) return
  for (let seed = 1; seed <= movesSeeds; seed++) await run(seed, true, true)
})

test('nor while groups are split', async () => {
  if (fixed !== undefined) return
  for (let seed = 1; seed <= splitSeeds; seed++) {
    const real = seed % 3 === 0
    await runSeed({ seed, splits: true, moves: seed % 2 === 0, engine: real, faultyMs: 5000 })
  }
})

test('nor does a gateway find nothing where there is something', async () => {
  if (fixed !== undefined) return
  let absent = 0
  for (let seed = 1; seed <= findSeeds; seed++) {
    const mode = { engine: true, layers: seed % 2 === 0, splits: seed % 3 === 0, finds: true }
    absent += (await runSeed({ seed, faultyMs: 4000, ...mode })).absent
  }
  ok(absent > 5 * findSeeds, `${absent} times`)
})

test('nor what snapshots, clones and volumes that went back to one show', async () => {
  if (fixed !== undefined) return
  for (let seed = 1; seed <= layerSeeds; seed++) {
    await runSeed({ seed, engine: true, layers: true, splits: seed % 3 === 0, faultyMs: 5000 })
  }
})

test('a scrub gets damaged blocks back from other members, and breaks nothing', async () => {
  if (fixed !== undefined) return
  let blocks = 0
  for (let seed = 1; seed <= scrubSeeds; seed++) {
    const { mended } = await runSeed({ seed, engine: true, faultyMs: 3000, scrub: true })
    blocks += mended
  }
  ok(blocks > 0 || scrubSeeds === 0, 'something was damaged')
})

test('R31: no flushed write is lost where restored metadata is used again', async () => {
  if (fixed !== undefined) return
  let used = 0
  for (let seed = 1; seed <= restores; seed++) {
    const { behind } = await runSeed({ seed, engine: true, faultyMs: 4000, restore: true })
    if (behind === 0) used++
  }
  if (restores === 0) return
  ok(used > restores / 8 && used < restores, `${used} of ${restores} copies were right`)
})

test.run()
