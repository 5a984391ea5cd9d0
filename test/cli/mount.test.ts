import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { type AdminFixture, startFixture } from '../helpers/admin.ts'
import { cliFor } from '../helpers/cli.ts'
import { testNeeding } from '../helpers/environment.ts'
import { end, until } from '../helpers/process.ts'

const SIZE = 8 * 1024 * 1024
/** nbdkit stands in for the peer's NBD server: here it is about mounting. */
const needs = { programs: ['nbdfuse', 'fusermount3', 'nbdkit'], kernel: ['fuse'] } as const

interface Here {
  readonly fixture: AdminFixture
  readonly folder: string
  readonly server: ChildProcess
  readonly torus: ReturnType<typeof cliFor>
  stop(): Promise<void>
}

async function start(): Promise<Here> {
  const fixture = await startFixture()
  const folder = mkdtempSync(join(tmpdir(), 'torus-mount-'))
  const socket = join(folder, 'nbd.sock')
  const server = spawn('nbdkit', ['-f', '-U', socket, 'memory', String(SIZE)], { stdio: 'ignore' })
  await until(() => existsSync(socket), 'nbdkit listens')
  const peer = await fixture.backend.peer()
  fixture.backend.peer = async () => ({ ...peer, nbdAddresses: [`nbd+unix://?socket=${socket}`] })
  const volume = { name: 'demo', sizeBytes: SIZE, type: 'block', description: '' }
  await fixture.backend.createVolume(volume)
  const command = cliFor(fixture.url)
  const torus: Here['torus'] = (args) => command(args, { TORUS_RUN_DIR: join(folder, 'run') })
  const stop = async () => {
    await end(server)
    await fixture.stop()
    rmSync(folder, { recursive: true, force: true })
  }
  return { fixture, folder, server, torus, stop }
}

testNeeding(
  needs,
  'a mounted volume is a file, and what is written reaches the server',
  async () => {
    const { folder, torus, stop } = await start()
    const directory = join(folder, 'mnt dir')
    try {
      const mounted = await torus(['mount', 'demo', directory, '--json'])
      equal(mounted.code, 0, mounted.stderr)
      const { device, pid } = JSON.parse(mounted.stdout)
      equal(device, join(directory, 'nbd'))
      ok(pid > 0)
      equal(statSync(device).size, SIZE)
      writeFileSync(device, Buffer.alloc(4096, 7), { flag: 'r+' })
      const again = await torus(['mount', 'demo', directory])
      equal(again.code, 1)
      match(again.stderr, /something is mounted/)
      const unmounted = await torus(['unmount', directory])
      equal(unmounted.code, 0, unmounted.stderr)
      ok(!existsSync(directory), 'a directory that mount made goes with it')

      mkdirSync(directory)
      equal((await torus(['mount', 'demo', directory, '--read-only'])).code, 0)
      const first = readFileSync(join(directory, 'nbd')).subarray(0, 4096)
      deepEqual(first, Buffer.alloc(4096, 7))
      equal((await torus(['unmount', directory])).code, 0)
      ok(existsSync(directory), 'a directory that was there stays')
      const nothing = await torus(['unmount', directory])
      equal(nothing.code, 1)
      match(nothing.stderr, /nothing is mounted/)
    } finally {
      await torus(['unmount', directory])
      await stop()
    }
  }
)

testNeeding(needs, 'a mount that fails says why, and leaves nothing behind', async () => {
  const { fixture, folder, torus, server, stop } = await start()
  try {
    const directory = join(folder, 'mnt')
    match((await torus(['mount', 'none', directory])).stderr, /no volume "none"/)
    ok(!existsSync(directory))
    mkdirSync(directory)
    writeFileSync(join(directory, 'file'), '')
    match((await torus(['mount', 'demo', directory])).stderr, /is not empty/)
    rmSync(directory, { recursive: true })
    await end(server)
    const peer = await fixture.backend.peer()
    fixture.backend.peer = async () => ({ ...peer, nbdAddresses: ['nbd://127.0.0.1:1'] })
    const failed = await torus(['mount', 'demo', directory])
    equal(failed.code, 1)
    match(failed.stderr, /nbdfuse failed.*(refused|connect)/is)
    ok(!existsSync(directory))
  } finally {
    await stop()
  }
})

testNeeding(
  needs,
  'a mounted volume goes on at the next gateway, and tells when there is none',
  async () => {
    const { folder, server, torus, stop } = await start()
    const directory = join(folder, 'mnt')
    const [first, second] = [join(folder, 'a.sock'), join(folder, 'b.sock')]
    const disk = join(folder, 'disk')
    writeFileSync(disk, Buffer.alloc(SIZE))
    const serve = (socket: string): ChildProcess =>
      spawn('nbdkit', ['-f', '-U', socket, 'file', disk], { stdio: 'ignore' })
    const gateways = [first, second].map((path) => `nbd+unix:///?socket=${path}`).join(',')
    const at = (offset: number, seed: number): Buffer => {
      const descriptor = openSync(join(directory, 'nbd'), 'r+')
      writeSync(descriptor, Buffer.alloc(4096, seed), 0, 4096, offset)
      fsyncSync(descriptor)
      const bytes = Buffer.alloc(4096)
      readSync(descriptor, bytes, 0, 4096, offset)
      closeSync(descriptor)
      return bytes
    }
    let serving = serve(first)
    try {
      await until(() => existsSync(first), 'nbdkit listens')
      const mounted = await torus(['mount', 'demo', directory, '--gateway', gateways])
      equal(mounted.code, 0, mounted.stderr)
      deepEqual(at(0, 1), Buffer.alloc(4096, 1))
      await end(serving, 'SIGKILL')
      serving = serve(second)
      deepEqual(at(4096, 2), Buffer.alloc(4096, 2))
      equal((await torus(['unmount', directory])).code, 0)
      deepEqual(
        readFileSync(disk).subarray(0, 8192),
        Buffer.alloc(8192).fill(1, 0, 4096).fill(2, 4096)
      )
      deepEqual(readdirSync(join(folder, 'run')), [])
      const wrong = await torus(['mount', 'demo', directory, '--gateway', 'a b'])
      equal(wrong.code, 2)
      match(wrong.stderr, /"a b" is not like HOST/)
    } finally {
      await end(serving)
      await end(server)
      await stop()
    }
  }
)

test('mount without its program names the package', async () => {
  const fixture = await startFixture()
  const torus = cliFor(fixture.url)
  const result = await torus(['mount', 'demo', '/nowhere'], { PATH: '/nonexistent' })
  equal(result.code, 1)
  match(result.stderr, /nbdfuse, which is not installed.*libnbd-bin/)
  await fixture.stop()
})

test.run()
