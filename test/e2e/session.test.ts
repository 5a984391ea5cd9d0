/** A session at the command line, as the README shows it. */
import { spawn } from 'node:child_process'
import { match, ok, strictEqual } from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, Scratch } from '../helpers/images.ts'
import { nbdInfo } from '../helpers/nbd-clients.ts'
import { end, run, until } from '../helpers/process.ts'
import { qemuIo } from '../helpers/qemu.ts'
import { TorusServer } from '../helpers/server.ts'

let server: TorusServer
let scratch: Scratch

test.before(async () => {
  scratch = await Scratch.create()
  server = await TorusServer.start({ args: ['--shards', '2', '--capacity', '2GiB'] })
})

test.after(async () => {
  await server?.dispose()
  await scratch?.remove()
})

interface Volume {
  readonly name: string
  readonly sizeBytes: number
  readonly usedBytes: number | null
}

const list = (): Promise<readonly Volume[]> => server.json<Volume[]>('volume', 'list')

test('volumes are created, listed, shown, renamed, resized and deleted', async () => {
  const created = await server.json<Volume>('volume', 'create', 'first', '64MiB')
  strictEqual(created.sizeBytes, 64 * MiB)
  await server.createVolume('second', '1G')
  strictEqual((await list()).map(({ name }) => name).join(), 'first,second')
  strictEqual((await server.json<Volume>('volume', 'show', 'first')).sizeBytes, 64 * MiB)
  await server.json('volume', 'rename', 'first', 'renamed')
  strictEqual(
    (await server.json<Volume>('volume', 'resize', 'renamed', '128MiB')).sizeBytes,
    128 * MiB
  )
  const shrunk = await server.json<Volume>('volume', 'resize', 'renamed', '32MiB', '--yes')
  strictEqual(shrunk.sizeBytes, 32 * MiB)
  await server.json('volume', 'delete', 'renamed', '--now', '--yes')
  await server.json('volume', 'delete', 'second', '--now', '--yes')
  strictEqual((await list()).length, 0)
})

testNeeding({ programs: ['qemu-io'] }, 'what a volume uses follows its data', async () => {
  await server.createVolume('measured', '64MiB')
  await server.createVolume('beside', '64MiB')
  const used = async (): Promise<number | null> =>
    (await server.json<Volume>('volume', 'show', 'measured')).usedBytes
  const io = (...commands: string[]) => qemuIo(server.uri('measured'), ...commands)
  strictEqual(await used(), 0)
  await io('write 0 8M', 'write 6M 4M', 'write 20M 4k', 'flush')
  await qemuIo(server.uri('beside'), 'write 0 1M', 'flush')
  strictEqual(await used(), 10 * MiB + 4096)
  await io('discard 0 4M', 'flush')
  strictEqual(await used(), 6 * MiB + 4096)
  await server.json('compact')
  strictEqual(await used(), 6 * MiB + 4096)
  for (const end of [() => server.stop(), () => server.kill()]) {
    await end()
    await server.start()
    strictEqual(await used(), 6 * MiB + 4096)
  }
  const all = await list()
  strictEqual(all.find(({ name }) => name === 'beside')?.usedBytes, MiB)
  await server.json('volume', 'delete', 'measured', '--now', '--yes')
  await server.json('volume', 'delete', 'beside', '--now', '--yes')
})

test('what cannot be done is told in words, with exit code 1', async () => {
  await server.createVolume('taken', '16MiB')
  const failures: readonly (readonly [string[], RegExp])[] = [
    [['volume', 'create', 'taken', '16MiB'], /taken|exists/],
    [['volume', 'show', 'nobody'], /nobody/],
    [['volume', 'delete', 'nobody', '--yes'], /nobody/],
    [['client', 'disconnect', '999999', '--yes'], /999999/]
  ]
  for (const [args, words] of failures) {
    const { code, stderr } = await server.torus(args)
    strictEqual(code, 1, args.join(' '))
    match(stderr, words)
  }
  // Shrinking and deleting ask; without a terminal they refuse.
  strictEqual((await server.torus(['volume', 'resize', 'taken', '4MiB'])).code === 0, false)
  strictEqual((await server.torus(['volume', 'delete', 'taken'])).code === 0, false)
  await server.json('volume', 'delete', 'taken', '--now', '--yes')
})

test('wrong usage has exit code 2 and says what is right', async () => {
  for (const args of [['volume', 'create'], ['nonsense'], ['status', '--nonsense']]) {
    const { code, stderr } = await server.torus(args)
    strictEqual(code, 2, args.join(' '))
    ok(stderr.length > 0)
  }
  const { code, stdout } = await server.torus(['volume', 'create', '--help'])
  strictEqual(code, 0)
  match(stdout, /torus volume create/)
})

test('a peer that is not there is told with its address, exit code 1', async () => {
  const away = { env: { TORUS_ADMIN: 'http://127.0.0.1:1' } }
  const { code, stderr } = await server.torus(['status'], away)
  strictEqual(code, 1)
  match(stderr, /127\.0\.0\.1:1/)
})

testNeeding({ programs: ['qemu-io'] }, 'status counts what is held', async () => {
  await server.createVolume('counted', '64MiB')
  await qemuIo(server.uri('counted'), 'write -P 1 0 32M', 'flush')
  interface Status {
    readonly health: string
    readonly promisedBytes: number
    readonly peer: { readonly liveBytes: number; readonly capacityBytes: number }
    readonly shards: readonly { readonly state: string }[]
  }
  let status = await server.json<Status>('status')
  await until(async () => {
    status = await server.json<Status>('status')
    return status.peer.liveBytes >= 32 * MiB
  }, 'status shows 32 MiB of live data')
  strictEqual(status.health, 'ok')
  strictEqual(status.promisedBytes, 64 * MiB)
  strictEqual(
    status.shards.length > 0 && status.shards.every(({ state }) => state === 'serving'),
    true
  )
  match((await server.torus(['status'])).stdout, /counted|serving|ok/i)
  await server.json('peer', 'show')
})

testNeeding({ programs: ['qemu-io'] }, 'scrub and compact run to their end', async () => {
  await server.createVolume('busy', '64MiB')
  for (let round = 1; round <= 3; round++)
    await qemuIo(server.uri('busy'), `write -P ${round} 0 48M`)
  await server.json('scrub')
  await server.json('compact')
  await qemuIo(server.uri('busy'), 'read -P 3 0 48M')
})

testNeeding({ programs: ['nbdcopy'] }, 'a client is listed and can be disconnected', async () => {
  await server.createVolume('watched', '1GiB')
  const client = run('nbdcopy', [server.uri('watched'), 'null:'])
  const slow = spawn('qemu-io', ['-f', 'raw', server.uri('watched')], {
    stdio: ['pipe', 'ignore', 'ignore']
  })
  slow.stdin.end('read 0 4k\nsleep 20000\n')
  interface Client {
    readonly id: number
    readonly volume: string
  }
  const clients = (): Promise<readonly Client[]> => server.json<Client[]>('client', 'list')
  await client
  await until(async () => (await clients()).length === 1, 'one client is listed')
  const [found] = await clients()
  strictEqual(found?.volume, 'watched')
  await server.json('client', 'disconnect', String(found?.id), '--yes')
  // A client that does not close its side has a moment for it.
  await until(async () => (await clients()).length === 0, 'the client is gone')
  await end(slow, 'SIGKILL')
})

testNeeding({ programs: ['nbdinfo'] }, 'a config file is read, and a flag beats it', async () => {
  const file = scratch.path('torus.yaml')
  await writeFile(file, 'capacity: 1GiB\nvolume:\n  - fromfile=32MiB\nlog-level: warn\n')
  const other = await TorusServer.start({ args: ['--config', file, '--capacity', '512MiB'] })
  try {
    strictEqual((await nbdInfo(other.uri('fromfile'))).exports[0]?.['export-size'], 32 * MiB)
    interface Entry {
      readonly name: string
      readonly value: unknown
      readonly source: string
    }
    const entries = await other.json<Entry[]>('config', 'show')
    const capacity = entries.find(({ name }) => name === 'capacity')
    match(String(capacity?.source), /flag/)
    const shards = entries.find(({ name }) => name === 'shards')
    strictEqual(typeof shards?.value, 'number')
    match(String(entries.find(({ name }) => name === 'log-level')?.source), /torus\.yaml/)
  } finally {
    await other.dispose()
  }
})

test('metrics and health are served', async () => {
  const metrics = await fetch(`${server.adminUrl}/metrics`)
  match(await metrics.text(), /^torus_/m)
  strictEqual((await fetch(`${server.adminUrl}/healthz`)).status, 200)
  strictEqual((await fetch(`${server.adminUrl}/openapi.json`)).status, 200)
})

test.run()
