/** A backup as a new volume, by commands to a peer in this process. */
import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import { existsSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { cliFor } from '../helpers/cli.ts'
import { withPeer } from '../helpers/own-peer.ts'

const SIZE = 1024 * 1024

test('what is restored or imported has its rules of access from the first moment on', () =>
  withPeer(async (open, directory) => {
    const { volumes, adminAddresses, backend } = await open()
    const torus = cliFor(adminAddresses.find((address) => address.startsWith('http'))!)
    const accessOf = async (name: string) => {
      const { addresses, tlsNames, readOnly } = (await volumes.show(name)).access
      return [addresses, tlsNames, readOnly]
    }
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    const file = await volumes.openFile('v')
    await file.writeAt(0, Buffer.alloc(4096, 1))
    await file.close()
    const to = ['--to', join(directory, 'backups')] as const
    match((await torus(['backup', 'create', 'none', ...to])).stderr, /no volume "none"/)
    ok(!existsSync(to[1]), 'a name with a mistake in it makes no store')
    const made = await torus(['backup', 'create', 'v', ...to])
    strictEqual(made.code, 0, made.stderr)

    const rules = ['--allow', '10.0.0.0/8,unix', '--allow-tls-name', 'alice']
    const restore = ['backup', 'restore', 'v', ...to]
    const as = [...restore, '--as', 'w', ...rules, '--nbd-read-only', 'on']
    const restored = await torus(as)
    strictEqual(restored.code, 0, restored.stderr)
    deepStrictEqual(await accessOf('w'), [['10.0.0.0/8', 'unix'], ['alice'], true])
    const image = await torus([...restore, '--to-file', join(directory, 'v.img'), ...rules])
    strictEqual(image.code, 2, image.stdout)

    // One that goes on makes the volume as it was begun: not what is asked for now.
    const begun = { name: 'x', sizeBytes: SIZE, type: 'block', description: '', pool: 'default' }
    await backend.imports.begin(begun)
    const other = await torus([...restore, '--as', 'x', ...rules])
    strictEqual(other.code, 1)
    match(other.stderr, /the import of x that goes on makes a volume with other rules of access/)
    const path = join(directory, 'v.img')
    await torus([...restore, '--to-file', path])
    const sealed = await torus(['volume', 'import', path, 'x', '--encrypt', '--pool', 'fast'])
    match(sealed.stderr, /makes a volume in pool default, not encrypted: give the same options/)
    const anew = await torus([...restore, '--as', 'x', ...rules, '--restart'])
    strictEqual(anew.code, 0, anew.stderr)
    deepStrictEqual(await accessOf('x'), [['10.0.0.0/8', 'unix'], ['alice'], false])
  }))

test('a verify that found nothing to verify is no success', () =>
  withPeer(async (open, directory) => {
    const { volumes, adminAddresses } = await open()
    const torus = cliFor(adminAddresses.find((address) => address.startsWith('http'))!)
    const to = ['--to', join(directory, 'backups')]
    const none = await torus(['backup', 'verify', ...to])
    strictEqual(none.code, 1)
    match(none.stderr, /there are no backups in/)
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    strictEqual((await torus(['backup', 'create', 'v', ...to])).code, 0)
    match((await torus(['backup', 'verify', ...to])).stdout, /^1 backup, .* all is there/)
    const other = await torus(['backup', 'verify', 'w', ...to])
    strictEqual(other.code, 1)
    match(other.stderr, /there is no backup of volume w in .*: nothing was verified/)
  }))

test('what is exported of an encrypted volume is for its owner alone', () =>
  withPeer(async (open, directory) => {
    const { volumes, adminAddresses } = await open()
    const torus = cliFor(adminAddresses.find((address) => address.startsWith('http'))!)
    const secret = { kind: 'key-file', secret: Buffer.alloc(32, 3), label: '' } as const
    await volumes.create({ name: 'sealed', sizeBytes: 4096, encrypt: secret })
    await volumes.create({ name: 'plain', sizeBytes: 4096 })
    const modeOf = async (...args: string[]): Promise<string> => {
      const path = join(directory, 'out')
      const { code, stderr } = await torus([...args, path])
      strictEqual(code, 0, stderr)
      const mode = (statSync(path).mode & 0o777).toString(8)
      rmSync(path)
      return mode
    }
    strictEqual(await modeOf('volume', 'export', 'sealed'), '600')
    strictEqual(await modeOf('volume', 'export', 'sealed', '--format', 'torus'), '600')
    strictEqual(await modeOf('volume', 'key', 'export', 'sealed'), '600')
    const usual = (0o666 & ~process.umask()).toString(8)
    strictEqual(await modeOf('volume', 'export', 'plain'), usual)
  }))

test.run()
