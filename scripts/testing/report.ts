/** The table by folder at the end of a test run. */
import type { FileResult } from './run-file.ts'

export interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

export function totalsOf(results: readonly FileResult[]): Totals {
  let [passed, failed, skipped] = [0, 0, 0]
  for (const result of results) {
    passed += result.passed
    failed += result.failed
    skipped += result.skipped
  }
  return { passed, failed, skipped }
}

/** 'dist/test/nbd/wire.test.js' -> 'nbd'; files directly under test/ are in '.'. */
export function folderOf(name: string): string {
  return name.includes('/') ? (name.split('/')[0] ?? '.') : '.'
}

const seconds = (milliseconds: number): string => (milliseconds / 1000).toFixed(1)

/** One row a folder: tests, seconds of its files added up, budget, and a warning when over. */
export function renderFolders(
  results: readonly FileResult[],
  nameOf: (file: string) => string,
  budgetSecondsOf: (folder: string) => number
): string {
  const folders = new Map<string, FileResult[]>()
  for (const result of results) {
    const folder = folderOf(nameOf(result.file))
    folders.set(folder, [...(folders.get(folder) ?? []), result])
  }
  const rows = [['folder', 'files', 'passed', 'failed', 'skipped', 'seconds', 'budget', '']]
  for (const [folder, members] of [...folders].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const { passed, failed, skipped } = totalsOf(members)
    const spentMs = members.reduce((sum, result) => sum + result.milliseconds, 0)
    const budget = budgetSecondsOf(folder)
    const warning = spentMs > budget * 1000 ? 'over its budget' : ''
    const counts = [members.length, passed, failed, skipped].map(String)
    rows.push([folder, ...counts, seconds(spentMs), String(budget), warning])
  }
  return renderTable(rows)
}

function renderTable(rows: readonly (readonly string[])[]): string {
  const columns = rows[0]?.length ?? 0
  const widths = Array.from({ length: columns }, (_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0))
  )
  const isText = (column: number): boolean => column === 0 || column === columns - 1
  const pad = (cell: string, column: number): string =>
    isText(column) ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n')
}

export function renderFile(result: FileResult, name: string): string {
  const ok = result.failed === 0
  const counts = `${result.passed} passed${ok ? '' : `, ${result.failed} failed`}`
  const line = `${ok ? 'ok  ' : 'FAIL'}  ${name}  ${counts}, ${seconds(result.milliseconds)} s`
  const reason = result.reason === '' ? '' : `\n      ${name}: ${result.reason}`
  return ok ? line : `${line}${reason}\n${result.output.replace(/^/gm, '      ')}`
}
