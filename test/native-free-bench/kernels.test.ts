import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { kernels } from '../../native-free-bench/kernels.ts'
import { repositoryRoot } from '../../scripts/repository.ts'

const program = join(repositoryRoot, 'dist/native-free-bench/run.js')

test('every kernel is measured, its variants agree, and the report names the machine', () => {
  const folder = mkdtempSync(join(tmpdir(), 'torus-kernels-'))
  try {
    const json = join(folder, 'report.json')
    const args = [program, '--milliseconds', '5', '--sizes', '4096', '--json', json]
    const result = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: 60_000 })
    strictEqual(result.stderr, '')
    strictEqual(result.status, 0)
    const report = JSON.parse(readFileSync(json, 'utf8'))
    const measured = new Set(report.rows.map((row: { kernel: string }) => row.kernel))
    deepStrictEqual(
      [...measured],
      kernels.map(({ name }) => name)
    )
    for (const { native, timing } of report.rows) {
      ok(native || timing.minNs > 0)
      ok(timing === null || (timing.minNs <= timing.medianNs && timing.medianNs <= timing.p99Ns))
    }
    ok(report.machine.runtime.includes(process.versions.node))
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('every kernel has a variant that needs no native code', () => {
  for (const { name, variants } of kernels)
    ok(
      variants.some(({ native }) => !native),
      name
    )
})

test('a kernel or a size that does not exist is refused', () => {
  for (const args of [
    ['--kernel', 'nothing'],
    ['--sizes', '100']
  ]) {
    strictEqual(spawnSync(process.execPath, [program, ...args]).status, 2)
  }
})

test.run()
