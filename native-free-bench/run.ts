/**
 * Measures each kernel of the data path without native add-ons, and beside it with them where they
 * are installed: how fast is Torus where nothing can be compiled, and what does native code buy?
 *
 * Usage: npm run bench:kernels -- [--milliseconds N] [--sizes BYTES,…] [--kernel NAME,…] [--seed N]
 *                                 [--json FILE]
 *   --milliseconds  time for each case, warm-up included (default 1000)
 *   --json          also writes the result there
 * Exit codes: 0 measured, 1 a case failed or variants disagree on the result, 2 usage
 */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import type { CaseResult } from './case.ts'
import type { Kernel, Variant } from './kernel.ts'
import { kernels } from './kernels.ts'
import type { Timing } from './measure.ts'

interface Options {
  readonly milliseconds: number
  readonly sizes: readonly number[]
  readonly kernels: readonly Kernel[]
  readonly seed: number
  readonly json: string
}

interface Row {
  readonly kernel: string
  readonly variant: string
  readonly native: boolean
  readonly bytes: number
  /** null where the package is not installed. */
  readonly timing: Timing | null
  readonly megabytesPerSecond: number
  /** Against the fastest variant without native code, for the same kernel and size. */
  readonly ratio: number | null
}

const CASE = fileURLToPath(new URL('./case.js', import.meta.url))

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      milliseconds: { type: 'string', default: '1000' },
      sizes: { type: 'string', default: '4096,65536,1048576' },
      kernel: { type: 'string', default: kernels.map(({ name }) => name).join(',') },
      seed: { type: 'string', default: '42' },
      json: { type: 'string', default: '' }
    }
  })
  const names = values.kernel.split(',')
  const chosen = kernels.filter(({ name }) => names.includes(name))
  const sizes = values.sizes.split(',').map(Number)
  if (chosen.length < names.length) throw new TypeError(`no such kernel: ${values.kernel}`)
  if (!sizes.every((bytes) => bytes >= 4096 && bytes % 4096 === 0)) {
    throw new TypeError('sizes are whole blocks of 4096 bytes')
  }
  const [milliseconds, seed] = [Number(values.milliseconds), Number(values.seed)]
  return { milliseconds, sizes, kernels: chosen, seed, json: values.json }
}

/** Runs a case; null when its package is native and not installed. */
function runCase(kernel: Kernel, variant: Variant, bytes: number, options: Options) {
  const numbers = [bytes, options.milliseconds, options.seed].map(String)
  const args = [CASE, kernel.name, variant.name, ...numbers]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  if (status === 0) return JSON.parse(stdout) as CaseResult
  if (variant.native && /MODULE_NOT_FOUND|dlopen|Cannot find/.test(stderr)) return null
  throw new Error(`${kernel.name}, ${variant.name}, ${bytes} bytes:\n${stderr}`)
}

function runKernel(kernel: Kernel, bytes: number, options: Options): Row[] {
  const cases = kernel.variants.map((variant) => ({
    variant,
    result: runCase(kernel, variant, bytes, options)
  }))
  const prints = new Set(cases.flatMap(({ result }) => result?.fingerprint ?? []))
  if (prints.size > 1) throw new Error(`${kernel.name}, ${bytes} bytes: variants disagree`)
  const medians = cases.filter(({ variant }) => !variant.native)
  const freeNs = Math.min(...medians.map(({ result }) => result?.timing.medianNs ?? Infinity))
  return cases.map(({ variant, result }) => ({
    kernel: kernel.name,
    variant: variant.name,
    native: variant.native,
    bytes,
    timing: result?.timing ?? null,
    megabytesPerSecond: result === null ? 0 : (bytes / result.timing.medianNs) * 1000,
    ratio: result === null ? null : freeNs / result.timing.medianNs
  }))
}

const sizeText = (bytes: number): string =>
  bytes < 1024 * 1024 ? `${bytes / 1024} KiB` : `${bytes / 1024 / 1024} MiB`

function timeText(nanoseconds: number): string {
  return nanoseconds < 10_000
    ? `${nanoseconds.toFixed(0)} ns`
    : `${(nanoseconds / 1000).toFixed(1)} µs`
}

function printRow(row: Row): void {
  const name = `${row.kernel} ${sizeText(row.bytes)}`.padEnd(21)
  const variant = `${row.variant}${row.native ? ' (native)' : ''}`.padEnd(26)
  if (row.timing === null) {
    console.log(`${name}${variant}not installed`)
    return
  }
  const { minNs, medianNs, p99Ns } = row.timing
  const times = [minNs, medianNs, p99Ns].map((each) => timeText(each).padStart(11)).join('')
  const rate = `${row.megabytesPerSecond.toFixed(0)} MB/s`.padStart(12)
  console.log(`${name}${variant}${times}${rate}${`${row.ratio?.toFixed(2)}×`.padStart(9)}`)
}

function main(): void {
  const options = readOptions()
  const machine = {
    processor: cpus()[0]?.model ?? 'unknown',
    processors: cpus().length,
    memoryBytes: totalmem(),
    runtime: `Node.js ${process.versions.node}, V8 ${process.versions.v8}`,
    system: `${process.platform} ${process.arch}`
  }
  const { milliseconds, seed } = options
  console.log(`${machine.processors} × ${machine.processor}, ${machine.system}, ${machine.runtime}`)
  console.log(`${milliseconds} ms a case, seed ${seed}; × is speed against the best without native`)
  const head = ['min', 'median', 'p99'].map((each) => each.padStart(11)).join('')
  const rows: Row[] = []
  for (const kernel of options.kernels) {
    console.log(`\n${kernel.what}\n${''.padEnd(47)}${head}`)
    for (const bytes of options.sizes) {
      for (const row of runKernel(kernel, bytes, options)) {
        printRow(row)
        rows.push(row)
      }
    }
  }
  const report = { date: new Date().toISOString(), machine, milliseconds, seed, rows }
  if (options.json !== '') writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`)
}

try {
  main()
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = error instanceof TypeError ? 2 : 1
}
