import { deepEqual, equal, match, ok } from 'node:assert/strict'
import type { Command } from 'commander'
import { test } from 'uvu'
import { buildProgram } from '../../src/cli/program.ts'
import { optionInfo, optionKeys } from '../../src/core/option-info.ts'
import { cliFor } from '../helpers/cli.ts'

interface Named {
  readonly path: string
  readonly command: Command
}

function* commandsOf(command: Command, path: string): Iterable<Named> {
  yield { path, command }
  for (const inner of command.commands) {
    if (inner.name() !== 'help') yield* commandsOf(inner, `${path} ${inner.name()}`)
  }
}

const all = [...commandsOf(await buildProgram(), 'torus')]

/** What `--help` prints, with the text after it. */
function helpOf(command: Command): string {
  let text = ''
  command.configureOutput({
    writeOut: (part) => {
      text += part
    }
  })
  command.outputHelp()
  return text
}

test('every command has a description, an example and --json in its help', () => {
  ok(all.length >= 25)
  for (const { path, command } of all) {
    ok(command.description().length > 5, path)
    const help = helpOf(command)
    match(help, /Examples:\n {2}\$ /, path)
    ok(help.includes('--json') && help.includes('--admin'), path)
  }
})

test('words load the commands that they may mean, unknown ones load all', async () => {
  const namesFor = async (...words: string[]) =>
    (await buildProgram(words)).commands.map((command) => command.name())
  const names = await namesFor()
  for (const name of names) ok((await namesFor(name, 'demo')).includes(name), name)
  deepEqual(await namesFor('--json', 'volume', 'create', 'demo'), ['volume'])
  deepEqual(await namesFor('mount', 'pool'), ['mount', 'unmount', 'pool'])
  for (const words of [['volum', 'list'], ['polo', 'pool'], ['--help'], ['help']]) {
    deepEqual(await namesFor(...words), names, words.join(' '))
  }
})

test('examples use commands that exist', () => {
  const paths = new Set(all.map(({ path }) => path))
  for (const { path, command } of all) {
    for (const [example] of helpOf(command).matchAll(/(?<![.\w])torus (?!-)[a-z]+( [a-z]+)?/g)) {
      const words = example.split(' ')
      const known = paths.has(example) || paths.has(words.slice(0, 2).join(' '))
      ok(known, `${path}: ${example}`)
    }
  }
})

test('serve takes every option of the configuration', () => {
  const serve = all.find(({ path }) => path === 'torus serve')!.command
  const flags = serve.options.map(({ long }) => long)
  for (const key of optionKeys) ok(flags.includes(`--${optionInfo[key].name}`), key)
})

test('serve tells the defaults of its options', () => {
  const help = helpOf(all.find(({ path }) => path === 'torus serve')!.command)
  match(help.replaceAll(/\s+/g, ' '), /--arena-size <SIZE> [^(]+\(default: 64MiB\)/)
})

test('--help and --version end with 0', async () => {
  const torus = cliFor('')
  const help = await torus(['volume', 'create', '--help'])
  equal(help.code, 0)
  match(help.stdout, /Usage: torus volume create/)
  const version = await torus(['--version'])
  equal(version.code, 0)
  match(version.stdout, /^\d+\.\d+\.\d+\n$/)
  equal(JSON.parse((await torus(['version', '--json'])).stdout).version, version.stdout.trim())
})

test.run()
