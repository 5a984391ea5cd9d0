import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../scripts/repository.ts'
import * as tidy from './helpers/tidy-checks.ts'

/** Who may import whom. Folders are the architecture; imports follow these arrows only. */
const mayImport: Record<string, string[]> = {
  core: [],
  format: ['core'],
  placement: ['core'],
  seal: ['core', 'format'],
  shard: ['core', 'format', 'placement', 'seal'],
  // Keys are a matter of seal; who stores, hashes or asks for them speaks its words.
  handoff: ['core', 'seal'],
  metadata: ['core'],
  cluster: ['core', 'placement', 'seal', 'metadata'],
  replication: ['core', 'format', 'placement', 'seal', 'shard', 'handoff', 'cluster'],
  volume: ['core', 'seal', 'placement', 'cluster', 'replication'],
  backup: ['core', 'format', 'seal', 'volume'],
  nbd: ['core', 'volume'],
  s3: ['core', 'volume'],
  csi: ['core', 'volume'],
  admin: ['core', 'seal', 'cluster', 'volume', 'backup'],
  // What runs without a server, and the client of `torus bench`.
  cli: ['core', 'admin', 'seal', 'placement', 'shard', 'backup', 'nbd', 'coordinator'],
  // Thin thread entries: they adapt handoff to the engine and the codecs.
  workers: ['core', 'format', 'seal', 'shard', 'handoff'],
  // The one place that builds all of it and connects it.
  coordinator: [
    ...['core', 'format', 'placement', 'seal', 'shard', 'handoff', 'metadata', 'cluster'],
    ...['replication', 'volume', 'backup', 'nbd', 's3', 'csi', 'admin', 'workers']
  ],
  // The library's face.
  index: ['core', 'cluster', 'volume', 'backup', 'coordinator']
}

/** Threads live in handoff and workers alone, so that a whole cluster runs in one thread. */
const onlyIn: Record<string, string[]> = {
  'node:worker_threads': ['handoff', 'workers'],
  piscina: ['handoff', 'workers'],
  lmdb: ['metadata'],
  etcd3: ['metadata'],
  commander: ['cli'],
  fastify: ['admin']
}
/** Decide in pure code: functions of their arguments. */
const pureFolders = ['format', 'placement']

/** Without a user in the product, each for a reason. */
const userless = [
  'exports unreachable ' // ends switches over unions
]

const COLUMNS_MAX = 100
const LINES_WORTH_A_LOOK = 400
const ENTRIES = /^(src\/index\.ts|src\/coordinator\.ts|src\/cli\/main\.ts|workers\/|scripts\/)/
const MAY_PRINT = /^(src\/cli|scripts|native-free-bench|test)\//
// Put together from pieces, so that this file does not find itself.
const UNFINISHED = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|')})\\b`, 'g')
const MACHINE_PATHS = new RegExp(
  `['"\`\\s(](/${['home', 'root', 'Users', 'work'].join('|/')})/\\w+`,
  'g'
)

const tree = tidy.readTree(repositoryRoot, [
  'src',
  'workers',
  'test',
  'scripts',
  'native-free-bench'
])
const declared = new Set(
  Object.keys(JSON.parse(readFileSync(join(repositoryRoot, 'package.json'), 'utf8')).dependencies)
)

const made = (files: Record<string, string>) => tidy.makeTree(Object.entries(files))

test('imports follow the arrows', () => {
  deepStrictEqual(tidy.wrongImports(tree, mayImport), [])
  deepStrictEqual(tidy.unknownFolders(tree, mayImport), [])
})

test('threads, databases and protocols stay in their folders, and packages are declared', () => {
  deepStrictEqual(tidy.wrongPackages(tree, onlyIn, pureFolders, declared), [])
  const outsideTests = new Map([...tree].filter(([path]) => !path.startsWith('test/')))
  deepStrictEqual(tidy.unusedPackages(outsideTests, declared), [])
})

test('lines fit the screen', () => {
  deepStrictEqual(tidy.longLines(tree, COLUMNS_MAX), [])
})

test('only programs print, and no file is a list of re-exports', () => {
  deepStrictEqual(tidy.strayConsole(tree, MAY_PRINT), [])
  deepStrictEqual(tidy.barrelFiles(tree, ['src/index.ts']), [])
})

test('nothing is marked unfinished and no path of one machine is in a source', () => {
  deepStrictEqual(tidy.forbiddenWords(tree, UNFINISHED), [])
  deepStrictEqual(tidy.forbiddenWords(tree, MACHINE_PATHS), [])
})

test('long files are reported', () => {
  const long = tidy.longFiles(tree, LINES_WORTH_A_LOOK)
  if (long.length > 0) console.log(`worth a look, is there a second noun?\n${long.join('\n')}`)
})

test('every file and every export has a user', () => {
  const unused = [...tidy.unusedFiles(tree, ENTRIES), ...tidy.unusedExports(tree, ENTRIES)]
  deepStrictEqual(
    unused.filter((each) => !userless.some((name) => each.includes(name))),
    []
  )
  // Whatever found a user since leaves the list.
  deepStrictEqual(
    userless.filter((name) => !unused.some((each) => each.includes(name))),
    []
  )
})

test('an import against the arrows is found, whatever its form', () => {
  const nbd = [
    "import type { Shard } from '../shard/shard.ts'",
    "export { Shard } from '../shard/shard.ts'",
    "const late = import('../shard/shard.ts')",
    'import {',
    '  Shard,',
    '  type Other',
    "} from '../shard/shard.ts'",
    "import '../shard/shard.ts'",
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is source text
    'const url = new URL(`../shard/shard${extname(import.meta.url)}`, import.meta.url)',
    "// import { Shard } from '../shard/shard.ts'",
    'const text = "import { Shard } from \'../shard/shard.ts\'"'
  ].join('\n')
  const wrong = tidy.wrongImports(
    made({ 'src/nbd/server.ts': nbd, 'src/shard/shard.ts': '' }),
    mayImport
  )
  const lines = wrong.map((each) => Number(/:(\d+) may not import/.exec(each)?.[1]))
  deepStrictEqual(
    [...new Set(lines)].sort((a, b) => a - b),
    [1, 2, 3, 4, 8, 9]
  )
})

test('an import of a file that is not there, or out of the product, is found', () => {
  const wrong = tidy.wrongImports(
    made({
      'src/core/a.ts': "import { b } from './b.ts'\nimport { h } from '../../test/helpers/h.ts'",
      'test/helpers/h.ts': 'export const h = 1'
    }),
    mayImport
  )
  strictEqual(wrong.length, 2)
  strictEqual(tidy.unknownFolders(made({ 'src/misc/a.ts': '' }), mayImport).length, 1)
})

test('a thread outside handoff, a file in pure code and an undeclared package are found', () => {
  const wrong = tidy.wrongPackages(
    made({
      'src/nbd/a.ts': "import { Worker } from 'node:worker_threads'",
      'src/format/b.ts': "import { readFileSync } from 'node:fs'",
      'src/volume/c.ts': "import pad from '@left/pad/x'\nimport { z } from 'zod'"
    }),
    onlyIn,
    pureFolders,
    declared
  )
  strictEqual(wrong.length, 3)
  const one = made({ 'src/a.ts': "import x from 'zod/v4'\n// import y from 'yaml'" })
  deepStrictEqual(tidy.unusedPackages(one, new Set(['zod', 'yaml'])), ['yaml'])
})

test('a long line, a long file, printing, a barrel and unfinished work are found', () => {
  const tall = made({ 'src/core/tall.ts': 'x\n'.repeat(401) })
  strictEqual(tidy.longLines(made({ 'src/core/a.ts': 'x'.repeat(101) }), COLUMNS_MAX).length, 1)
  strictEqual(tidy.longFiles(tall, LINES_WORTH_A_LOOK).length, 1)
  const loud = "console.log('x')\n// console.log('y')\nconst z = 'console.log()'\n"
  const printing = made({ 'src/nbd/a.ts': loud.slice(0, 33), 'src/cli/b.ts': loud })
  strictEqual(tidy.strayConsole(printing, MAY_PRINT).length, 1)
  const barrel = made({ 'src/nbd/all.ts': "export { a } from './a.ts'\nexport * from './b.ts'\n" })
  strictEqual(tidy.barrelFiles(barrel, []).length, 1)
  const unfinished = made({
    'src/nbd/a.ts': `// ${'TO' + 'DO'}: later\nconst p = '${'/ro' + 'ot'}/x'`
  })
  strictEqual(tidy.forbiddenWords(unfinished, UNFINISHED).length, 1)
  strictEqual(tidy.forbiddenWords(unfinished, MACHINE_PATHS).length, 1)
})

test('a file and an export that nobody uses are found, and used ones are not', () => {
  const some = made({
    'src/cli/main.ts': [
      "import { a, type T as U } from '../core/a.ts'",
      "import * as c from '../core/c.ts'"
    ].join('\n'),
    'src/core/a.ts': 'export const a = 1\nexport type T = 1\nexport function lost() {}\n',
    'src/core/b.ts': 'export const b = 1',
    'src/core/c.ts': 'export const c = 1',
    'test/core/b.test.ts': "import { b } from '../../src/core/b.ts'"
  })
  deepStrictEqual(tidy.unusedFiles(some, ENTRIES), ['src/core/b.ts is used by nobody'])
  deepStrictEqual(tidy.unusedExports(some, ENTRIES), ['src/core/a.ts:3 exports lost to nobody'])
})

test('the linter refuses a function longer than a screen, printing and forgotten promises', () => {
  const folder = mkdtempSync(join(tmpdir(), 'torus-lint-'))
  try {
    const body = Array.from({ length: 71 }, (_, index) => `  use(${index})`).join('\n')
    const source = `function use(x: number): void {
  console.log(x)
}

async function wait(): Promise<void> {}

export function long(): void {
  wait()
${body}
}
`
    writeFileSync(join(folder, 'long.ts'), source)
    const config = JSON.parse(readFileSync(join(repositoryRoot, 'biome.json'), 'utf8'))
    writeFileSync(join(folder, 'biome.json'), JSON.stringify({ ...config, $schema: '', vcs: {} }))
    const biome = join(repositoryRoot, 'node_modules/@biomejs/biome/bin/biome')
    const args = [biome, 'lint', '--colors=off', '--max-diagnostics=none', '.']
    const result = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' })
    ok(result.status !== 0)
    match(result.stdout + result.stderr, /noExcessiveLinesPerFunction/)
    match(result.stdout + result.stderr, /noConsole/)
    match(result.stdout + result.stderr, /noFloatingPromises/)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test.run()
