import { match, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { usageIn } from '../../scripts/arguments.ts'
import { repositoryRoot } from '../../scripts/repository.ts'

const directory = join(repositoryRoot, 'dist/scripts')
const scripts = readdirSync(directory).filter(
  (name) =>
    name.endsWith('.js') &&
    readFileSync(join(directory, name), 'utf8').includes("from './arguments.js'")
)

const run = (script: string, ...args: string[]) =>
  spawnSync(process.execPath, [join(directory, script), ...args], {
    encoding: 'utf8',
    timeout: 60_000
  })

test('a script that is asked for help tells its options, and does nothing else', () => {
  match(scripts.join(), /dev-cluster\.js.*sim\.js.*torture\.js/)
  for (const script of scripts) {
    const { status, stdout, stderr } = run(script, '--help')
    strictEqual(status, 0, `${script}: ${stderr}`)
    strictEqual(stdout.trimEnd(), usageIn(readFileSync(join(directory, script), 'utf8')), script)
    match(stdout, /npm run|node dist|node scripts/, script)
  }
})

test('what a script does not know is wrong usage, and names the help', () => {
  const { status, stderr } = run('sim.js', '--sedes', '3')
  strictEqual(status, 2)
  match(stderr, /'--sedes'.*; --help tells/)
})

test.run()
