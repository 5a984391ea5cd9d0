/** Joins what several runs kept, each of some rows or rounds, as one run of all of them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Measurement } from './compare.ts'
import type { Kept } from './results.ts'

export function keptIn(directory: string): Kept {
  return JSON.parse(readFileSync(join(directory, 'bench.json'), 'utf8')) as Kept
}

/**
 * The rounds of each row one behind the other; the machine is that of the last run, with all
 * commits.
 * @throws Error when jobs were of another length or size
 */
export function joined(runs: readonly Kept[]): Kept {
  const last = runs.at(-1)
  if (last === undefined) throw new Error('nothing to join')
  const { seconds, sizeBytes } = last.options
  const rounds = new Map<string, number>()
  const measurements: Measurement[] = []
  for (const { options, measurements: own } of runs) {
    if (options.seconds !== seconds || options.sizeBytes !== sizeBytes) {
      const theirs = `${options.seconds} s over ${options.sizeBytes} bytes`
      throw new Error(`jobs of ${theirs} do not go with ${seconds} s over ${sizeBytes}`)
    }
    const before = new Map(rounds)
    for (const measurement of own) {
      const { row } = measurement
      const round = (before.get(row) ?? 0) + measurement.round
      measurements.push({ ...measurement, round })
      rounds.set(row, Math.max(rounds.get(row) ?? 0, round + 1))
    }
  }
  const commit = [...new Set(runs.map(({ machine }) => machine.commit))].join(' ')
  return {
    machine: { ...last.machine, commit },
    options: { seconds, sizeBytes, rounds: Math.max(0, ...rounds.values()) },
    complete: runs.every(({ complete }) => complete),
    selfRows: runs.flatMap(({ selfRows }) => selfRows),
    measurements
  }
}
