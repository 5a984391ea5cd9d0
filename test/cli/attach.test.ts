import { deepEqual, equal, match, ok, throws } from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import type { Peer } from '../../src/cli/api-client.ts'
import { attachArguments } from '../../src/cli/commands/attach.ts'
import { chooseNbdAddress, parseNbdAddress, volumeUri } from '../../src/cli/nbd-address.ts'
import { NbdKernel } from '../../src/cli/nbd-kernel.ts'
import { RunDirectory } from '../../src/cli/run-directory.ts'
import { startFixture } from '../helpers/admin.ts'
import { cliFor } from '../helpers/cli.ts'
import { hasKernelFeature } from '../helpers/environment.ts'
import { FakeBackend } from '../helpers/fake-backend.ts'

/** A made-up /dev, /sys and /proc with these nbd devices: free, or with the pid of a client. */
function fakeKernel(devices: Readonly<Record<string, 'free' | 'busy'>>, mounts: string = '') {
  const root = mkdtempSync(join(tmpdir(), 'torus-kernel-'))
  const paths = { dev: join(root, 'dev'), sys: join(root, 'sys'), proc: join(root, 'proc') }
  mkdirSync(join(paths.sys, 'block', 'sda'), { recursive: true })
  mkdirSync(join(paths.proc, 'sys/kernel'), { recursive: true })
  writeFileSync(join(paths.proc, 'sys/kernel/osrelease'), '6.1.0-test\n')
  writeFileSync(join(paths.proc, 'mounts'), mounts.replaceAll('DEV', paths.dev))
  for (const [name, state] of Object.entries(devices)) {
    const folder = join(paths.sys, 'block', name)
    mkdirSync(folder)
    writeFileSync(join(folder, 'size'), state === 'free' ? '0\n' : '2097152\n')
    if (state === 'busy') writeFileSync(join(folder, 'pid'), '1234\n')
  }
  const remove = () => rmSync(root, { recursive: true })
  return { kernel: new NbdKernel(paths), dev: paths.dev, remove }
}

test('the first free device is taken, by number', () => {
  const { kernel, dev, remove } = fakeKernel({ nbd10: 'free', nbd0: 'busy', nbd2: 'free' })
  deepEqual(kernel.devices(), ['nbd0', 'nbd2', 'nbd10'])
  equal(kernel.freeDevice(), join(dev, 'nbd2'))
  kernel.needFree(join(dev, 'nbd2'))
  throws(() => kernel.needFree(join(dev, 'nbd0')), /in use/)
  throws(() => kernel.nameOf('/dev/sda'), /no nbd device/)
  equal(kernel.nameOf('nbd10'), 'nbd10')
  remove()
})

test('a missing driver and a shortage of devices are told with what to do', () => {
  const none = fakeKernel({})
  throws(() => none.kernel.needDriver(), /6\.1\.0-test.*modprobe nbd.*torus mount/)
  none.remove()
  const full = fakeKernel({ nbd0: 'busy' })
  throws(() => full.kernel.freeDevice(), /all 1 nbd devices are in use.*nbds_max/)
  full.remove()
})

test('mounts of a device and of its partitions are found, and not those of others', () => {
  const mounts = 'DEV/nbd1 /a ext4 rw 0 0\nDEV/nbd1p2 /b ext4 rw 0 0\nDEV/nbd10 /c ext4 rw 0 0\n'
  const { kernel, dev, remove } = fakeKernel({ nbd1: 'busy' }, mounts)
  deepEqual(kernel.mountsOf(join(dev, 'nbd1')), ['/a', '/b'])
  remove()
})

test('addresses of NBD are read in all their forms', () => {
  deepEqual(parseNbdAddress('nbd://127.0.0.1:10810'), {
    kind: 'tcp',
    host: '127.0.0.1',
    port: 10810,
    tls: false
  })
  deepEqual(parseNbdAddress('nbds://[::1]'), { kind: 'tcp', host: '::1', port: 10809, tls: true })
  for (const text of ['nbd+unix://?socket=/run/a%20b', 'nbd+unix:///?socket=/run/a%20b']) {
    deepEqual(parseNbdAddress(text), { kind: 'unix', path: '/run/a b', tls: false })
  }
  for (const text of ['', 'http://x', 'nbd+unix:///', 'nbd://:1:2']) {
    equal(parseNbdAddress(text), null, text)
  }
})

test('URIs of volumes read back', () => {
  const tcp = { kind: 'tcp', host: '::1', port: 1, tls: false } as const
  equal(volumeUri(tcp, 'a b'), 'nbd://[::1]:1/a%20b')
  const unix = { kind: 'unix', path: '/run/x y', tls: true } as const
  equal(volumeUri(unix, 'demo'), 'nbds+unix:///demo?socket=%2Frun%2Fx%20y')
  deepEqual(parseNbdAddress(volumeUri(unix, 'demo')), unix)
})

test('a socket of this machine is preferred, one of another is not tried', async () => {
  const peer = await new FakeBackend().peer()
  const withAddresses = (...nbdAddresses: string[]): Peer => ({ ...peer, nbdAddresses })
  const here = withAddresses('nbd://127.0.0.1:1', `nbd+unix://?socket=${tmpdir()}`)
  equal(chooseNbdAddress(here).kind, 'unix')
  const elsewhere = withAddresses('nbd+unix://?socket=/nowhere.sock', 'nbd://127.0.0.1:1')
  equal(chooseNbdAddress(elsewhere).kind, 'tcp')
  throws(() => chooseNbdAddress(withAddresses()), /serves no NBD/)
})

test('nbd-client is called with what was asked for', () => {
  const tcp = { kind: 'tcp', host: '127.0.0.1', port: 10809, tls: false } as const
  deepEqual(attachArguments(tcp, 'demo', '/dev/nbd0', {}), [
    ...['127.0.0.1', '10809', '/dev/nbd0', '-name', 'demo']
  ])
  const unix = { kind: 'unix', path: '/run/n.sock', tls: false } as const
  deepEqual(attachArguments(unix, 'demo', '/dev/nbd0', { connections: 4 }), [
    ...['-unix', '/run/n.sock', '/dev/nbd0', '-name', 'demo', '-connections', '4']
  ])
  throws(() => attachArguments({ ...tcp, tls: true }, 'demo', '/dev/nbd0', {}), /--tls-ca/)
  const tls = attachArguments({ ...tcp, tls: true }, 'demo', '/dev/nbd0', { tlsCa: 'ca.pem' })
  ok(tls.includes('-enable-tls') && tls.includes('ca.pem'))
})

test('what was started is found again, and a broken note is skipped', () => {
  const parent = mkdtempSync(join(tmpdir(), 'torus-run-'))
  const path = join(parent, 'run')
  const directory = new RunDirectory(path)
  deepEqual(directory.list(), [])
  const record = { volume: 'demo', target: '/dev/nbd0', pid: 0, madeDirectory: false }
  directory.save({ kind: 'attach', ...record })
  writeFileSync(join(path, 'broken.json'), '{"target')
  deepEqual(directory.list(), [{ kind: 'attach', ...record }])
  directory.remove({ kind: 'attach', ...record })
  deepEqual(directory.list(), [])
  rmSync(parent, { recursive: true })
})

test('attach says exactly what this machine lacks', async () => {
  const fixture = await startFixture()
  const torus = cliFor(fixture.url)
  const empty = mkdtempSync(join(tmpdir(), 'torus-path-'))
  const result = await torus(['attach', 'demo'])
  equal(result.code, 1)
  if (hasKernelFeature('nbd')) match(result.stderr, /root|no volume "demo"|nbd-client/)
  else match(result.stderr, /nbd-client, which is not installed|no nbd driver loaded/)
  const detached = await torus(['detach', 'demo'])
  equal(detached.code, 1)
  rmSync(empty, { recursive: true })
  await fixture.stop()
})

test.run()
