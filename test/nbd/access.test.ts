/** Which exports a client is shown and may open. */
import { deepStrictEqual, ok, strictEqual, throws } from 'node:assert'
import { readFile } from 'node:fs/promises'
import { test } from 'uvu'
import { type ExportClient, mayOpen } from '../../src/nbd/access.ts'
import { Exports } from '../../src/nbd/exports.ts'
import * as p from '../../src/nbd/protocol.ts'
import { NbdServer } from '../../src/nbd/server.ts'
import { Volumes } from '../../src/volume/volumes.ts'
import type { DeviceSource } from '../../src/volume/block-device.ts'
import { checkAccess, type ExportAccess, OPEN_ACCESS } from '../../src/volume/export-access.ts'
import { addCertificate, makeCertificates } from '../helpers/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { listedNames, rules, withRules } from '../helpers/nbd-rules.ts'
import { MIB, serving, until } from '../helpers/nbd-serving.ts'
import { infoData, metaData, NbdWireClient } from '../helpers/nbd-wire-client.ts'
import { openBench } from '../helpers/volume-bench.ts'

const from = (address: string | null, names: string[] = []): ExportClient => ({ address, names })

test('addresses are compared as networks, of both families, and unix is a word of its own', () => {
  const { addresses, ...others } = rules({
    addresses: ['10.1.0.0/16', '192.168.7.9', 'fd00::/8', '::1']
  })
  const access = { addresses, ...others }
  for (const address of ['10.1.255.1', '::ffff:10.1.2.3', '192.168.7.9', 'fd12::3', '::1']) {
    ok(mayOpen(access, from(address)), address)
  }
  for (const address of ['10.2.0.1', '192.168.7.8', '::ffff:10.2.0.1', 'fe80::1%eth0', 'x', null]) {
    ok(!mayOpen(access, from(address)), String(address))
  }
  ok(mayOpen(rules({ addresses: ['unix'] }), from(null)))
  ok(!mayOpen(rules({ addresses: ['unix'] }), from('127.0.0.1')))
  ok(mayOpen(OPEN_ACCESS, from('x')))
  ok(mayOpen(rules({ addresses: ['0.0.0.0/0'] }), from('8.8.8.8')))
})

test('a name is needed beside the address', () => {
  const access = rules({ addresses: ['10.0.0.0/8'], tlsNames: ['Backup'] })
  ok(mayOpen(access, from('10.0.0.1', ['other', 'backup'])))
  ok(!mayOpen(access, from('10.0.0.1', ['other'])))
  ok(!mayOpen(access, from('10.0.0.1')))
  ok(!mayOpen(access, from('11.0.0.1', ['backup'])))
})

test('what is no rule is refused by name', () => {
  for (const bad of ['10.0.0.0/33', '10.0.0', 'host.example', '::/129', '10.0.0.0/8/8', '', '/8']) {
    throws(() => checkAccess(rules({ addresses: [bad] })), /is no address, no network/, bad)
  }
  throws(() => checkAccess(rules({ tlsNames: [''] })), /1 to 253 characters/)
  throws(() => checkAccess(rules({ tlsNames: Array<string>(257).fill('a') })), /more than 256/)
})

const lastOf = async (client: NbdWireClient, option: number, data: Buffer) => {
  const { type, data: text } = (await client.option(option, data)).at(-1)!
  return { type, text: text.toString() }
}

test('what a client may not open is neither listed nor told from what is not there', () =>
  serving(async (all) => {
    const holder = withRules(all, rules({ addresses: ['10.0.0.0/8'] }))
    const client = await all.connect()
    await client.greet()
    ok(!(await listedNames(client)).includes('demo'))
    await client.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    for (const option of [p.NBD_OPT_INFO, p.NBD_OPT_GO]) {
      const there = await lastOf(client, option, infoData('demo'))
      const absent = await lastOf(client, option, infoData('none'))
      deepStrictEqual({ ...there, text: there.text.replace('demo', 'none') }, absent)
      strictEqual(there.type, p.NBD_REP_ERR_UNKNOWN)
    }
    const contexts = metaData('demo', ['base:allocation'])
    const { type } = await lastOf(client, p.NBD_OPT_SET_META_CONTEXT, contexts)
    strictEqual(type, p.NBD_REP_ERR_UNKNOWN)
    holder.access = OPEN_ACCESS
    ok((await listedNames(client)).includes('demo'))
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
  }))

test('rules that become tighter end what is open, and others go on', () =>
  serving(async (all) => {
    const holder = withRules(all, rules({ addresses: ['127.0.0.1'] }))
    const client = await all.connect()
    await client.attach('demo')
    await all.server.enforceAccess()
    strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    holder.access = rules({ readOnly: true })
    await all.server.enforceAccess()
    await client.readToEnd()
    const reader = await all.connect()
    await reader.attach('demo')
    const write = { type: p.NBD_CMD_WRITE, length: 4096, payload: Buffer.alloc(4096) }
    strictEqual(await reader.errorOf(write), p.NBD_EPERM)
    await all.server.enforceAccess()
    strictEqual(await reader.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    holder.access = rules({ addresses: ['unix'] })
    await all.server.enforceAccess()
    await reader.readToEnd()
    await until(() => all.server.listClients().length === 0)
  }))

test('a rule that another gateway changes ends what is open on this one', async () => {
  const gate = {
    isShared: true,
    acquire: async () => 1,
    retake: async () => 2,
    release: async () => {},
    noteEpoch: () => {},
    offer: () => {},
    noteChange: () => {}
  }
  let enforced: Promise<void> = Promise.resolve()
  const onChange = (): void => {
    enforced = server.enforceAccess()
  }
  const bench = await openBench({ volumes: { gate, onChange } })
  const server = new NbdServer({ source: bench.volumes })
  const { cluster, session, arena, store } = bench
  const other = new Volumes({ cluster, session, arena, store, gate })
  const at = await server.listen({ host: '127.0.0.1', port: 0 })
  const connect = () => NbdWireClient.connect({ port: 'port' in at ? at.port : 0 })
  await other.create({ name: 'demo', sizeBytes: MIB })
  const client = await connect()
  await client.attach('demo')
  await other.change('demo', { access: rules({ addresses: ['127.0.0.0/8'] }) })
  strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  await other.change('demo', { access: rules({ addresses: ['10.0.0.0/8'] }) })
  await client.readToEnd()
  const late = await connect()
  await late.greet()
  deepStrictEqual(await listedNames(late), [])
  late.destroy()
  await enforced
  await server.close(1000)
  await other.close()
  await bench.close()
})

testNeeding(
  { programs: ['openssl'] },
  'a name in a verified certificate opens, after TLS',
  async () => {
    const scratch = await Scratch.create()
    try {
      const made = await makeCertificates(scratch)
      await addCertificate(made, { name: 'backup' })
      await addCertificate(made, { name: 'guest' })
      const { serverCert: certFile, serverKey: keyFile, ca: clientCaFile } = made
      const tls = { mode: 'allow' as const, certFile, keyFile, clientCaFile }
      await serving(
        async (all) => {
          withRules(all, rules({ tlsNames: ['backup'] }))
          const connect = async (name: string): Promise<NbdWireClient> => {
            const client = await all.connect()
            await client.greet()
            ok(!(await listedNames(client)).includes('demo'))
            await client.mustAck(p.NBD_OPT_STARTTLS)
            const cert = await readFile(scratch.path(`${name}-cert.pem`))
            const key = await readFile(scratch.path(`${name}-key.pem`))
            await client.startTls({
              ca: await readFile(made.ca),
              servername: 'localhost',
              cert,
              key
            })
            return client
          }
          const guest = await connect('guest')
          ok(!(await listedNames(guest)).includes('demo'))
          const { type } = await lastOf(guest, p.NBD_OPT_GO, infoData('demo'))
          strictEqual(type, p.NBD_REP_ERR_UNKNOWN)
          const backup = await connect('backup')
          ok((await listedNames(backup)).includes('demo'))
          await backup.mustAck(p.NBD_OPT_GO, infoData('demo'))
        },
        { options: { tls } }
      )
    } finally {
      await scratch.remove()
    }
  }
)

test('who reads a snapshot is under the rule of its volume, by whatever name', async () => {
  const bench = await openBench()
  const { volumes } = bench
  const server = new NbdServer({ source: volumes })
  const at = await server.listen({ host: '127.0.0.1', port: 0 })
  await volumes.create({ name: 'demo', sizeBytes: MIB })
  await volumes.create({ name: 'other', sizeBytes: MIB })
  await volumes.snapshots.create('demo', 'monday')
  const connect = async (name: string): Promise<NbdWireClient> => {
    const client = await NbdWireClient.connect({ port: 'port' in at ? at.port : 0 })
    await client.attach(name)
    return client
  }
  const change = async (name: string, access: Partial<ExportAccess>): Promise<void> => {
    await volumes.change(name, { access })
    await server.enforceAccess()
  }
  const client = await connect('demo@monday')
  await change('other', { addresses: ['10.0.0.0/8'] })
  await change('demo', { readOnly: true })
  strictEqual(await client.errorOf({ type: p.NBD_CMD_READ, length: 4096 }), 0)
  await volumes.rename('demo', 'renamed')
  await volumes.create({ name: 'demo', sizeBytes: MIB })
  strictEqual(server.listClients()[0]?.volume, 'renamed@monday')
  strictEqual(server.disconnectVolume('demo'), 0)
  await change('demo', { addresses: ['10.0.0.0/8'] })
  strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  await change('renamed', { addresses: ['10.0.0.0/8'] })
  await client.readToEnd()
  await change('renamed', { addresses: [] })
  const late = await connect('renamed@monday')
  strictEqual(server.disconnectVolume('renamed'), 1)
  await late.readToEnd()
  await server.close(1000)
  await bench.close()
})

test('the newest snapshots are listed where their volume says so', async () => {
  const devices = (access: Partial<ExportAccess>) => ({
    ...{ name: 'v', sizeBytes: 4096, readOnly: false, description: '' },
    access: rules(access)
  })
  const asked: number[] = []
  const source = {
    list: async () => [devices({ listSnapshots: true, addresses: ['10.0.0.0/8'] })],
    newestSnapshots: async (_volume: string, most: number) => {
      asked.push(most)
      return [{ name: 'b', description: 'then' }]
    }
  }
  const exports = new Exports(source as unknown as DeviceSource, '')
  const listed = async (address: string): Promise<string[]> =>
    (await exports.listAll(from(address))).map(({ name }) => name)
  deepStrictEqual(await listed('10.0.0.1'), ['v', 'v@b'])
  deepStrictEqual(await listed('11.0.0.1'), [])
  deepStrictEqual(asked, [64])
  source.list = async () => [devices({})]
  deepStrictEqual(await listed('10.0.0.1'), ['v'])
})

test.run()
