/** Encrypted volumes as a user has them, with real processes and clients. */
import { deepStrictEqual, match, ok, strictEqual } from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { nbdCopy } from '../helpers/nbd-clients.ts'
import { until } from '../helpers/process.ts'
import { qemuIo, qemuIoAny } from '../helpers/qemu.ts'
import { countInMemory } from '../helpers/process-memory.ts'
import {
  type KeyGeneration,
  type KeySlot,
  openGeneration,
  openSlot
} from '../../src/seal/key-slots.ts'
import { TorusServer } from '../helpers/server.ts'

const PASSPHRASE = 'a passphrase that nobody types twice'
const MARK = 'plain text of a client, easy to find'

let scratch: Scratch
let server: TorusServer

test.before(async () => {
  scratch = await Scratch.create()
  writeFileSync(scratch.path('pass'), `${PASSPHRASE}\n`)
  writeFileSync(scratch.path('wrong'), 'some other passphrase')
  writeFileSync(scratch.path('key'), randomBytes(32))
  server = await TorusServer.start({ args: ['--shards', '2', '--segment-size', '4MiB'] })
})

test.after(async () => {
  await server?.dispose()
  await scratch?.remove()
})

/** Every file below a directory, whole. */
function* filesOf(directory: string): Generator<readonly [string, Buffer]> {
  for (const name of readdirSync(directory)) {
    const path = join(directory, name)
    const stat = statSync(path)
    if (stat.isDirectory()) yield* filesOf(path)
    else if (stat.isFile()) yield [path, readFileSync(path)]
  }
}

const pass = (): string[] => ['--passphrase-file', scratch.path('pass')]

testNeeding(
  { programs: ['nbdcopy', 'qemu-io'] },
  'an encrypted volume is served while it is unlocked',
  async () => {
    const made = await server.torus(['volume', 'create', 'secret', '32MiB', '--encrypt', ...pass()])
    strictEqual(made.code, 0, made.stderr)
    match(made.stdout, /encrypted/)
    makeImage(scratch.path('in'), 32 * MiB, [[4096 + 512, 20 * MiB]])
    await nbdCopy(scratch.path('in'), server.uri('secret'))
    await qemuIo(server.uri('secret'), 'write -P 77 30M 1000', 'discard 8M 1M', 'flush')
    await nbdCopy(server.uri('secret'), scratch.path('before'))

    await server.kill()
    await server.start()
    match(await qemuIoAny(server.uri('secret'), 'read 0 4k'), /torus volume unlock secret/)
    const refused = await server.torus([
      ...['volume', 'unlock', 'secret', '--passphrase-file', scratch.path('wrong')]
    ])
    strictEqual(refused.code, 1)
    match(refused.stderr, /no key slot of volume secret opens/)
    match((await server.torus(['volume', 'unlock', 'secret', ...pass()])).stderr, /attempts?/)
    await until(
      async () => (await server.torus(['volume', 'unlock', 'secret', ...pass()])).code === 0,
      'the volume is unlocked',
      20_000
    )
    await nbdCopy(server.uri('secret'), scratch.path('after'))
    strictEqual(await sha256Of(scratch.path('after')), await sha256Of(scratch.path('before')))
  }
)

testNeeding(
  { programs: ['qemu-io'] },
  'keys come and go, and no data is rewritten for it',
  async () => {
    const key = ['--key-file', scratch.path('key')]
    const newKey = ['--new-key-file', scratch.path('key')]
    await server.json('volume', 'key', 'add', 'secret', ...pass(), ...newKey)
    await server.json('volume', 'key', 'revoke', 'secret', '1', '--yes')
    await server.json('volume', 'lock', 'secret', '--yes')
    strictEqual((await server.torus(['volume', 'unlock', 'secret', ...pass()])).code, 1)
    await until(
      async () => (await server.torus(['volume', 'unlock', 'secret', ...key])).code === 0,
      'the volume is unlocked',
      20_000
    )
    await qemuIo(server.uri('secret'), 'read -P 77 30M 1000')
    interface Keys {
      slots: { id: number; kind: string }[]
      rekey: unknown
    }
    const before = await server.json<Keys>('volume', 'key', 'list', 'secret')
    strictEqual(before.slots.map(({ id, kind }) => `${id} ${kind}`).join(), '2 key-file')

    await server.json('volume', 'rekey', 'secret')
    await until(
      async () => (await server.json<Keys>('volume', 'key', 'list', 'secret')).rekey === null,
      'the rekey is done',
      30_000
    )
    await qemuIo(server.uri('secret'), 'read -P 77 30M 1000')
    await server.stop()
    await server.start(['--unlock-with', `*=key-file:${scratch.path('key')}`])
    await qemuIo(server.uri('secret'), 'read -P 77 30M 1000')
  }
)

interface ExportedKeys {
  readonly family: string
  readonly slots: readonly KeySlot[]
  readonly generations: readonly KeyGeneration[]
}

/** No slot here has a passphrase. */
const noHash = { argon2id: () => Promise.reject(new Error('no passphrase is looked for')) }

/** Data key and master key of a volume, which the only slot opens with a key file. */
async function keysOf(volume: string, keyFile: Buffer): Promise<Buffer[]> {
  const exported = scratch.path('keys.json')
  const args = ['volume', 'key', 'export', volume, exported, '--yes']
  strictEqual((await server.torus(args)).code, 0)
  const { family, slots, generations }: ExportedKeys = JSON.parse(readFileSync(exported, 'utf8'))
  const master = await openSlot(family, slots[0]!, keyFile, noHash)
  ok(master !== null)
  return [openGeneration(family, generations.at(-1)!, master), master]
}

testNeeding(
  { programs: ['qemu-io'], kernel: ['root'] },
  'a key is in memory while its volume is unlocked, and nowhere once it is locked',
  async () => {
    const key = readFileSync(scratch.path('key'))
    const needles = [...(await keysOf('secret', key)), key]
    await qemuIo(server.uri('secret'), 'write -P 78 4M 1M', 'read -P 78 4M 1M', 'flush')
    const [data, master] = countInMemory(server.pid, needles)
    // The main thread has both, and each of two workers the data key.
    ok(data!.found >= 3 && master!.found >= 1, JSON.stringify([data, master]))
    strictEqual(data!.dumped + master!.dumped, 0)
    await server.json('volume', 'lock', 'secret', '--yes')
    const after = countInMemory(server.pid, needles)
    deepStrictEqual(
      after.map(({ found }) => found),
      [0, 0, 0]
    )
    await server.json('volume', 'unlock', 'secret', '--key-file', scratch.path('key'))
  }
)

testNeeding(
  { programs: ['qemu-io'] },
  'nothing on disk, in logs or answers tells a secret',
  async () => {
    writeFileSync(scratch.path('mark'), MARK)
    await qemuIo(server.uri('secret'), `write -s ${scratch.path('mark')} 2M 64k`, 'flush')
    const answers = await Promise.all(
      [
        ['volume', 'show', 'secret'],
        ['volume', 'key', 'list', 'secret'],
        ['volume', 'key', 'export', 'secret', '-'],
        ['config', 'show'],
        ['status']
      ].map((args) => server.torus([...args, '--json']))
    )
    const metrics = await (await fetch(`${server.adminUrl}/metrics`)).text()
    const said = answers.map(({ stdout, stderr }) => stdout + stderr).join('\n') + metrics
    const key = readFileSync(scratch.path('key'))
    const keys = [key, ...(await keysOf('secret', key))]
    await server.stop()
    const texts = keys.flatMap((each) => [each, each.toString('hex'), each.toString('base64')])
    const needles = [PASSPHRASE, MARK, ...texts]
    let bytes = 0
    for (const [path, content] of filesOf(server.dataDir)) {
      bytes += content.length
      for (const needle of needles) ok(!content.includes(needle), `${path} holds a secret`)
    }
    ok(bytes > 20 * MiB)
    for (const needle of needles) ok(!Buffer.from(said + server.logs).includes(needle))
  }
)

test.run()
