/** What commands print: JSON for programs, tables for people; colours and bars on terminals. */
import { SingleBar } from 'cli-progress'
import Table from 'cli-table3'
import pc from 'picocolors'

type Colors = ReturnType<typeof pc.createColors>

/** A bar shows after this time: what is done sooner needs none. */
const BAR_DELAY_MS = 1000

export class Output {
  readonly json: boolean
  /** Is standard output a terminal. */
  readonly isTerminal: boolean
  readonly colors: Colors

  constructor(options: { json: boolean }) {
    this.json = options.json
    this.isTerminal = process.stdout.isTTY === true
    const wanted = (process.env['NO_COLOR'] ?? '') === '' && process.env['TERM'] !== 'dumb'
    this.colors = pc.createColors(this.isTerminal && wanted)
  }

  /** The answer of a command: `value` as JSON, or what `text` makes of it. */
  result(value: unknown, text: () => string): void {
    const printed = this.json ? JSON.stringify(value, null, 2) : text()
    if (printed !== '') this.write(`${printed}\n`)
  }

  /** A remark that is no answer: on standard error, and none for programs. */
  note(text: string): void {
    if (!this.json) process.stderr.write(`${text}\n`)
  }

  write(text: string): void {
    process.stdout.write(text)
  }

  /** Columns under bold names; no frame, so that other programs can cut it. */
  table(head: readonly string[], rows: readonly (readonly string[])[], right: string = ''): string {
    const table = new Table({
      head: head.map((name) => this.colors.bold(name)),
      chars: noFrame,
      style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2 },
      colAligns: head.map((_, column) => (right[column] === 'r' ? 'right' : 'left'))
    })
    table.push(...rows.map((row) => [...row]))
    return trimLines(table.toString())
  }

  /** `name  value` lines. */
  facts(rows: readonly (readonly [string, string])[]): string {
    const width = Math.max(...rows.map(([name]) => name.length))
    return rows
      .map(([name, value]) => `${this.colors.dim(name.padEnd(width))}  ${value}`)
      .join('\n')
  }

  /** A bar on standard error while something goes on; nothing where no person looks. */
  progress(label: string, format: (value: number) => string): Progress {
    return new Progress(label, format, !this.json && process.stderr.isTTY === true)
  }
}

const noFrame = Object.fromEntries(
  [
    ...['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left'],
    ...['bottom-right', 'left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid', 'middle']
  ].map((name) => [name, ''])
)

const trimLines = (text: string): string =>
  text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')

class Progress {
  readonly #label: string
  readonly #format: (value: number) => string
  readonly #shown: boolean
  readonly #startedMs = performance.now()
  #bar: SingleBar | null = null

  constructor(label: string, format: (value: number) => string, shown: boolean) {
    this.#label = label
    this.#format = format
    this.#shown = shown
  }

  update(done: number, total: number): void {
    if (!this.#shown || performance.now() - this.#startedMs < BAR_DELAY_MS) return
    if (this.#bar === null) {
      this.#bar = new SingleBar({
        format:
          `${this.#label} {bar} {percentage}%  {done} of {all}  ` +
          '{rate}/s  {eta_formatted} left',
        stream: process.stderr,
        // Its handler for Ctrl-C would have to wait for an offline check, which never pauses.
        gracefulExit: false,
        clearOnComplete: true,
        barsize: 30
      })
      this.#bar.start(Math.max(total, 1), done, this.#texts(done, total))
    }
    this.#bar.setTotal(Math.max(total, 1))
    this.#bar.update(done, this.#texts(done, total))
  }

  stop(): void {
    this.#bar?.stop()
    this.#bar = null
  }

  #texts = (done: number, total: number) => ({
    done: this.#format(done),
    rate: this.#format((done * 1000) / (performance.now() - this.#startedMs)),
    all: this.#format(total)
  })
}
