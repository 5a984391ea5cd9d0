import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { complete } from '../../src/cli/completion.ts'
import { completionScripts } from '../../src/cli/completion-scripts.ts'
import { buildProgram } from '../../src/cli/program.ts'
import { type AdminFixture, startFixture } from '../helpers/admin.ts'
import { cliFor, cliProgram } from '../helpers/cli.ts'
import { findProgram, testNeeding } from '../helpers/environment.ts'
import { fakeClient } from '../helpers/fake-backend.ts'
import { run } from '../helpers/process.ts'

let fixture: AdminFixture
let folder = ''

test.before(async () => {
  fixture = await startFixture()
  for (const name of ['demo', 'data', 'other']) {
    const volume = { name, sizeBytes: 4096, type: 'block', description: '' }
    await fixture.backend.createVolume(volume)
  }
  fixture.backend.clients.push(fakeClient(17, 'demo'))
  // A `torus` in PATH, as after an installation.
  folder = mkdtempSync(join(tmpdir(), 'torus-completion-'))
  const launcher = join(folder, 'torus')
  writeFileSync(launcher, `#!/bin/sh\nexec '${process.execPath}' '${cliProgram}' "$@"\n`)
  chmodSync(launcher, 0o755)
})
test.after(async () => {
  await fixture.stop()
  rmSync(folder, { recursive: true })
})

const wordsOf = async (...words: string[]): Promise<string[]> =>
  (await complete(await buildProgram(), words)).map((line) => line.split('\t')[0]!)

test('commands and subcommands complete by their beginning', async () => {
  deepEqual(await wordsOf('un'), ['unmount'])
  deepEqual(await wordsOf('volume', 're'), ['rename', 'resize', 'rekey'])
  ok((await wordsOf('')).includes('serve'))
  ok(!(await wordsOf('')).includes('__complete'))
})

test('flags complete with those that every command has', async () => {
  deepEqual(await wordsOf('volume', 'delete', '--f'), ['--force'])
  deepEqual(await wordsOf('volume', 'delete', 'demo', '--js'), ['--json'])
  ok((await wordsOf('serve', '--nbd-')).includes('--nbd-tls'))
})

test('values of flags complete where they are known, and files are left to the shell', async () => {
  deepEqual(await wordsOf('serve', '--nbd-tls', ''), ['off', 'allow', 'require'])
  deepEqual(await wordsOf('serve', '--log-level', 'de'), ['debug'])
  deepEqual(await wordsOf('serve', '--config', ''), [':files'])
  deepEqual(await wordsOf('serve', '--data-dir', 'x'), [':directories'])
  deepEqual(await wordsOf('completion', ''), ['bash', 'zsh', 'fish'])
})

test('names of volumes and ids of clients come from the peer', async () => {
  const admin = ['--admin', fixture.url]
  deepEqual(await wordsOf(...admin, 'volume', 'show', 'd'), ['data', 'demo'])
  deepEqual(await wordsOf(...admin, 'attach', ''), ['data', 'demo', 'other'])
  deepEqual(await wordsOf(...admin, 'client', 'disconnect', ''), ['17'])
  deepEqual(await wordsOf(...admin, 'mount', 'demo', ''), [':directories'])
  deepEqual(await wordsOf(...admin, 'volume', 'create', ''), [], 'a new name is not completed')
  deepEqual(await wordsOf(`--admin=${fixture.url}`, 'volume', 'show', 'o'), ['other'])
})

test('without a peer nothing is completed and nothing is said', async () => {
  deepEqual(await wordsOf('--admin', 'http://127.0.0.1:1', 'volume', 'show', ''), [])
  deepEqual(await wordsOf('--admin', 'nonsense://', 'volume', 'show', ''), [])
  const result = await cliFor('')(['__complete', '--', 'volume', 'show', ''])
  deepEqual([result.code, result.stdout, result.stderr], [0, '', ''])
})

test('the command prints the script of the shell', async () => {
  const result = await cliFor('')(['completion', 'fish'])
  equal(result.stdout, completionScripts.fish)
})

/** Runs `script` in a real shell that has loaded the completion. */
async function inShell(shell: string, script: string): Promise<string> {
  const file = join(folder, `_torus.${shell}`)
  writeFileSync(file, completionScripts[shell as keyof typeof completionScripts])
  const env = {
    PATH: `${folder}:${process.env['PATH']}`,
    TORUS_ADMIN: fixture.url,
    COMPLETION: file,
    HOME: folder
  }
  const args = shell === 'zsh' ? ['-f', '-c', script] : ['-c', script]
  const result = await run(findProgram(shell) || shell, args, { env, timeoutMs: 30_000 })
  equal(result.code, 0, result.stderr)
  return result.stdout
}

testNeeding({ programs: ['bash'] }, 'bash completes commands and volumes', async () => {
  const script = `
    source "$COMPLETION"
    try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _torus; echo "\${COMPREPLY[*]}"; }
    complete -p torus
    try torus volume show de
    try torus vol
    try torus volume delete demo --fo`
  const lines = (await inShell('bash', script)).trim().split('\n')
  match(lines[0]!, /-F _torus torus/)
  deepEqual(lines.slice(1), ['demo', 'volume', '--force'])
})

testNeeding({ programs: ['fish'] }, 'fish completes commands and volumes', async () => {
  const script = `
    source $COMPLETION
    complete -C 'torus volume show de'
    complete -C 'torus unm'`
  const lines = (await inShell('fish', script)).trim().split('\n')
  equal(lines[0], 'demo')
  match(lines[1]!, /^unmount\tend what mount began/)
})

testNeeding({ programs: ['zsh'] }, 'zsh completes commands and volumes', async () => {
  // Completion runs only in the line editor; its widgets are replaced by ones that print.
  const script = `
    autoload -U compinit && compinit -u -D
    source "$COMPLETION"
    [[ -n "\${_comps[torus]}" ]] && echo registered
    _describe() { print -l -- "\${items[@]}" }
    try() { words=("$@"); CURRENT=$#; _torus }
    try torus volume show de
    try torus unm`
  const lines = (await inShell('zsh', script)).trim().split('\n')
  equal(lines[0], 'registered')
  equal(lines[1], 'demo:')
  match(lines[2]!, /^unmount:end what mount began/)
})

test.run()
