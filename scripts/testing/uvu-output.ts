/** What uvu printed at its end. */
export interface UvuCounts {
  readonly total: number
  readonly passed: number
  readonly skipped: number
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours are control characters
const COLOURS = /\x1b\[[0-9;]*m/g
const SUMMARY = /^ {2}Total: +(\d+)\n {2}Passed: +(\d+)\n {2}Skipped: +(\d+)\n/gm

/** Adds up every summary in `output`; null when uvu never came to its end. */
export function parseUvuOutput(output: string): UvuCounts | null {
  const summaries = [...output.replace(COLOURS, '').matchAll(SUMMARY)]
  const sum = (column: number): number =>
    summaries.reduce((total, match) => total + Number(match[column]), 0)
  return summaries.length === 0 ? null : { total: sum(1), passed: sum(2), skipped: sum(3) }
}
