/** A volume whose servers come and go, as a client behind the relay sees it. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { NbdClient } from '../../scripts/torture/nbd-client.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { RemoteVolume } from '../../src/nbd/remote-volume.ts'
import { NbdServer } from '../../src/nbd/server.ts'
import { RequestKind } from '../../src/volume/request.ts'
import { MemoryArena, MemorySource, type MemoryVolume } from '../helpers/memory-devices.ts'
import { bounded, MIB, pattern, until } from '../helpers/nbd-serving.ts'

const SIZE = 8 * MIB
const block = (seed: number): Buffer => pattern(4096, seed)

/** A gateway on memory, with a way to it that can be cut or fall silent. */
class Gateway {
  readonly source = new MemorySource(2048)
  readonly volume: MemoryVolume = this.source.add('v', SIZE)
  readonly #server = new NbdServer({ source: this.source })
  readonly #sockets = new Set<Socket>()
  #door: Server | null = null
  #isSilent = false
  port = 0
  #inner = 0

  async begin(): Promise<this> {
    const at = await this.#server.listen({ host: '127.0.0.1', port: 0 })
    this.#inner = 'port' in at ? at.port : 0
    await this.open()
    return this
  }

  async open(): Promise<void> {
    const door = createServer((outer) => this.#join(outer))
    await new Promise<void>((resolve) => door.listen(this.port, '127.0.0.1', resolve))
    this.port = (door.address() as AddressInfo).port
    this.#door = door
  }

  /** As kill -9: connections break, new ones are refused. */
  cut(): void {
    this.#door?.close()
    for (const socket of this.#sockets) socket.destroy()
  }

  /** As SIGSTOP: connections stay, and nothing comes any more. */
  silence(): void {
    this.#isSilent = true
    for (const socket of this.#sockets) socket.pause()
  }

  async end(): Promise<void> {
    this.cut()
    this.source.release(this.volume)
    await this.#server.close(1000)
  }

  #join(outer: Socket): void {
    if (this.#isSilent) {
      this.#sockets.add(outer)
      return
    }
    const inner = connect(this.#inner, '127.0.0.1')
    for (const [from, to] of [
      [outer, inner],
      [inner, outer]
    ] as const) {
      this.#sockets.add(from)
      from.on('data', (bytes) => to.write(bytes))
      from.on('error', () => {})
      from.on('close', () => to.destroy())
    }
  }
}

interface Bench {
  readonly a: Gateway
  readonly b: Gateway
  readonly remote: RemoteVolume
  readonly client: NbdClient
  readonly said: string[]
}

async function withRelay(
  body: (bench: Bench) => Promise<void>,
  options: { readonly stallMs?: number; readonly unflushedBytesMax?: number } = {}
): Promise<void> {
  const a = await new Gateway().begin()
  const b = await new Gateway().begin()
  const said: string[] = []
  const gateways = [a, b].map(({ port }) => ({ endpoint: { host: '127.0.0.1', port }, tls: null }))
  const arena = new MemoryArena(2048)
  const log = (_level: string, message: string): void => void said.push(message)
  const remote = new RemoteVolume({ volume: 'v', gateways, arena, log, ...options })
  const server = new NbdServer({ source: remote })
  try {
    b.source.refuse = ErrorCode.Busy
    await remote.connect(2000)
    const at = await server.listen({ host: '127.0.0.1', port: 0 })
    const client = await NbdClient.connect('port' in at ? at.port : 0, 'v')
    await bounded(body({ a, b, remote, client, said }), 15_000)
    client.destroy()
    await server.close(1000)
    await remote.close()
    strictEqual(arena.pagesFree, arena.pagesTotal, 'every page came back')
    strictEqual(remote.opens, 0)
  } finally {
    await remote.close()
    await a.end()
    await b.end()
  }
}

test('requests go on at the next gateway, and what was not flushed is written there', async () => {
  await withRelay(async ({ a, b, client, said }) => {
    for (let at = 0; at < 8; at++) await client.write(at * 4096, block(at), false)
    await client.flush()
    // All that is certain to be anywhere but at `a`.
    a.volume.bytes.copy(b.volume.bytes)
    for (let at = 4; at < 12; at++) await client.write(at * 4096, block(100 + at), at % 2 === 0)
    await client.trim(0, 4096)
    await client.write(4 * 4096, block(204), false)
    a.volume.holding = true
    const late = client.write(5 * 4096, block(205), false)
    const read = client.read(6 * 4096, 4096)
    const flush = client.flush()
    await until(() => a.volume.held.length === 3)
    a.cut()
    // It is somebody else's as long as the lease of the dead one lasts.
    await new Promise((resolve) => setTimeout(resolve, 600))
    b.source.refuse = ErrorCode.Ok
    await late
    await flush
    ok((await read).equals(block(106)))
    const expected = [0, 1, 2, 3, 204, 205, 106, 107, 108, 109, 110, 111]
    for (const [at, seed] of expected.entries()) {
      const bytes = b.volume.bytes.subarray(at * 4096, (at + 1) * 4096)
      ok(bytes.equals(at === 0 ? Buffer.alloc(4096) : block(seed)), `block ${at}`)
      ok((await client.read(at * 4096, 4096)).equals(bytes), `block ${at} reads the same`)
    }
    strictEqual(said.length, 2, said.join('\n'))
  })
})

test('after a flush nothing is written again', async () => {
  await withRelay(async ({ a, b, client }) => {
    await client.write(0, block(1), false)
    await client.flush()
    await client.write(4096, block(2), true)
    b.volume.record = true
    b.source.refuse = ErrorCode.Ok
    a.cut()
    await client.read(0, 4096)
    const writes = b.volume.seen.filter(({ kind }) => kind === RequestKind.Write)
    deepStrictEqual(
      writes.map(({ offset }) => offset),
      [4096]
    )
  })
})

test('a gateway that falls silent is left, one that only waits for others is not', async () => {
  await withRelay(
    async ({ a, b, client, said }) => {
      a.volume.holding = true
      const slow = client.read(0, 4096)
      await new Promise((resolve) => setTimeout(resolve, 1500))
      strictEqual(said.length, 0, said.join('\n'))
      a.source.release(a.volume)
      await slow
      block(7).copy(b.volume.bytes)
      b.source.refuse = ErrorCode.Ok
      a.silence()
      ok((await client.read(0, 4096)).equals(block(7)))
    },
    { stallMs: 300 }
  )
})

test('what is kept for the next gateway has a bound: then it is flushed', async () => {
  await withRelay(
    async ({ a, client }) => {
      a.volume.record = true
      const writes = Array.from({ length: 64 }, (_, at) =>
        client.write(at * 65_536, pattern(65_536, at), false)
      )
      await Promise.all(writes)
      for (let at = 0; at < 32; at++) await client.write(at * 65_536, pattern(65_536, at), false)
      const flushes = a.volume.seen.filter(({ kind }) => kind === RequestKind.Flush)
      ok(flushes.length >= 2 && flushes.length < 40, `${flushes.length} flushes`)
    },
    { unflushedBytesMax: MIB }
  )
})

test('a write that was acknowledged and cannot be written again fails the next flush', async () => {
  await withRelay(async ({ a, b, client }) => {
    await client.write(0, block(1), false)
    b.volume.fail = ({ kind }) => (kind === RequestKind.Write ? ErrorCode.OutOfSpace : 0)
    b.source.refuse = ErrorCode.Ok
    a.cut()
    await rejects(client.flush(), /NBD error 28/)
    await client.flush()
  })
})

test('errors and ranges are those of the volume, and a refusal is told at the start', async () => {
  await withRelay(async ({ a, b, client }) => {
    a.volume.fail = () => ErrorCode.OutOfSpace
    await rejects(client.write(0, block(1), false), /NBD error 28/)
    await rejects(client.read(SIZE, 4096), /NBD error 22/)
    a.source.refuse = ErrorCode.Busy
    const gateways = [a, b].map(({ port }) => ({
      endpoint: { host: '127.0.0.1', port },
      tls: null
    }))
    const another = new RemoteVolume({ volume: 'v', gateways, arena: new MemoryArena(16) })
    await rejects(another.connect(100), /refuses volume "v"/)
    const nobody = { endpoint: { path: join(tmpdir(), 'torus-nobody') }, tls: null }
    const none = new RemoteVolume({ volume: 'v', gateways: [nobody], arena: new MemoryArena(16) })
    await rejects(none.connect(100), /no NBD server answers/)
  })
})

test.run()
