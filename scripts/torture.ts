/**
 * Kills a real `torus serve` with SIGKILL under verifying load, again and again, and checks after
 * each restart that flushed data is there, nothing is torn, and nothing older came back.
 *
 * Usage: npm run torture -- [--minutes N] [--volume-mib N] [--seed N] [-- SERVE-OPTION…]
 *        npm run torture -- --encrypt [--minutes N] …
 *        npm run torture -- --life [--minutes N] [--seed N] [-- SERVE-OPTION…]
 *        npm run torture -- --cluster [--only WORDS] [--minutes N] …
 * Prints a line a minute and the seed; the timing of a kill is never the same twice.
 *
 * With --encrypt the volume is encrypted, and rekeyed and compacted whenever it is loaded.
 * With --life it is killed while volumes are restored, flattened, shrunk and deleted.
 * With --cluster: four peers and three members of etcd, and one fault after the other in random
 * order (scripts/torture/cluster-faults.ts; those with WORDS in their names). Any wrong byte, any
 * error that a client sees, and any wait that is too long ends it.
 * Exit codes: 0 every round was right; 1 a block held what it may not, or the server did not start
 */
import { TorusServer } from '../test/helpers/server.ts'
import { parseArgs } from './arguments.ts'
import { tortureCluster } from './torture/cluster-rounds.ts'
import { lifeRounds } from './torture/life-rounds.ts'
import { seededRandom } from './torture/seeded-random.ts'
import { startSealed } from './torture/sealed-rounds.ts'
import { type KillReport, killRounds, READY_MS_MAX, TORTURE_VOLUME } from './torture/kill-rounds.ts'

const MIB = 1024 * 1024

function lineOf({ rounds, early, orderly, slowestStartMs, counts }: KillReport): string {
  const { reads, writes, zeroes, flushes } = counts
  return (
    `${rounds} rounds, ${early} kills while starting, ${orderly} orderly ends; ` +
    `${writes} writes, ${zeroes} trims and zeroes, ${reads} reads, ${flushes} flushes; ` +
    `slowest start ${(slowestStartMs / 1000).toFixed(1)} s`
  )
}

const startPlain = (volumeBytes: number, args: readonly string[]): Promise<TorusServer> =>
  TorusServer.start({
    args: ['--volume', `${TORTURE_VOLUME}=${volumeBytes}`, ...args],
    readyMs: READY_MS_MAX
  })

async function tortureLife(minutes: number, seed: number, args: readonly string[]): Promise<void> {
  const server = await TorusServer.start({ args, readyMs: READY_MS_MAX })
  const until = performance.now() + minutes * 60_000
  try {
    const goOn = (): boolean => performance.now() < until
    const { rounds, done } = await lifeRounds({ server, random: seededRandom(seed), goOn })
    const each = Object.entries(done).map(([name, count]) => `${name} ${count}`)
    console.log(`every one of ${rounds} rounds was right; done when killed: ${each.join(', ')}`)
  } finally {
    await server.dispose()
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      minutes: { type: 'string', default: '10' },
      'volume-mib': { type: 'string', default: '64' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      cluster: { type: 'boolean', default: false },
      encrypt: { type: 'boolean', default: false },
      life: { type: 'boolean', default: false },
      only: { type: 'string', default: '' }
    }
  })
  const volumeBytes = Number(values['volume-mib']) * MIB
  const [minutes, seed] = [Number(values.minutes), Number(values.seed)]
  console.log(`seed ${values.seed}, ${values.minutes} minutes, ${volumeBytes / MIB} MiB`)
  if (values.cluster) {
    const { only } = values
    const print = (line: string): void => console.log(line)
    await tortureCluster({ minutes, volumeBytes, seed, only, serveArgs: positionals, print })
    return
  }
  const args = ['--segment-size', '4MiB', ...positionals]
  if (values.life) return await tortureLife(minutes, seed, args)
  const sealed = values.encrypt ? await startSealed(volumeBytes, args) : null
  const server = sealed?.server ?? (await startPlain(volumeBytes, args))
  const until = performance.now() + minutes * 60_000
  let lastLineMs = performance.now()
  try {
    const report = await killRounds({
      server,
      volumeBytes,
      random: seededRandom(seed),
      goOn: () => performance.now() < until,
      ...(sealed === null ? {} : { onLoad: sealed.rekey }),
      onRound: (so) => {
        if (performance.now() - lastLineMs < 60_000) return
        lastLineMs = performance.now()
        console.log(lineOf(so))
      }
    })
    await sealed?.untilRekeyed()
    const rekeys = sealed === null ? '' : `; ${sealed.rekeys()} rekeys begun`
    console.log(`every round was right: ${lineOf(report)}${rekeys}`)
  } finally {
    await server.dispose()
  }
}

try {
  await main()
} catch (error) {
  console.error(error)
  process.exitCode = 1
}
