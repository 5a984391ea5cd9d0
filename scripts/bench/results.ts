/**
 * What a run measured, kept in files after every round: a run that is killed loses the round it was
 * in, and `--resume` goes on behind the last whole one.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { comparisonChart } from './chart.ts'
import type { Measurement } from './compare.ts'
import { durationText } from './estimate.ts'
import type { Machine } from './machine.ts'
import { inTableOrder, memoryPeaks, type RowReport, reportRow } from './report.ts'
import type { Row } from './rows.ts'
import type { SelfReport } from './self.ts'

/** Runs with another one of these are not comparable, and cannot be continued. */
interface Settings {
  readonly seconds: number
  readonly sizeBytes: number
  readonly rounds: number
}

export interface Kept {
  readonly machine: Machine
  readonly options: Settings
  readonly complete: boolean
  readonly selfRows: readonly SelfReport[]
  readonly measurements: readonly Measurement[]
}

export class Results {
  readonly measurements: Measurement[] = []
  readonly selfReports: SelfReport[] = []
  readonly machine: Machine
  /** Where they are kept, without '.json' and '.svg'. */
  readonly place: string
  readonly #rows: readonly Row[]
  readonly #settings: Settings

  constructor(out: string, rows: readonly Row[], settings: Settings, machine: Machine) {
    this.place = join(out, 'bench')
    this.machine = machine
    this.#rows = rows
    const { seconds, sizeBytes, rounds } = settings
    this.#settings = { seconds, sizeBytes, rounds }
  }

  /**
   * Takes over what an earlier run kept; returns in words how much.
   * @throws Error when that run was another one
   */
  resume(): string {
    const path = `${this.place}.json`
    if (!existsSync(path)) return `nothing to go on with: ${path} is not there`
    const kept = JSON.parse(readFileSync(path, 'utf8')) as Kept
    const theirs = JSON.stringify(kept.options)
    const ours = JSON.stringify(this.#settings)
    if (theirs !== ours) throw new Error(`${path} was measured with ${theirs}, not ${ours}`)
    const { commit } = this.machine
    if (kept.machine.commit !== commit) {
      throw new Error(`${path} was measured at commit ${kept.machine.commit}, not ${commit}`)
    }
    this.take(kept)
    const rounds = new Set(kept.measurements.map(({ row, round }) => `${row} ${round}`)).size
    return `going on behind ${rounds} rounds and ${kept.selfRows.length} rows of torus alone`
  }

  /** Takes over what `joined` made of several runs. */
  take(kept: Kept): void {
    this.measurements.push(...kept.measurements)
    this.selfReports.push(...kept.selfRows)
  }

  isDone(row: string, round: number): boolean {
    return this.measurements.some((each) => each.row === row && each.round === round)
  }

  isSelfDone(id: string): boolean {
    return this.selfReports.some((report) => report.id === id)
  }

  /** Rows of which anything was measured. */
  reports(): RowReport[] {
    const measured = this.#rows.filter(({ id }) =>
      this.measurements.some((measurement) => measurement.row === id)
    )
    return inTableOrder(measured.map((row) => reportRow(row, this.measurements)))
  }

  /**
   * Writes everything so far; at `extra` another time, without single measurements. Returns the
   * places.
   */
  keep(complete: boolean, extra = ''): string[] {
    const reports = this.reports()
    const told = {
      machine: this.machine,
      options: this.#settings,
      complete,
      rows: reports,
      selfRows: this.selfReports,
      memoryPeaks: Object.fromEntries(memoryPeaks(this.measurements))
    }
    const places = extra === '' ? [this.place] : [this.place, extra]
    for (const place of places) {
      mkdirSync(dirname(place), { recursive: true })
      const all = place === extra ? told : { ...told, measurements: this.measurements }
      const text = JSON.stringify(all, null, 2)
      replaceFile(`${place}.json`, `${text}\n`)
      if (reports.length > 0) replaceFile(`${place}.svg`, this.#chart(reports))
    }
    return places
  }

  #chart(reports: readonly RowReport[]): string {
    const { seconds, sizeBytes, rounds } = this.#settings
    const { date, cores } = this.machine
    const size = sizeBytes / 2 ** 30
    return comparisonChart(
      reports,
      `${date.slice(0, 10)}, ${cores} cores with the client on them, ${size} GiB, ` +
        `${durationText(seconds)} a job, ${rounds === 1 ? 'one round' : `median of ${rounds}`}`
    )
  }
}

/** A reader, or a run that is killed, never sees half a file. */
function replaceFile(path: string, text: string): void {
  writeFileSync(`${path}.new`, text)
  renameSync(`${path}.new`, path)
}
