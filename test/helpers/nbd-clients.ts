/** nbdinfo, nbdcopy and libnbd's Python binding. */
import { run, runOk } from './process.ts'
import { python3 } from './environment.ts'

export interface ExportInfo {
  readonly 'export-name': string
  readonly 'export-size': number
  readonly contexts?: readonly string[]
  readonly is_read_only: boolean
  readonly can_cache: boolean
  readonly can_df: boolean
  readonly can_fast_zero: boolean
  readonly can_flush: boolean
  readonly can_fua: boolean
  readonly can_multi_conn: boolean
  readonly can_trim: boolean
  readonly can_zero: boolean
  readonly block_size_minimum?: number
  readonly block_size_preferred?: number
  readonly block_size_maximum?: number
}

export interface NbdInfo {
  readonly protocol: string
  readonly TLS: boolean
  readonly structured: boolean
  readonly exports: readonly ExportInfo[]
}

export async function nbdInfo(...args: string[]): Promise<NbdInfo> {
  return JSON.parse(await runOk('nbdinfo', ['--json', ...args])) as NbdInfo
}

export interface NbdMapEntry {
  readonly offset: number
  readonly length: number
  readonly type: number
  readonly description: string
}

/** Block status of `base:allocation`, extents of one kind joined. */
export async function nbdMap(uri: string): Promise<NbdMapEntry[]> {
  return JSON.parse(await runOk('nbdinfo', ['--map', '--json', uri])) as NbdMapEntry[]
}

/** nbdcopy either way; `--flush` makes the copy durable. */
export const nbdCopy = (...args: string[]): Promise<string> =>
  runOk('nbdcopy', ['--flush', ...args])

/** Runs a Python program that has `nbd` and the given arguments. */
export async function libnbd(program: string, ...args: string[]): Promise<string> {
  const result = await run(python3, ['-c', program, ...args])
  if (result.code !== 0) throw new Error(`${result.stdout}${result.stderr}`)
  return result.stdout
}
