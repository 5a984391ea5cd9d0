import { match, ok, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../../scripts/repository.ts'

/** Stands for the compiler: notes each run, copies src/x.ts to dist/src/x.js, may refuse. */
const COMPILER = `
const { appendFileSync, copyFileSync, mkdirSync, readdirSync, readFileSync } = require('node:fs')
appendFileSync('compiled', 'x')
mkdirSync('dist/src', { recursive: true })
for (const name of readdirSync('src')) {
  if (readFileSync('src/' + name, 'utf8').includes('wrong')) {
    console.log('src/' + name + '(1,1): error TS1')
    process.exit(2)
  }
  copyFileSync('src/' + name, 'dist/src/' + name.replace('.ts', '.js'))
}
`

/** A made-up checkout whose packages are installed and whose add-on is built. */
class Checkout {
  readonly root = mkdtempSync(join(tmpdir(), 'torus-setup-'))

  constructor() {
    for (const name of ['scripts/setup.mjs', 'package.json', 'package-lock.json']) {
      mkdirSync(dirname(join(this.root, name)), { recursive: true })
      cpSync(join(repositoryRoot, name), join(this.root, name))
    }
    const abi = `${process.platform} ${process.arch} ${process.versions.modules}`
    this.write('node_modules/fs-ext/build/.torus-setup', abi)
    this.write('node_modules/typescript/bin/tsc', COMPILER)
    this.write('tsconfig.json', '{ "include": ["src", "workers"] }')
    this.write('src/a.ts', 'a')
    this.write('src/b.ts', 'b')
  }

  write(name: string, text: string): void {
    mkdirSync(dirname(join(this.root, name)), { recursive: true })
    writeFileSync(join(this.root, name), text)
  }

  has = (name: string): boolean => existsSync(join(this.root, name))

  /** How often the compiler ran. */
  get compilations(): number {
    return this.has('compiled') ? readFileSync(join(this.root, 'compiled')).length : 0
  }

  /** With nothing in PATH there is no npm and no apt: what it needs must be there, or is named. */
  run(...flags: string[]) {
    const args = [join(this.root, 'scripts/setup.mjs'), ...flags]
    const env = { PATH: this.root, npm_execpath: '' }
    return spawnSync(process.execPath, args, { cwd: this.root, env, encoding: 'utf8' })
  }
}

function withCheckout(body: (checkout: Checkout) => void): void {
  const checkout = new Checkout()
  try {
    const setup = spawnSync(
      process.execPath,
      ['--input-type=module', '-e', STAMP_PROGRAM, checkout.root],
      { encoding: 'utf8' }
    )
    checkout.write('node_modules/.torus-setup', setup.stdout)
    body(checkout)
  } finally {
    rmSync(checkout.root, { recursive: true })
  }
}

/** Prints what set-up would note about the packages of the checkout in argv[1]. */
const STAMP_PROGRAM = `
const { dependencyStamp } = await import(process.argv[1] + '/scripts/setup.mjs')
process.stdout.write(dependencyStamp())
`

test('sources are compiled once, and again when one changed', () => {
  withCheckout((checkout) => {
    const first = checkout.run()
    strictEqual(first.status, 0, first.stderr)
    ok(checkout.has('dist/src/a.js'))
    checkout.run()
    strictEqual(checkout.compilations, 1)
    checkout.write('src/a.ts', 'another text')
    checkout.run()
    strictEqual(checkout.compilations, 2)
    strictEqual(readFileSync(join(checkout.root, 'dist/src/a.js'), 'utf8'), 'another text')
  })
})

test('compiled files whose source is gone are removed, folders too', () => {
  withCheckout((checkout) => {
    checkout.run()
    for (const name of ['test/old.test.js', 'src/b.d.ts', 'src/b.js.map', 'src/gone.js']) {
      checkout.write(`dist/${name}`, '')
    }
    rmSync(join(checkout.root, 'src/b.ts'))
    strictEqual(checkout.run().status, 0)
    for (const name of ['test', 'src/b.js', 'src/b.d.ts', 'src/b.js.map', 'src/gone.js']) {
      ok(!checkout.has(`dist/${name}`), `${name} is gone`)
    }
    ok(checkout.has('dist/src/a.js'))
  })
})

test('what the compiler objects to is shown, and tried again next time', () => {
  withCheckout((checkout) => {
    checkout.write('src/a.ts', 'wrong')
    const refused = checkout.run()
    strictEqual(refused.status, 1)
    match(refused.stderr, /src\/a\.ts\(1,1\): error TS1/)
    strictEqual(checkout.run().status, 1)
    checkout.write('src/a.ts', 'a')
    strictEqual(checkout.run().status, 0)
  })
})

test('programs that cannot be installed are named with their package', () => {
  withCheckout((checkout) => {
    const list = [{ program: 'no-such-program', package: 'some-package' }]
    checkout.write('scripts/test-programs.json', JSON.stringify(list))
    const result = checkout.run('--tests', '--no-build')
    strictEqual(result.status, 0, 'tests that need them say so themselves')
    match(result.stderr, /missing: no-such-program \(Debian package some-package\)/)
    strictEqual(checkout.compilations, 0)
  })
})

test('an add-on of another ABI is built again, and without a compiler that is named', () => {
  withCheckout((checkout) => {
    checkout.write('node_modules/fs-ext/build/.torus-setup', 'linux x64 1')
    const result = checkout.run()
    strictEqual(result.status, 1)
    match(result.stderr, /to compile fs-ext there must be: python3 .*make .*g\+\+/)
  })
})

test.run()
