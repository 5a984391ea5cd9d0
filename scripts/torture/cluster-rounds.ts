/** One fault after the other, in random order, on a cluster under a verifying load. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { allFaults, type Fault } from './cluster-faults.ts'
import { ClusterTorture } from './cluster-torture.ts'
import { below } from './load.ts'
import { seededRandom } from './seeded-random.ts'

/** Faults between two readings of the whole volume. */
const VERIFY_EVERY = 4

export interface ClusterTortureOptions {
  readonly minutes: number
  readonly volumeBytes: number
  readonly seed: number
  /** Only those whose names have this in them. */
  readonly only: string
  readonly serveArgs: readonly string[]
  readonly print: (line: string) => void
}

/** Prints what is done. @throws the first thing that is wrong; all logs stay then */
export async function tortureCluster(options: ClusterTortureOptions): Promise<void> {
  const { minutes, volumeBytes, seed, only, serveArgs, print } = options
  const faults = allFaults.filter(({ name }) => name.includes(only))
  if (faults.length === 0) throw new TypeError(`no fault has "${only}" in its name`)
  const random = seededRandom(seed)
  const directory = mkdtempSync(join(tmpdir(), 'torus-torture-'))
  const endMs = performance.now() + minutes * 60_000
  const torture = await ClusterTorture.start({
    ...{ volumeBytes, seed, random, directory, args: serveArgs, print }
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void torture.site.dispose().finally(() => process.exit(1)))
  }
  const done = new Map<string, number>()
  try {
    let left: Fault[] = []
    for (let round = 1; performance.now() < endMs; round++) {
      if (left.length === 0) left = [...faults]
      const [fault] = left.splice(below(random, left.length), 1)
      torture.note(fault!.name)
      await fault!.run(torture)
      await torture.settle()
      if (round % VERIFY_EVERY === 0) await torture.verify()
      done.set(fault!.name, (done.get(fault!.name) ?? 0) + 1)
    }
    await torture.end()
    await torture.site.dispose()
    rmSync(directory, { recursive: true, force: true })
  } catch (thrown) {
    print(`logs and data stay in ${directory}`)
    await torture.site.dispose()
    throw thrown
  }
  const { reads, writes, zeroes, flushes } = torture.load.counts
  print(`${writes} writes, ${zeroes} trims and zeroes, ${reads} reads, ${flushes} flushes`)
  for (const [name, times] of [...done].sort()) print(`${String(times).padStart(5)} × ${name}`)
}
