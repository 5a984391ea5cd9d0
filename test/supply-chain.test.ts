/** What is installed is what was looked at: exact versions, known licences, few install scripts. */
import { deepStrictEqual } from 'node:assert'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { judge } from '../scripts/audit.ts'
import { repositoryRoot } from '../scripts/repository.ts'

interface Locked {
  readonly version?: string
  readonly integrity?: string
  readonly license?: string
  readonly hasInstallScript?: boolean
}

const read = (file: string) => JSON.parse(readFileSync(join(repositoryRoot, file), 'utf8'))
const manifest = read('package.json')
const packages = Object.entries(
  read('package-lock.json').packages as Record<string, Locked>
).filter(([path]) => path !== '')

const allowed =
  /^\(?(MIT|ISC|0BSD|BSD-[23]-Clause|Apache-2\.0|BlueOak-1\.0\.0|CC0-1\.0|Unlicense)\b/

/** Binaries that no test runs; the registry had none of them when the file was made. */
const otherSystems =
  /(@biomejs\/cli|@msgpackr-extract\/msgpackr-extract)-(darwin|win32|android|linux-arm$|.*-musl$)/

test('versions are exact, and every package that can be installed here has a checksum', () => {
  const wanted = { ...manifest.dependencies, ...manifest.devDependencies, ...manifest.overrides }
  const loose = Object.entries(wanted as Record<string, string>).filter(
    ([, version]) => !/^(npm:@?[\w./-]+@)?\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)
  )
  deepStrictEqual(loose, [])
  const unsure = packages.filter(
    ([path, { integrity = '' }]) => !integrity.startsWith('sha512-') && !otherSystems.test(path)
  )
  deepStrictEqual(unsure, [])
})

/** Says so in the old way, which the lock file does not keep. */
const licensed: Record<string, string> = { 'node_modules/fs-ext': 'MIT' }

test('licences are those that may be shipped with it', () => {
  const others = packages.filter(
    ([path, { license = licensed[path] ?? 'none' }]) => !allowed.test(license)
  )
  deepStrictEqual(
    others.map(([path, { license }]) => `${path}: ${license}`),
    []
  )
})

test('install scripts run for fs-ext alone', () => {
  const names = packages
    .filter(([, { hasInstallScript }]) => hasInstallScript === true)
    .map(([path]) => path.replace(/^.*node_modules\//, ''))
  const run = [...new Set(names)].filter((name) => manifest.allowScripts[name] !== false)
  deepStrictEqual(run, ['fs-ext'])
})

test('faults that the registry knows are told, and so is a registry that does not answer', () => {
  const fault = { name: 'left-pad', severity: 'high', range: '<2', via: [] }
  deepStrictEqual(judge(JSON.stringify({ vulnerabilities: { 'left-pad': fault } })), {
    text: 'high: left-pad <2',
    exitCode: 1
  })
  deepStrictEqual(judge('{"vulnerabilities":{}}').exitCode, 0)
  deepStrictEqual(judge('{"message":"405 Method Not Allowed"}'), {
    text: 'not checked: 405 Method Not Allowed',
    exitCode: 3
  })
  deepStrictEqual(judge('').exitCode, 3)
})

test.run()
