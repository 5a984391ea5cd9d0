/** What is installed is what was looked at: exact versions, known licences, few install scripts. */
import { deepStrictEqual } from 'node:assert'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../scripts/repository.ts'

interface Locked {
  readonly version?: string
  readonly integrity?: string
  readonly license?: string
  readonly hasInstallScript?: boolean
  readonly dev?: boolean
  readonly optional?: boolean
}

const read = (file: string) => JSON.parse(readFileSync(join(repositoryRoot, file), 'utf8'))
const manifest = read('package.json')
const packages = Object.entries(
  read('package-lock.json').packages as Record<string, Locked>
).filter(([path]) => path !== '')

const allowed =
  /^\(?(MIT|ISC|0BSD|BSD-[23]-Clause|Apache-2\.0|BlueOak-1\.0\.0|CC0-1\.0|Unlicense)\b/

test('versions are exact, and every package that runs has a checksum', () => {
  const wanted = { ...manifest.dependencies, ...manifest.devDependencies, ...manifest.overrides }
  const loose = Object.entries(wanted as Record<string, string>).filter(
    ([, version]) => !/^(npm:@?[\w./-]+@)?\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)
  )
  deepStrictEqual(loose, [])
  // Those for other systems were not fetched when the file was made, and have none as yet.
  const unsure = packages.filter(
    ([, { integrity = '', dev = false, optional = false }]) =>
      !dev && !optional && !integrity.startsWith('sha512-')
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

test.run()
