/** NBD_OPT_STARTTLS with certificates from files; openssl makes them. */
import { ok, rejects, strictEqual } from 'node:assert'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import type { TlsMode } from '../../src/nbd/handshake.ts'
import * as p from '../../src/nbd/protocol.ts'
import type { NbdTlsFiles } from '../../src/nbd/tls-context.ts'
import type { NbdUse } from '../../src/nbd/use.ts'
import { addCertificate, type Certificates, makeCertificates } from '../helpers/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { MIB, pattern, type Serving, serving, until } from '../helpers/nbd-serving.ts'
import { infoData, metaData, type NbdWireClient, optionBytes } from '../helpers/nbd-wire-client.ts'

let scratch: Scratch
let certificates: Certificates
let ca: Buffer

async function withTls(
  mode: TlsMode,
  body: (serving: Serving) => Promise<void>,
  more: Partial<NbdTlsFiles> = {},
  onUse: (use: NbdUse) => void = () => {}
): Promise<void> {
  scratch = await Scratch.create()
  try {
    certificates = await makeCertificates(scratch)
    ca = await readFile(certificates.ca)
    const { serverCert: certFile, serverKey: keyFile } = certificates
    const tls = { mode, certFile, keyFile, ...more }
    if (tls.clientCaFile === '') tls.clientCaFile = certificates.ca
    await serving(body, { options: { tls, onUse }, arenaPages: 1024, limits: { stallMs: 300 } })
  } finally {
    await scratch.remove()
  }
}

async function secure(client: NbdWireClient, more: object = {}): Promise<void> {
  await client.mustAck(p.NBD_OPT_STARTTLS)
  await client.startTls({ ca, servername: 'localhost', ...more })
}

const needs = { programs: ['openssl'] }
const finalType = async (client: NbdWireClient, option: number, data?: Buffer): Promise<number> =>
  (await client.option(option, data)).at(-1)!.type

testNeeding(needs, 'data goes through TLS, large and small, both ways', () =>
  withTls('allow', async ({ connect, server, demo }) => {
    const client = await connect()
    await client.greet()
    await secure(client)
    await client.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    client.structured = true
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
    strictEqual(server.listClients()[0]!.tls, true)
    for (const length of [1, 4096, 40_000, MIB, 9 * MIB + 5]) {
      const payload = pattern(length, length)
      await client.writeRange(4095, payload)
      ok(demo.bytes.subarray(4095, 4095 + length).equals(payload))
      ok((await client.readRange(4095, length)).equals(payload))
    }
    const commands = Array.from({ length: 200 }, (_, index) =>
      client.commandBytes({ type: p.NBD_CMD_READ, offset: index * 4096, length: 4096 })
    )
    client.write(Buffer.concat(commands))
    for (let index = 0; index < 200; index++) await client.reply()
    client.command({ type: p.NBD_CMD_DISC })
    await client.readToEnd()
    strictEqual(server.snapshot().connectionsTls, 1)
  })
)

testNeeding(needs, 'where TLS is required nothing else is answered before it', () =>
  withTls('require', async ({ connect }) => {
    const client = await connect()
    await client.greet()
    for (const [option, data] of [
      [p.NBD_OPT_LIST],
      [p.NBD_OPT_INFO, infoData('demo')],
      [p.NBD_OPT_GO, infoData('demo')],
      [p.NBD_OPT_STRUCTURED_REPLY],
      [77, Buffer.alloc(100_000)]
    ] as const) {
      strictEqual(await finalType(client, option, data), p.NBD_REP_ERR_TLS_REQD)
    }
    await secure(client)
    strictEqual(await finalType(client, p.NBD_OPT_STARTTLS), p.NBD_REP_ERR_INVALID)
    strictEqual(await finalType(client, 77), p.NBD_REP_ERR_UNSUP)
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
    strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    const plain = await connect()
    await plain.greet()
    plain.write(optionBytes(p.NBD_OPT_EXPORT_NAME, Buffer.from('demo')))
    strictEqual((await plain.readToEnd()).length, 0)
    const aborting = await connect()
    await aborting.greet()
    strictEqual(await finalType(aborting, p.NBD_OPT_ABORT), p.NBD_REP_ACK)
  })
)

testNeeding(needs, 'what was negotiated before TLS is forgotten', () =>
  withTls('allow', async ({ connect }) => {
    const client = await connect()
    await client.greet()
    await client.mustAck(p.NBD_OPT_EXTENDED_HEADERS)
    await client.mustAck(p.NBD_OPT_SET_META_CONTEXT, metaData('demo', ['base:allocation']))
    await secure(client)
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
    strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    const status = { type: p.NBD_CMD_BLOCK_STATUS, length: 4096 }
    strictEqual(await client.errorOf(status), p.NBD_EINVAL)
  })
)

testNeeding(needs, 'plain bytes behind NBD_OPT_STARTTLS end the session', () =>
  withTls('allow', async ({ connect }) => {
    const client = await connect()
    await client.greet()
    client.write(
      Buffer.concat([optionBytes(p.NBD_OPT_STARTTLS), optionBytes(p.NBD_OPT_GO, infoData('demo'))])
    )
    const bytes = await client.readToEnd()
    ok(bytes.length <= 20, 'at most the acknowledgement')
  })
)

testNeeding(needs, 'garbage instead of a TLS handshake ends the session, others go on', () =>
  withTls('allow', async ({ connect, logged }) => {
    const client = await connect()
    await client.greet()
    await client.mustAck(p.NBD_OPT_STARTTLS)
    client.write(Buffer.alloc(1000, 0x41))
    await client.readToEnd()
    await until(() => logged.some((line) => /TLS/.test(line)))
    const other = await connect()
    await other.greet()
    await secure(other)
    await other.mustAck(p.NBD_OPT_GO, infoData('demo'))
  })
)

testNeeding(needs, 'a client without a certificate is refused where one is asked for', () =>
  withTls(
    'require',
    async ({ connect, logged }) => {
      const bare = await connect()
      await bare.greet()
      await secure(bare).catch(() => {})
      await bare.readToEnd()
      await until(() => logged.some((line) => /TLS/.test(line)))
      const client = await connect()
      await client.greet()
      const cert = await readFile(scratch.path('client-cert.pem'))
      const key = await readFile(scratch.path('client-key.pem'))
      await secure(client, { cert, key })
      await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
    },
    { clientCaFile: '' }
  )
)

testNeeding(
  needs,
  'expired and foreign certificates of clients are refused, and told of',
  async () => {
    const used: NbdUse[] = []
    const foreign = await Scratch.create()
    try {
      const { directory } = await makeCertificates(foreign)
      await withTls(
        'require',
        async ({ connect }) => {
          const old = await addCertificate(certificates, { name: 'old', expired: true })
          const other = {
            cert: join(directory, 'client-cert.pem'),
            key: join(directory, 'client-key.pem')
          }
          const own = { cert: scratch.path('client-cert.pem'), key: scratch.path('client-key.pem') }
          for (const { cert, key } of [old, other]) {
            const client = await connect()
            await client.greet()
            const pair = { cert: await readFile(cert), key: await readFile(key) }
            await secure(client, pair).catch(() => {})
            await client.readToEnd()
          }
          const client = await connect()
          await client.greet()
          await secure(client, { cert: await readFile(own.cert), key: await readFile(own.key) })
          await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
          const [first, ...more] = used
          // The second came from the same address, at once.
          strictEqual(more.map(({ kind }) => kind).join(), 'open')
          ok(first?.kind === 'refuse' && first.door === 'tls' && first.outcome === 'Forbidden')
          strictEqual(first.untold, 0)
        },
        { clientCaFile: '' },
        (use) => used.push(use)
      )
    } finally {
      await foreign.remove()
    }
  }
)

testNeeding(needs, 'certificates are read again on request, and bad ones change nothing', () =>
  withTls('allow', async ({ connect, server }) => {
    const subjectOf = async (): Promise<string> => {
      const client = await connect()
      await client.greet()
      await client.mustAck(p.NBD_OPT_STARTTLS)
      return client.startTls({ rejectUnauthorized: false })
    }
    strictEqual(await subjectOf(), 'server')
    await writeFile(certificates.serverCert, 'nonsense')
    await rejects(server.reloadTls(), /certificate/)
    strictEqual(await subjectOf(), 'server')
    await copyFile(scratch.path('client-cert.pem'), certificates.serverCert)
    await copyFile(scratch.path('client-key.pem'), certificates.serverKey)
    await server.reloadTls()
    strictEqual(await subjectOf(), 'client')
  })
)

testNeeding(needs, 'TLS clients that stop reading do not hold up others, and are cut off', () =>
  withTls('allow', async ({ connect, demo, server }) => {
    pattern(32 * MIB).copy(demo.bytes)
    for (let index = 0; index < 6; index++) {
      const stuck = await connect()
      await stuck.greet()
      await secure(stuck)
      await stuck.mustAck(p.NBD_OPT_GO, infoData('demo'))
      stuck.pause()
      stuck.command({ type: p.NBD_CMD_READ, length: 32 * MIB })
    }
    const client = await connect()
    await client.attach('demo')
    for (let round = 0; round === 0 || server.snapshot().stalledDisconnects === 0; round++) {
      const read = await client.readRange(round * 4096, 20 * MIB)
      ok(read.equals(demo.bytes.subarray(round * 4096, round * 4096 + 20 * MIB)))
    }
  })
)

test.run()
