/**
 * Shows that the simulator sees what it is there to see: breaks one rule after the other in a copy
 * of the sources (test/sim/mutations/mutations.json), builds it, and runs seeds until one fails, or
 * the scenario that is named.
 *
 * Usage: npm run sim:mutations -- [--seeds N] [--only NAME] [--missed]
 * `--missed` tries those that no seed has seen yet (missed.json): other rules stand before them.
 * Exit codes: 0 every mutation was caught; 1 one was not, or does not fit the sources any more
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from './arguments.ts'
import { repositoryRoot } from './repository.ts'

interface Mutation {
  readonly name: string
  readonly breaks: string
  readonly file: string
  readonly from: string
  readonly to: string
  /** Of the simulator: what the mutation needs to show. */
  readonly options?: readonly string[]
  /** A scenario of test/sim, or a test `folder/file`, that must fail: seeds meet it too rarely. */
  readonly scenario?: string
}

const FOLDERS = ['src', 'workers', 'test', 'scripts', 'native-free-bench']
const COPIED = [...FOLDERS, 'package.json', 'tsconfig.json']
const RUN_MS_MAX = 300_000

function copyOfSources(): string {
  const directory = mkdtempSync(join(tmpdir(), 'torus-mutation-'))
  for (const name of COPIED) {
    cpSync(join(repositoryRoot, name), join(directory, name), { recursive: true })
  }
  symlinkSync(join(repositoryRoot, 'node_modules'), join(directory, 'node_modules'))
  return directory
}

/** What the simulator said, '' when it saw nothing. @throws Error when it cannot be tried */
function caught(directory: string, mutation: Mutation, seeds: string): string {
  const { options = [], scenario } = mutation
  const seeded = ['dist/scripts/sim.js', '--seeds', seeds, ...options]
  const test = scenario?.includes('/') === true ? scenario : `sim/${scenario}`
  const shows = scenario === undefined ? seeded : [`dist/test/${test}.test.js`]
  const path = join(directory, mutation.file)
  const before = readFileSync(path, 'utf8')
  if (before.split(mutation.from).length !== 2) {
    throw new Error(`${mutation.file} does not have once: ${mutation.from}`)
  }
  writeFileSync(path, before.replace(mutation.from, mutation.to))
  try {
    const tsc = join(directory, 'node_modules/.bin/tsc')
    const built = spawnSync(tsc, ['-p', 'tsconfig.json', '--noUnusedLocals', 'false'], {
      cwd: directory,
      encoding: 'utf8'
    })
    if (built.status !== 0) throw new Error(`it does not build: ${built.stdout}`)
    const run = spawnSync(process.execPath, shows, {
      cwd: directory,
      encoding: 'utf8',
      timeout: RUN_MS_MAX
    })
    // One that was ended because it took too long shows nothing.
    if (run.status === 0 || run.status === null) return ''
    const lines = `${run.stdout}${run.stderr}`.split('\n')
    return lines.find((line) => /SEED=|FAIL/.test(line)) ?? lines[0] ?? 'it failed'
  } finally {
    writeFileSync(path, before)
  }
}

function main(): void {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '300' },
      only: { type: 'string', default: '' },
      missed: { type: 'boolean', default: false }
    }
  })
  const file = values.missed ? 'missed.json' : 'mutations.json'
  const list = join(repositoryRoot, 'test/sim/mutations', file)
  const all: Mutation[] = JSON.parse(readFileSync(list, 'utf8'))
  const directory = copyOfSources()
  try {
    for (const mutation of all) {
      if (values.only !== '' && mutation.name !== values.only) continue
      const said = caught(directory, mutation, values.seeds)
      if (said === '') process.exitCode = 1
      console.log(`${said === '' ? 'NOT CAUGHT' : 'caught'}  ${mutation.name}: ${mutation.breaks}`)
      if (said !== '') console.log(`        ${said.slice(0, 160)}`)
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

main()
