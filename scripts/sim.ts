/**
 * Runs seeds of the cluster simulator (test/sim), each a small cluster under faults, and prints
 * the first that breaks a promise, to be replayed with SEED=n node dist/test/sim/sim.test.js.
 * With --engine shards are the real engine on a faulty disk (ENGINE=1 there), not models; with
 * --moves (MOVES=1) groups also move between peers all the time.
 *
 * Usage: npm run sim -- [--seeds N] [--minutes M] [--seed S] [--engine] [--moves] [--keep-going]
 * Exit codes: 0 nothing was broken; 1 a seed failed; 2 wrong usage
 */
import { parseArgs } from 'node:util'
import { runSeed } from '../test/sim/run.ts'

const LINE_MS = 30_000

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '1000' },
      minutes: { type: 'string', default: '60' },
      seed: { type: 'string', default: '1' },
      engine: { type: 'boolean', default: false },
      moves: { type: 'boolean', default: false },
      scrub: { type: 'boolean', default: false },
      'keep-going': { type: 'boolean', default: false }
    }
  })
  const first = Number(values.seed)
  const count = Number(values.seeds)
  const minutes = Number(values.minutes)
  if (!(first >= 0 && count > 0 && minutes > 0)) {
    console.error('--seed, --seeds and --minutes are positive numbers')
    process.exitCode = 2
    return
  }
  const endMs = performance.now() + minutes * 60_000
  let lineMs = performance.now()
  const total = { seeds: 0, failed: 0, acknowledged: 0, reads: 0, opens: 0, faults: 0 }
  for (let seed = first; seed < first + count && performance.now() < endMs; seed++) {
    try {
      const { acknowledged, reads, opens, faults } = await runSeed({
        seed,
        engine: values.engine || values.moves || values.scrub,
        scrub: values.scrub,
        moves: values.moves
      })
      total.acknowledged += acknowledged
      total.reads += reads
      total.opens += opens
      total.faults += faults
    } catch (thrown) {
      total.failed++
      process.exitCode = 1
      console.log((thrown as Error).message.split('\n')[0])
      const kind = values.engine || values.moves ? 'ENGINE=1 ' : ''
      const how = kind + (values.moves ? 'MOVES=1 ' : '')
      console.log(`  ${how}SEED=${seed} node dist/test/sim/sim.test.js`)
    }
    total.seeds++
    if (total.failed > 0 && !values['keep-going']) break
    if (performance.now() - lineMs < LINE_MS) continue
    lineMs = performance.now()
    console.log(JSON.stringify(total))
  }
  console.log(JSON.stringify(total))
}

await main()
