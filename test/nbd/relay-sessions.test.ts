/** R35: a relay that others overtook writes nothing of what it kept. */
import { match, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { NbdClient } from '../../scripts/torture/nbd-client.ts'
import { RemoteVolume } from '../../src/nbd/remote-volume.ts'
import { NbdServer } from '../../src/nbd/server.ts'
import { LoopbackProxy, PASS } from '../helpers/loopback-proxy.ts'
import { MemoryArena } from '../helpers/memory-devices.ts'
import { bounded, pattern, until } from '../helpers/nbd-serving.ts'
import { openBench } from '../helpers/volume-bench.ts'

const block = (seed: number): Buffer => pattern(4096, seed)
const portOf = (at: object): number => ('port' in at ? Number(at.port) : 0)

interface Relay {
  readonly remote: RemoteVolume
  readonly client: NbdClient
  readonly said: string[]
  close(): Promise<void>
}

async function relayTo(port: number): Promise<Relay> {
  const said: string[] = []
  const gateways = [{ endpoint: { host: '127.0.0.1', port }, tls: null }]
  const log = (_level: string, message: string): void => void said.push(message)
  const remote = new RemoteVolume({ volume: 'v', gateways, arena: new MemoryArena(2048), log })
  await remote.connect(2000)
  const server = new NbdServer({ source: remote })
  const client = await NbdClient.connect(
    portOf(await server.listen({ host: '127.0.0.1', port: 0 })),
    'v'
  )
  const close = async (): Promise<void> => {
    client.destroy()
    await server.close(1000)
    await remote.close()
  }
  return { remote, client, said, close }
}

async function withGateway(
  body: (site: { port: number; stale: Relay; proxy: LoopbackProxy }) => Promise<void>
): Promise<void> {
  const bench = await openBench({ arenaPages: 4096 })
  await bench.volumes.create({ name: 'v', sizeBytes: 1024 * 1024 })
  const server = new NbdServer({ source: bench.volumes })
  const port = portOf(await server.listen({ host: '127.0.0.1', port: 0 }))
  const proxy = await LoopbackProxy.listen(port)
  const stale = await relayTo(proxy.port)
  try {
    await stale.client.write(0, block(1), false)
    await stale.client.flush()
    await stale.client.write(0, block(2), false)
    proxy.set(null, { kind: 'cut' })
    await bounded(body({ port, stale, proxy }), 15_000)
  } finally {
    await stale.close()
    proxy.close()
    await server.close(1000)
    await bench.close()
  }
}

test('what was kept is written again when nobody else wrote', async () => {
  await withGateway(async ({ port, stale, proxy }) => {
    const looking = await NbdClient.connect(port, 'v')
    await looking.read(0, 4096)
    looking.destroy()
    proxy.set(null, PASS)
    await stale.client.flush()
    ok((await stale.client.read(0, 4096)).equals(block(2)))
  })
})

for (const who of ['another relay', 'a plain client'] as const) {
  test(`nothing is written again after ${who} wrote, and all requests fail`, async () => {
    await withGateway(async ({ port, stale, proxy }) => {
      const relay = who === 'another relay' ? await relayTo(port) : null
      const client = relay?.client ?? (await NbdClient.connect(port, 'v'))
      await client.write(0, block(3), false)
      await client.flush()
      proxy.set(null, PASS)
      await until(() => stale.said.some((line) => line.includes('not flushed are lost')))
      match(stale.said.join(), /another client has written volume v since.* 4352 bytes/)
      await rejects(stale.client.write(4096, block(4), false))
      await rejects(stale.client.flush())
      await rejects(stale.client.read(0, 4096))
      ok((await client.read(0, 4096)).equals(block(3)))
      ok((await client.read(4096, 4096)).equals(Buffer.alloc(4096)))
      client.destroy()
      await relay?.close()
      strictEqual(stale.remote.sizeBytes, 1024 * 1024)
    })
  })
}

test('a relay that seems to be connected is over when another one begins', async () => {
  await withGateway(async ({ port, stale, proxy }) => {
    proxy.set(null, PASS)
    await stale.client.flush()
    await stale.client.write(0, block(2), false)
    const relay = await relayTo(port)
    ok((await relay.client.read(0, 4096)).equals(block(2)))
    await rejects(stale.client.write(0, block(4), false))
    ok((await relay.client.read(0, 4096)).equals(block(2)))
    await relay.close()
  })
})

test.run()
