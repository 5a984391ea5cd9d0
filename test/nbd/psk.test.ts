/** TLS with keys that clients share with the server: who knows one is who it says. */
import {
  deepStrictEqual,
  match,
  notStrictEqual,
  ok,
  rejects,
  strictEqual,
  throws
} from 'node:assert'
import { chmod, writeFile } from 'node:fs/promises'
import { test } from 'uvu'
import * as p from '../../src/nbd/protocol.ts'
import { parsePskFile } from '../../src/nbd/psk-file.ts'
import { Refusals } from '../../src/nbd/refusals.ts'
import type { NbdUse } from '../../src/nbd/use.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { nbdCopy, nbdInfo } from '../helpers/nbd-clients.ts'
import { listedNames, rules, withRules } from '../helpers/nbd-rules.ts'
import { type Serving, serving, until } from '../helpers/nbd-serving.ts'
import { infoData, type NbdWireClient } from '../helpers/nbd-wire-client.ts'
import { run, runOk } from '../helpers/process.ts'

const KEY = '88b0a3ba6f5f8d2e1b0a4d5e6f7081920a1b2c3d4e5f60718293a4b5c6d7e8f9'
const OTHER_KEY = KEY.replace('88', '89')

interface PskServing extends Serving {
  readonly used: readonly NbdUse[]
  /** Replaces the server's file. */
  write(text: string): Promise<void>
  /** A file that a client has. */
  file(name: string, text: string): Promise<string>
}

async function withKeys(text: string, body: (serving: PskServing) => Promise<void>): Promise<void> {
  const scratch = await Scratch.create()
  const file = async (name: string, content: string): Promise<string> => {
    await writeFile(scratch.path(name), content, { mode: 0o600 })
    return scratch.path(name)
  }
  const used: NbdUse[] = []
  try {
    const pskFile = await file('keys.psk', text)
    const tls = { mode: 'require' as const, pskFile }
    const write = (content: string): Promise<void> => writeFile(pskFile, content)
    const options = { tls, onUse: (use: NbdUse) => used.push(use) }
    await serving((all) => body({ ...all, used, write, file }), { options })
  } finally {
    await scratch.remove()
  }
}

/** Over TLS of that version, as Node's own client. */
async function secure(
  client: NbdWireClient,
  identity: string,
  key: string,
  maxVersion: 'TLSv1.2' | 'TLSv1.3' = 'TLSv1.3'
): Promise<void> {
  await client.greet()
  await client.mustAck(p.NBD_OPT_STARTTLS)
  await client.startTls({
    maxVersion,
    ciphers: 'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305',
    pskCallback: () => ({ identity, psk: Buffer.from(key, 'hex') }),
    checkServerIdentity: () => undefined
  })
}

const refusedAs = (client: NbdWireClient, identity: string, key: string): Promise<void> =>
  rejects(secure(client, identity, key, 'TLSv1.2'))

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  test(`the identity of a key opens what its rule of access names, over ${version}`, () =>
    withKeys(`alice:${KEY}\nBob:${OTHER_KEY}\n`, async (all) => {
      withRules(all, rules({ tlsNames: ['bob'] }))
      const alice = await all.connect()
      await secure(alice, 'alice', KEY, version)
      ok(!(await listedNames(alice)).includes('demo'))
      const replies = await alice.option(p.NBD_OPT_GO, infoData('demo'))
      strictEqual(replies.at(-1)?.type, p.NBD_REP_ERR_UNKNOWN)
      const bob = await all.connect()
      await secure(bob, 'Bob', OTHER_KEY, version)
      await bob.mustAck(p.NBD_OPT_GO, infoData('demo'))
      const [refused, opened] = all.used
      ok(refused?.kind === 'refuse' && refused.outcome === 'Forbidden')
      deepStrictEqual([refused.tlsName, refused.volume], ['alice', 'demo'])
      deepStrictEqual([opened?.kind, opened?.tlsName], ['open', 'bob'])
    }))
}

test('a wrong key and an unknown identity fail alike, and both are told of', () =>
  withKeys(`alice:${KEY}\n`, async (all) => {
    await refusedAs(await all.connect(), 'alice', OTHER_KEY)
    await until(() => all.logged.length === 1)
    const [wrongKey] = all.logged
    await refusedAs(await all.connect(), 'eve', OTHER_KEY)
    await until(() => all.logged.length === 2)
    strictEqual(all.logged[1], wrongKey)
    match(wrongKey ?? '', /TLS/)
    const client = await all.connect()
    await secure(client, 'alice', KEY)
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
    deepStrictEqual(
      all.used.map(({ kind }) => kind),
      ['refuse', 'open']
    )
  }))

test('keys are read again, for those to come; a file that cannot be used changes nothing', () =>
  withKeys(`alice:${KEY}\n`, async (all) => {
    const { server } = all
    const before = await all.connect()
    await secure(before, 'alice', KEY)
    await before.mustAck(p.NBD_OPT_GO, infoData('demo'))
    await all.write('alice:nonsense\n')
    await rejects(server.reloadTls(), (error: Error) => {
      match(error.message, /line 1 has a key that is not hexadecimal/)
      ok(!error.message.includes('nonsense'))
      return true
    })
    await secure(await all.connect(), 'alice', KEY)
    await all.write(`alice:${OTHER_KEY}\n`)
    await server.reloadTls()
    await refusedAs(await all.connect(), 'alice', KEY)
    await secure(await all.connect(), 'alice', OTHER_KEY)
    strictEqual(await before.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  }))

test('a file of keys that others can read is refused', () =>
  withKeys(`alice:${KEY}\n`, async ({ file, server }) => {
    const { pskFile } = server.tls.files
    await file('unused', '')
    await chmod(pskFile ?? '', 0o640)
    await rejects(server.reloadTls(), /others can read it: chmod 600/)
  }))

test('lines that are no keys are refused by number', () => {
  deepStrictEqual(
    [...parsePskFile(`# made by psktool\n\na:b:${KEY}\r\n`)],
    [['a:b', Buffer.from(KEY, 'hex')]]
  )
  for (const [text, why] of [
    [`alice${KEY}`, /line 1 is not IDENTITY:KEY/],
    [`\n:${KEY}`, /line 2 is not IDENTITY:KEY/],
    [`${'a'.repeat(129)}:${KEY}`, /line 1 is not IDENTITY:KEY/],
    ['alice:', /line 1 has a key that is not hexadecimal/],
    [`alice:${KEY}0`, /line 1 has a key that is not hexadecimal/],
    ['alice:00112233', /line 1 has a key of other than 16 to 64 bytes/],
    [`alice:${KEY.repeat(3)}`, /line 1 has a key of other than 16 to 64 bytes/],
    [`alice:${KEY}\nALICE:${OTHER_KEY}`, /line 2 has an identity that was there already/],
    ['# none\n', /no line IDENTITY:KEY/]
  ] as const) {
    throws(() => parsePskFile(text), why)
  }
})

const needs = { programs: ['nbdinfo', 'nbdcopy', 'qemu-img'] }

testNeeding(needs, 'libnbd and qemu read and write with a shared key', () =>
  withKeys(`alice:${KEY}\n`, async ({ port, file }) => {
    const image = await file('in', '')
    const own = await file('own.psk', `alice:${KEY}\n`)
    const uri = `nbds://alice@127.0.0.1:${port}/demo?tls-psk-file=${own}`
    ok((await nbdInfo(uri)).TLS)
    makeImage(image, 64 * MiB, [[MiB, 5 * MiB]])
    await nbdCopy(image, uri)
    const bad = await file('bad.psk', `alice:${OTHER_KEY}\n`)
    notStrictEqual((await run('nbdinfo', [uri.replace(own, bad)])).code, 0)
    notStrictEqual((await run('nbdinfo', [`nbd://127.0.0.1:${port}/demo`])).code, 0)
    const directory = own.slice(0, own.lastIndexOf('/'))
    await file('keys.psk', `alice:${KEY}\n`)
    const tls = `tls-creds-psk,id=t,endpoint=client,dir=${directory},username=alice`
    const from = `driver=nbd,host=127.0.0.1,port=${port},export=demo,tls-creds=t`
    const to = `${image}.out`
    await runOk('qemu-img', ['convert', '--object', tls, '--image-opts', from, '-O', 'raw', to])
    strictEqual(await sha256Of(to), await sha256Of(image))
  })
)

test('refusals are told once a kind and while, few in all, all counted', async () => {
  const clock = new ManualClock()
  const refusals = new Refusals(clock)
  strictEqual(refusals.take('a'), 0)
  for (let index = 0; index < 5; index++) strictEqual(refusals.take('a'), null)
  strictEqual(refusals.take('b'), 5)
  await clock.advance(10_000)
  strictEqual(refusals.take('a'), 0)
  let told = 0
  for (let index = 0; index < 1000; index++) if (refusals.take(`${index}`) !== null) told++
  strictEqual(told, 59)
  await clock.advance(1000)
  strictEqual(refusals.take('c'), 1000 - 59)
})

test.run()
