import { equal, match, ok } from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { http } from '../helpers/admin.ts'
import { cliFor, cliProgram } from '../helpers/cli.ts'
import { end, gather, until, waitForEnd } from '../helpers/process.ts'

interface Started {
  readonly child: ChildProcess
  readonly output: ReturnType<typeof gather>
  readonly dataDir: string
}

const test = suite<{ folder: string; started: Started[] }>('serve')
test.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'torus-serve-'))
  context.started = []
})
test.after.each(async ({ folder, started }) => {
  for (const { child } of started) await end(child)
  rmSync(folder, { recursive: true, force: true })
})

/** Starts a peer on free ports and waits for its first answer. */
async function serve(
  context: { folder: string; started: Started[] },
  ...args: string[]
): Promise<Started> {
  const dataDir = join(context.folder, 'data')
  const all = ['--nbd-listen', '127.0.0.1:0', '--admin-listen', '127.0.0.1:0', ...args]
  const child = spawn(
    process.execPath,
    [cliProgram, 'serve', '--data-dir', dataDir, '--capacity', '1GiB', ...all],
    { stdio: ['ignore', 'pipe', 'pipe'] }
  )
  const started = { child, output: gather(child), dataDir }
  context.started.push(started)
  await until(() => {
    if (child.exitCode !== null) throw new Error(started.output.all())
    return started.output.stdout().endsWith('\n') && /"?admin/.test(started.output.stdout())
  }, 'torus serve answers')
  return started
}

test('serve tells addresses, takes commands, and ends in order on a signal', async (context) => {
  const { child, output, dataDir } = await serve(context, '--volume', 'demo=1GiB')
  match(output.stdout(), /torus serves .*\n {2}NBD {4}nbd:\/\/127\.0\.0\.1:\d+/)
  match(output.stdout(), /Next, in another terminal:\n.*torus --admin unix:\S+ mount demo/)
  const torus = cliFor(`unix:${join(dataDir, 'admin.sock')}`)
  const volumes = JSON.parse((await torus(['volume', 'list', '--json'])).stdout)
  equal(volumes[0].name, 'demo')
  const peer = JSON.parse((await torus(['peer', 'show', '--json'])).stdout)
  const metrics = await http(
    `${peer.adminAddresses.find((address: string) => address.startsWith('http'))}/metrics`
  )
  match(metrics.text, /torus_shard_state\{shard="0",state="serving"\} 1/)
  child.kill('SIGTERM')
  child.kill('SIGTERM')
  ok(await waitForEnd(child, 20_000), 'it ends')
  equal(child.exitCode, 0, output.all())
  match(output.stderr(), /"msg":"stopped"/)
})

test('with --json the addresses come as JSON', async (context) => {
  const { output } = await serve(context, '--json', '--admin-listen', 'off')
  const answer = JSON.parse(output.stdout())
  match(answer.nbdAddresses[0], /^nbd:\/\/127\.0\.0\.1:\d+$/)
  equal(answer.adminAddresses.length, 1)
})

test('a TLS file that is missing is named before anything is made', async ({ folder }) => {
  const dataDir = join(folder, 'data')
  const cert = join(folder, 'no-cert.pem')
  const files = ['--nbd-tls-cert', cert, '--nbd-tls-key', cert]
  const listen = ['--nbd-listen', '127.0.0.1:0', '--admin-listen', 'off']
  const torus = cliFor('')
  const { code, stderr } = await torus([
    ...['serve', '--data-dir', dataDir, '--nbd-tls', 'allow', ...files, ...listen]
  ])
  equal(code, 1)
  match(stderr, /TLS certificate \S+no-cert\.pem cannot be read: ENOENT/)
  ok(!existsSync(dataDir))
})

test('a second peer on the same directory is refused, and the first is named', async (context) => {
  const { dataDir } = await serve(context)
  const torus = cliFor('')
  const second = await torus([
    'serve',
    '--data-dir',
    dataDir,
    '--nbd-listen',
    'off',
    '--admin-listen',
    'off'
  ])
  equal(second.code, 1)
  match(second.stderr, /in use by another process/)
})

test.run()
