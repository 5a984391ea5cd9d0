import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { test } from 'uvu'
import { repositoryRoot } from '../../scripts/repository.ts'
import { buildProgram } from '../../src/cli/program.ts'
import { addServeOptions, flagsOf } from '../../src/cli/serve-options.ts'
import { resolveConfig } from '../../src/core/config.ts'
import type { Config } from '../../src/core/options.ts'
import { testNeeding } from '../helpers/environment.ts'

const read = (name: string): string => readFileSync(join(repositoryRoot, name), 'utf8')
const services = ['torus.service', 'torus-attach@.service']

/** 'Section.Key' -> every value given. */
function parseUnit(text: string): Map<string, string[]> {
  const values = new Map<string, string[]>()
  let section = ''
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    const header = /^\[(\w+)\]$/.exec(line)?.[1]
    const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? []
    ok(header !== undefined || key !== undefined, `"${line}" is a section or a setting`)
    if (header !== undefined) section = header
    else values.set(`${section}.${key}`, [...(values.get(`${section}.${key}`) ?? []), value ?? ''])
  }
  return values
}

/** Instructions of a Dockerfile, continued lines joined. */
function parseDockerfile(text: string): { name: string; value: string }[] {
  return text
    .replace(/^#.*\n/gm, '')
    .replace(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [, name = '', value = ''] = /^([A-Z]+) (.*)$/.exec(line) ?? []
      return { name, value }
    })
}

/** What the options of `torus serve …` add up to. @throws when it would refuse to start */
function configOf(words: readonly string[]): Config {
  strictEqual(words[0], 'serve')
  const command = addServeOptions(new Command()).exitOverride()
  command.parse(words.slice(1), { from: 'user' })
  return resolveConfig({ ...flagsOf(command.opts()), env: {} }).config
}

test('both units forbid core files and run the torus command', () => {
  for (const name of services) {
    const unit = parseUnit(read(`deploy/${name}`))
    deepStrictEqual(unit.get('Service.LimitCORE'), ['0'], name)
    deepStrictEqual(unit.get('Service.NoNewPrivileges'), ['yes'], name)
    match(unit.get('Service.ExecStart')?.[0] ?? '', /^torus (serve|attach) /)
    ok(unit.has('Install.WantedBy'), name)
  }
})

test('the commands that the units run exist, with these options', async () => {
  const unit = parseUnit(read('deploy/torus.service'))
  const words = unit.get('Service.ExecStart')?.[0]?.split(' ').slice(1) ?? []
  strictEqual(configOf(words).dataDir, '/var/lib/torus')
  const attach = parseUnit(read('deploy/torus-attach@.service'))
  const commands = (await buildProgram()).commands.map((command) => command.name())
  for (const key of ['Service.ExecStart', 'Service.ExecStop']) {
    const [, name = '', volume, ...options] = attach.get(key)?.[0]?.split(' ') ?? []
    ok(commands.includes(name), `there is torus ${name}`)
    deepStrictEqual([volume, ...options], ['%I'])
  }
})

test('the peer gets time to finish and runs as the user that sysusers makes', () => {
  const unit = parseUnit(read('deploy/torus.service'))
  const user = unit.get('Service.User')?.[0] ?? ''
  match(read('deploy/torus.sysusers.conf'), new RegExp(`^u ${user} `, 'm'))
  ok(Number(unit.get('Service.TimeoutStopSec')?.[0]) >= 60)
  ok(!unit.has('Service.MemoryDenyWriteExecute'), 'the JIT needs pages it can write and run')
})

testNeeding(
  { givenPrograms: ['systemd-analyze'] },
  'systemd finds nothing wrong in the units',
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'torus-units-'))
    try {
      for (const name of services) {
        // systemd wants the programs to be there; what they are is not its business here.
        const text = read(`deploy/${name}`).replace(
          /^(Exec\w+=-?)(torus|modprobe)\b/gm,
          '$1/bin/true'
        )
        const path = join(folder, name.replace('@', '@demo'))
        writeFileSync(path, text)
        const verified = spawnSync('systemd-analyze', ['verify', path], { encoding: 'utf8' })
        strictEqual(verified.stdout + verified.stderr, '', name)
        strictEqual(verified.status, 0, name)
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  }
)

test('every file that the Dockerfile copies exists, and every stage it copies from', () => {
  const instructions = parseDockerfile(read('deploy/Dockerfile'))
  ok(instructions.every(({ name }) => name !== ''))
  const stages = new Set<string>()
  const ignored = read('.dockerignore').split('\n')
  for (const { name, value } of instructions) {
    const stage = name === 'FROM' ? / AS (\w+)$/.exec(value)?.[1] : undefined
    if (stage !== undefined) stages.add(stage)
    if (name !== 'COPY') continue
    const from = /--from=(\w+)/.exec(value)?.[1]
    if (from !== undefined) {
      ok(stages.has(from), `${from} is an earlier stage`)
      continue
    }
    for (const source of value.split(' ').slice(0, -1)) {
      ok(existsSync(join(repositoryRoot, source)), `${source} exists`)
      ok(!ignored.includes(source.split('/')[0] ?? ''), `${source} reaches the build`)
    }
  }
})

test('the image runs slim bookworm, as nobody special, with lists for commands', () => {
  const instructions = parseDockerfile(read('deploy/Dockerfile'))
  const all = (wanted: string): string[] =>
    instructions.filter(({ name }) => name === wanted).map(({ value }) => value)
  ok(all('FROM').length === 2 && all('FROM').every((image) => /bookworm-slim/.test(image)))
  deepStrictEqual(all('USER'), ['node'])
  deepStrictEqual(JSON.parse(all('ENTRYPOINT')[0] ?? ''), ['torus'])
  ok(configOf(JSON.parse(all('CMD')[0] ?? '')).nbdListen?.host === '0.0.0.0')
  const health: string[] = JSON.parse(all('HEALTHCHECK')[0]?.replace(/^.* CMD /, '') ?? '')
  strictEqual(spawnSync(process.execPath, ['--check', '-'], { input: health[2] ?? '' }).status, 0)
})

test.run()
