import prettyBytes from 'pretty-bytes'
import { ErrorCode, StoreError } from './errors.ts'

/**
 * Sizes and durations as people write them. K, M, G, T and P count in 1024s, with or without `iB`
 * (that is how disks are cut into blocks); KB, MB, … count in 1000s, as on a drive's label.
 */
const sizeUnits = new Map<string, number>([
  ['', 1],
  ['b', 1]
])
for (const [power, letter] of ['k', 'm', 'g', 't', 'p'].entries()) {
  sizeUnits.set(letter, 1024 ** (power + 1))
  sizeUnits.set(`${letter}ib`, 1024 ** (power + 1))
  sizeUnits.set(`${letter}b`, 1000 ** (power + 1))
}

/** '20GiB' -> bytes. A plain number is bytes; a fraction must come out as whole bytes. */
export function parseSize(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text)
  const unit = sizeUnits.get(match?.[2]?.toLowerCase() ?? '')
  if (match === null || unit === undefined) {
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `"${text}" is not a size: write a number with B, KiB, KB, MiB, MB and so on to PiB, PB`
    )
  }
  const bytes = Number(match[1]) * unit
  if (!Number.isInteger(bytes)) {
    throw new StoreError(ErrorCode.InvalidArgument, `"${text}" is not a whole number of bytes`)
  }
  return bytes
}

/** For people: three digits, '1.5 GiB'. */
export const formatSize = (bytes: number): string => prettyBytes(bytes, { binary: true })

/** What `parseSize` turns back into exactly `bytes`, in the largest unit that is whole. */
export function formatSizeExact(bytes: number): string {
  for (const unit of ['PiB', 'TiB', 'GiB', 'MiB', 'KiB']) {
    const size = sizeUnits.get(unit.toLowerCase())!
    if (bytes >= size && bytes % size === 0) return `${bytes / size}${unit}`
  }
  return String(bytes)
}

const SECOND_MS = 1000
const durationUnits: readonly (readonly [string, number])[] = [
  ['w', 7 * 24 * 3600 * SECOND_MS],
  ['d', 24 * 3600 * SECOND_MS],
  ['h', 3600 * SECOND_MS],
  ['m', 60 * SECOND_MS],
  ['s', SECOND_MS],
  ['ms', 1]
]

/** '14d', '1h30m', '500ms' -> milliseconds. A bare number is refused, but for 0. */
export function parseDuration(text: string): number {
  const trimmed = text.trim()
  if (trimmed === '0') return 0
  if (!/^(\d+(\.\d+)?(ms|[wdhms]))+$/.test(trimmed)) {
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `"${text}" is not a duration: write a number with ms, s, m, h, d or w`
    )
  }
  let ms = 0
  for (const part of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|[wdhms])/g)) {
    ms += Number(part[1]) * durationUnits.find(([unit]) => unit === part[2])![1]
  }
  return Math.round(ms)
}

/** What `parseDuration` turns back into `ms`: '1h30m', '0' for none. */
export function formatDurationExact(ms: number): string {
  const parts = durationParts(ms)
  return parts.length === 0 ? '0' : parts.join('')
}

/** For people: the two largest units that are not zero, '1d 2h', '3m 20s', '250ms'. */
export function formatDuration(ms: number): string {
  if (ms < SECOND_MS) return `${Math.round(ms)}ms`
  return durationParts(Math.round(ms / SECOND_MS) * SECOND_MS)
    .slice(0, 2)
    .join(' ')
}

function durationParts(ms: number): string[] {
  const parts: string[] = []
  let rest = Math.round(ms)
  for (const [unit, size] of durationUnits) {
    const count = Math.floor(rest / size)
    rest -= count * size
    if (count > 0) parts.push(`${count}${unit}`)
  }
  return parts
}

/** A latency for people: '85 µs', '1.2 ms', '3.4 s'. */
export function formatLatency(seconds: number): string {
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`
  return `${seconds.toPrecision(3)} s`
}

/** '1 backup', '2 backups'. */
export const plural = (count: number, word: string): string =>
  `${count} ${word}${count === 1 ? '' : 's'}`
