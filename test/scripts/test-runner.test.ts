import { match, ok, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../../scripts/repository.ts'
import { parseUvuOutput } from '../../scripts/testing/uvu-output.ts'

const uvu = import.meta.resolve('uvu')
const HEAD = `import { test } from '${uvu}'\n`

/** Runs the runner on made-up compiled tests. */
function runTests(files: Record<string, string>, ...args: string[]) {
  const root = mkdtempSync(join(tmpdir(), 'torus-runner-'))
  try {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, name)), { recursive: true })
      writeFileSync(join(root, name), text)
    }
    writeFileSync(join(root, 'package.json'), '{ "type": "module" }')
    const runner = join(repositoryRoot, 'dist/scripts/test.js')
    const result = spawnSync(process.execPath, [runner, '--no-lint', '--root', root, ...args], {
      encoding: 'utf8',
      timeout: 60_000
    })
    const lines = result.stdout.trimEnd().split('\n')
    return { status: result.status, output: result.stdout, lastLine: lines.at(-1) ?? '' }
  } finally {
    rmSync(root, { recursive: true })
  }
}

test('the last line adds up what all files reported', () => {
  const run = runTests({
    'a/one.test.js': `${HEAD}test('x', () => {})\ntest('y', () => {})\ntest.run()`,
    'b/two.test.js': `${HEAD}test('x', () => {})\ntest.skip('y', () => {})\ntest.run()`
  })
  strictEqual(run.lastLine, '3 passed, 0 failed, 1 skipped')
  strictEqual(run.status, 0)
})

test('a failed test fails the run and shows what the file printed', () => {
  const run = runTests({
    'a/one.test.js': `${HEAD}test('x', () => { throw new Error('three is not four') })\ntest.run()`,
    'a/two.test.js': `${HEAD}test('x', () => {})\ntest.run()`
  })
  strictEqual(run.lastLine, '1 passed, 1 failed')
  strictEqual(run.status, 1)
  match(run.output, /three is not four/)
})

test('a test whose processes or threads go beyond this machine fails, and says where', () => {
  const thread = `import net from 'node:net'
    net.connect(9, '192.0.2.7').on('error', () => {}).destroy()
    net.connect(9, '127.0.0.1').on('error', () => {})
    const server = net.createServer().listen(0, () => server.close())`
  const run = runTests({
    'a/thread.mjs': thread,
    'a/inside.test.js': `${HEAD}import net from 'node:net'
      test('x', () => new Promise((resolve) => {
        const server = net.createServer().listen(0, '127.0.0.1', () => {
          const socket = net.connect(server.address().port, 'localhost', () => {
            socket.destroy()
            server.close(resolve)
          })
        })
      }))
      test.run()`,
    'a/outside.test.js': `${HEAD}import { spawnSync } from 'node:child_process'
      import { fileURLToPath } from 'node:url'
      const program = fileURLToPath(new URL('./thread.mjs', import.meta.url))
      const code = "new (require('worker_threads').Worker)(process.argv[1])"
      test('x', () => { spawnSync(process.execPath, ['-e', code, program]) })
      test.run()`
  })
  strictEqual(run.lastLine, '2 passed, 1 failed')
  match(run.output, /outside: it is not alone .*connects to 192\.0\.2\.7 .*listens on ::/)
})

test('a test that never returns is named, with its file, whether it waits or spins', () => {
  const hang = (body: string): string =>
    `${HEAD}test('fine', () => {})\ntest('hanging', async () => { ${body} })\ntest.run()`
  const run = runTests(
    {
      'a/spin.test.js': hang('for (;;) {}'),
      'a/wait.test.js': hang('setInterval(() => {}, 1000); await new Promise(() => {})').replace(
        HEAD,
        `import { suite } from '${uvu}'\nconst test = suite('named')\n`
      )
    },
    '--timeout',
    '1'
  )
  strictEqual(run.lastLine, '0 passed, 2 failed')
  strictEqual(run.status, 1)
  match(run.output, /failed: a\/spin: not done after 1 s in test "hanging"/)
  match(run.output, /failed: a\/wait: not done after 1 s in test "hanging" \(open: .*Timeout/)
})

test('a file that stays alive after its tests counts one failure', () => {
  const body = `${HEAD}setInterval(() => {}, 1000)\ntest('x', () => {})\ntest.run()`
  const run = runTests({ 'a/one.test.js': body }, '--timeout', '1')
  strictEqual(run.lastLine, '1 passed, 1 failed')
  match(run.output, /after its last test: something keeps it alive \(open: .*Timeout/)
})

test('a promise that never settles is named too', () => {
  const body = `${HEAD}test('lost', async () => { await new Promise(() => {}) })\ntest.run()`
  const run = runTests({ 'a/one.test.js': body })
  strictEqual(run.lastLine, '0 passed, 1 failed')
  match(run.output, /failed: a\/one: ended with exit code 1 in test "lost" before uvu was done/)
})

test('a file that crashes, exits early, or has no test fails the run', () => {
  const run = runTests({
    'a/crash.test.js': `${HEAD}throw new Error('at import')`,
    'a/exit.test.js': `${HEAD}test('x', () => process.exit(0))\ntest.run()`,
    'a/killed.test.js': `${HEAD}test('x', () => process.kill(process.pid, 'SIGKILL'))\ntest.run()`,
    'a/empty.test.js': `${HEAD}test.run()`,
    'a/forgot.test.js': `${HEAD}test('x', () => {})`
  })
  strictEqual(run.lastLine, '0 passed, 5 failed')
  strictEqual(run.status, 1)
  match(run.output, /a\/killed: killed by SIGKILL in test "x"/)
  match(run.output, /a\/empty: has no test/)
})

test('an exit code set behind the back of passing tests fails the run', () => {
  const body = `${HEAD}test('x', () => {})
process.on('exit', () => { process.exitCode = 3 })\ntest.run()`
  strictEqual(runTests({ 'a/one.test.js': body }).lastLine, '1 passed, 1 failed')
})

test('processes that a test leaves behind do not outlive its file', () => {
  const body = `import { spawn } from 'node:child_process'\n${HEAD}test('x', () => {
  const child = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60000)'], { stdio: 'inherit' })
  child.unref()
  console.log('pid=' + child.pid)
  throw new Error('so that the output is shown')
})\ntest.run()`
  const run = runTests({ 'a/one.test.js': body })
  match(run.output, /left processes behind/)
  const pid = Number(/pid=(\d+)/.exec(run.output)?.[1])
  ok(pid > 0)
  // A zombie that nobody has reaped yet is gone enough.
  const state = `/proc/${pid}/stat`
  const alive = existsSync(state) && !/\) Z/.test(readFileSync(state, 'utf8'))
  ok(!alive, 'the child is gone')
})

test('no test at all is a failure, and a filter chooses files', () => {
  strictEqual(runTests({}).lastLine, '0 passed, 1 failed')
  const passing = `${HEAD}test('x', () => {})\ntest.run()`
  const run = runTests({ 'a/one.test.js': passing, 'a/two.test.js': passing }, 'a/two')
  strictEqual(run.lastLine, '1 passed, 0 failed')
})

test('summaries are read with and without colours, and none is not zero', () => {
  const plain = '\n  Total:     3\n  Passed:    2\n  Skipped:   1\n  Duration:  1ms\n'
  const coloured =
    '\n  Total:     1\x1b[32m\n  Passed:    1\x1b[39m\n  Skipped:   \x1b[33m1\x1b[39m\n'
  strictEqual(JSON.stringify(parseUvuOutput(plain)), '{"total":3,"passed":2,"skipped":1}')
  strictEqual(parseUvuOutput(plain + coloured)?.total, 4)
  strictEqual(parseUvuOutput('dots'), null)
})

test.run()
