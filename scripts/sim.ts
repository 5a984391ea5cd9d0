/**
 * Runs seeds of the cluster simulator (test/sim), each a small cluster under faults, and prints
 * the first that breaks a promise, to be replayed with SEED=n node dist/test/sim/sim.test.js.
 * With --engine shards are the real engine on a faulty disk (ENGINE=1 there), not models; what the
 * other options add is said in test/sim/run.ts. With --all seeds go through all of that in turn.
 *
 * With --no-data nothing fails and nobody writes: it tells what the metadata and the controller of
 * a cluster of --peers peers cost (by default of 10, 100, 1,000 and 10,000), see test/sim/scale.ts.
 *
 * Usage: npm run sim -- [--seeds N] [--minutes M] [--seed S] [--keep-going]
 *          [--engine] [--moves] [--splits] [--layers] [--scrub] [--restore] | --all
 *        npm run sim -- --no-data [--peers N[,N]]
 * Exit codes: 0 nothing was broken; 1 a seed failed; 2 wrong usage
 */
import { formatSize } from '../src/core/units.ts'
import { type RunOptions, runSeed } from '../test/sim/run.ts'
import { runScale, type ScaleStage } from '../test/sim/scale.ts'
import { parseArgs } from './arguments.ts'

const LINE_MS = 30_000

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '1000' },
      minutes: { type: 'string', default: '60' },
      seed: { type: 'string', default: '1' },
      engine: { type: 'boolean', default: false },
      moves: { type: 'boolean', default: false },
      splits: { type: 'boolean', default: false },
      layers: { type: 'boolean', default: false },
      scrub: { type: 'boolean', default: false },
      restore: { type: 'boolean', default: false },
      all: { type: 'boolean', default: false },
      'keep-going': { type: 'boolean', default: false },
      'no-data': { type: 'boolean', default: false },
      peers: { type: 'string', default: '10,100,1000,10000' }
    }
  })
  if (values['no-data']) return runScales(values.peers.split(',').map(Number))
  const first = Number(values.seed)
  const count = Number(values.seeds)
  const minutes = Number(values.minutes)
  if (!(first >= 0 && count > 0 && minutes > 0)) {
    console.error('--seed, --seeds and --minutes are positive numbers')
    process.exitCode = 2
    return
  }
  const { engine, moves, splits, layers, scrub, restore } = values
  const asked = { engine, moves, splits, layers, scrub, restore }
  const endMs = performance.now() + minutes * 60_000
  let lineMs = performance.now()
  const totals = new Map<string, ReturnType<typeof newTotal>>()
  const print = (): void => {
    for (const [how, total] of totals) console.log(`${how || 'models'}: ${JSON.stringify(total)}`)
  }
  for (let seed = first; seed < first + count && performance.now() < endMs; seed++) {
    const mode = values.all ? modeOf(seed) : asked
    const how = Object.entries(mode).flatMap(([name, is]) => (is === true ? name : []))
    const total = totals.get(how.join(' ')) ?? newTotal()
    totals.set(how.join(' '), total)
    total.seeds++
    if (!(await run(seed, mode, total))) {
      process.exitCode = 1
      const set = how.map((name) => `${name.toUpperCase()}=1 `).join('')
      console.log(`  ${set}SEED=${seed} node dist/test/sim/sim.test.js`)
      if (!values['keep-going']) break
    }
    if (performance.now() - lineMs < LINE_MS) continue
    lineMs = performance.now()
    print()
  }
  print()
}

type Mode = Omit<RunOptions, 'seed'>

/** What `--all` goes through. */
const modes: readonly Mode[] = [
  {},
  { engine: true },
  { engine: true, moves: true },
  { splits: true },
  { engine: true, layers: true },
  { engine: true, moves: true, splits: true, layers: true },
  { engine: true, moves: true, layers: true },
  { engine: true, scrub: true },
  { engine: true, restore: true },
  { splits: true, moves: true },
  { engine: true, splits: true, layers: true },
  { engine: true, splits: true, restore: true, layers: true }
]

/** Not by the remainder alone: what a cluster looks like depends on that too. */
const modeOf = (seed: number): Mode =>
  modes[(seed + Math.floor(seed / modes.length)) % modes.length]!

const newTotal = () => ({ seeds: 0, failed: 0, acknowledged: 0, reads: 0, faults: 0, mended: 0 })

/** False when a promise was broken. */
async function run(seed: number, mode: Mode, total: ReturnType<typeof newTotal>): Promise<boolean> {
  try {
    const { acknowledged, reads, faults, mended } = await runSeed({ seed, ...mode })
    total.acknowledged += acknowledged
    total.reads += reads
    total.faults += faults
    total.mended += mended
    return true
  } catch (thrown) {
    total.failed++
    console.log((thrown as Error).message.split('\n')[0])
    return false
  }
}

async function runScales(scales: readonly number[]): Promise<void> {
  if (!scales.every((peers) => Number.isInteger(peers) && peers >= 4 && peers <= 16_000)) {
    console.error('--peers: numbers from 4 to 16000')
    process.exitCode = 2
    return
  }
  for (const peers of scales) {
    const { start, idle, loss, joining, ...sizes } = await runScale(peers)
    const { groups, keys, bytes, largestValue, keepalivesPerSecond, memoryBytes } = sizes
    const metadata = `${keys} keys, ${formatSize(bytes)}, the largest ${largestValue.key}`
    console.log(
      [
        `${peers} peers, ${groups} groups in use`,
        `  metadata: ${metadata} with ${largestValue.bytes} B`,
        `  leases: ${keepalivesPerSecond} keepalives a second, by all`,
        `  first look: ${turnsOf(start)}`,
        `  nothing changes: ${turnsOf(idle)} in ${idle.seconds.toFixed(0)} s`,
        `  a peer is lost: ${workOf(loss)}`,
        `  ${Math.ceil(peers / 100)} join: ${workOf(joining)}`,
        `  memory of the process: ${formatSize(memoryBytes)}`
      ].join('\n')
    )
  }
}

const turnsOf = ({ busyMs, longestMs }: ScaleStage): string =>
  `${busyMs.toFixed(0)} ms of the main thread, at most ${longestMs.toFixed(1)} ms at a time`

function workOf(stage: ScaleStage): string {
  const { seconds, writes, writesInBusiestSecond, bytesWritten } = stage
  const written = `${writes} writes, ${formatSize(bytesWritten)}`
  const time = `over after ${seconds.toFixed(0)} s`
  return `${written}, ${writesInBusiestSecond} in the busiest second, ${time}; ${turnsOf(stage)}`
}

await main()
