/**
 * Structured logs: one JSON object a line (pino), readable lines on a terminal. The last lines are
 * also kept in memory, so that a debug bundle has them wherever the output went.
 */
import { type DestinationStream, destination, type Logger, pino } from 'pino'
import type { Config } from './options.ts'

export type Log = Logger

/** A reader of our output that stopped must not stop the server: beyond this, lines are dropped. */
const OUTPUT_BUFFER_BYTES_MAX = 1024 * 1024
/** One line of the ring; a longer one is cut, so that the ring's memory has a bound. */
const RING_LINE_CHARS_MAX = 4096

/** The last `capacity` lines written. */
export class LogRing {
  readonly #lines: string[] = []
  readonly #capacity: number
  #next = 0

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  push(line: string): void {
    if (this.#capacity === 0) return
    const kept = line.length > RING_LINE_CHARS_MAX ? line.slice(0, RING_LINE_CHARS_MAX) : line
    if (this.#lines.length < this.#capacity) this.#lines.push(kept)
    else this.#lines[this.#next] = kept
    this.#next = (this.#next + 1) % this.#capacity
  }

  /** Oldest first. */
  lines(): string[] {
    if (this.#lines.length < this.#capacity) return [...this.#lines]
    return [...this.#lines.slice(this.#next), ...this.#lines.slice(0, this.#next)]
  }
}

export interface LogOutput {
  readonly log: Log
  readonly ring: LogRing
  /** Writes what is still buffered; before the process ends. */
  flush(): void
}

export type LogOptions = Pick<Config, 'logLevel' | 'logFormat' | 'logLines'>

/** Logs go to standard error, which leaves standard output to answers. */
export function createLog(options: LogOptions, fd: number = 2): LogOutput {
  const isTerminal = fd === 2 && process.stderr.isTTY === true
  const pretty = options.logFormat === 'pretty' || (options.logFormat === 'auto' && isTerminal)
  const colors = isTerminal && (process.env['NO_COLOR'] ?? '') === ''
  // On a terminal lines come at once and in order with what else is printed there.
  const output = destination({ fd, sync: isTerminal, maxLength: OUTPUT_BUFFER_BYTES_MAX })
  // A closed pipe (`torus serve 2>&1 | head`) is no reason to stop serving.
  output.on('error', () => {})
  const ring = new LogRing(options.logLines)
  const stream: DestinationStream = {
    write(line) {
      ring.push(line.trimEnd())
      output.write(pretty ? prettyLine(line, colors) : line)
    }
  }
  const log = pino(
    {
      level: options.logLevel,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: secretPaths, censor: '[redacted]' }
    },
    stream
  )
  return { log, ring, flush: () => flushQuietly(output) }
}

/** A log for tests and tools that want none. */
export const silentLog = (): Log => pino({ level: 'silent' })

const secretNames = ['passphrase', 'password', 'secret', 'token', 'authorization', 'dataKey']
const secretPaths = secretNames.flatMap((name) => [name, `*.${name}`])

/** What a sonic-boom that did not open its descriptor yet throws is of no use at the end. */
function flushQuietly(output: { flushSync(): void }): void {
  try {
    output.flushSync()
  } catch {
    // Nobody is left to be told.
  }
}

const colorOfLevel: Readonly<Record<string, number>> = {
  trace: 90,
  debug: 36,
  info: 32,
  warn: 33,
  error: 31,
  fatal: 35
}

/** '12:34:56.789 info  shard 2 recovered  records=200 ms=81' from a JSON line. */
export function prettyLine(line: string, colors: boolean): string {
  const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>
  const paint = (code: number, text: string) => (colors ? `\x1b[${code}m${text}\x1b[0m` : text)
  const clock = typeof time === 'string' ? time.slice(11, 23) : ''
  const word = paint(colorOfLevel[String(level)] ?? 0, String(level).padEnd(5))
  const stack = (fields['err'] as { stack?: string } | undefined)?.stack
  const rest = Object.entries(fields)
    .filter(([name]) => name !== 'err' || stack === undefined)
    .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
  const tail = rest.length === 0 ? '' : `  ${paint(90, rest.join(' '))}`
  return `${paint(90, clock)} ${word} ${msg ?? ''}${tail}${stack ? `\n${stack}` : ''}\n`
}
