/** Memory that runs out, and clients that hold it. */
import { ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import * as p from '../../src/nbd/protocol.ts'
import { MIB, pattern, serving, until } from '../helpers/nbd-serving.ts'
import type { NbdWireClient } from '../helpers/nbd-wire-client.ts'

const test = suite('nbd under pressure')
const PAGES_PER_MIB = 256

/** Reads and writes every 64 KiB of a client's own range at once, then checks what is there. */
async function exercise(
  client: NbdWireClient,
  first: number,
  seed: number,
  length = MIB + 5_000
): Promise<void> {
  const payload = pattern(length, seed)
  const step = 192 * 1024
  for (let at = 0; at < length; at += step) {
    const part = payload.subarray(at, Math.min(length, at + step))
    client.command({ type: p.NBD_CMD_WRITE, offset: first + at, payload: part })
  }
  for (let at = 0; at < length; at += step) strictEqual((await client.simpleReply()).error, 0)
  ok((await client.readRange(first, length)).equals(payload), `client ${seed}`)
}

for (const [arenaPages, what, length] of [
  [17, 'a page for each', 300_000],
  [64, 'a quarter of a MiB', 600_000],
  [2 * PAGES_PER_MIB, 'two MiB', 3 * MIB]
] as const) {
  test(`16 clients share an arena of ${what} and none is starved`, () =>
    serving(
      async ({ connect, server }) => {
        const clients = await Promise.all(
          Array.from({ length: 16 }, async () => {
            const client = await connect()
            await client.attach('demo')
            return client
          })
        )
        await Promise.all(
          clients.map((client, index) => exercise(client, index * 4 * MIB + index, index, length))
        )
        ok(server.snapshot().memoryWaits > 0)
        strictEqual(server.snapshot().stalledDisconnects, 0)
      },
      { arenaPages, sizeBytes: 68 * MIB }
    ))
}

test('one request and one reply buffer for each: clients take turns', () =>
  serving(
    async ({ connect }) => {
      const clients = await Promise.all(
        Array.from({ length: 8 }, async () => {
          const client = await connect()
          await client.attach('demo')
          return client
        })
      )
      await Promise.all(
        clients.map(async (client, index) => {
          const one = { type: p.NBD_CMD_WRITE, offset: index * 4096, payload: pattern(4096, index) }
          client.write(Buffer.concat(Array.from({ length: 50 }, () => client.commandBytes(one))))
          for (let left = 50; left > 0; left--) strictEqual((await client.simpleReply()).error, 0)
          ok((await client.readRange(index * 4096, 4096)).equals(pattern(4096, index)))
        })
      )
    },
    { limits: { connections: 8, requests: 9, replyBuffers: 2, requestsPerConnection: 3 } }
  ))

test('clients without a large reply buffer get every kind of answer', () =>
  serving(
    async ({ connect, demo }) => {
      pattern(2 * MIB).copy(demo.bytes)
      const client = await connect()
      await client.attach('demo')
      const lengths = [4096, 16 * 1024, 16 * 1024 + 1, 64 * 1024, MIB, 2 * MIB]
      for (let round = 0; round < 3; round++) {
        for (const length of lengths) {
          ok((await client.readRange(0, length)).equals(pattern(2 * MIB).subarray(0, length)))
        }
      }
    },
    { limits: { replyBuffers: 0 } }
  ))

test('a client has no more than its limit of commands in flight', () =>
  serving(
    async ({ connect, demo, source, server }) => {
      demo.holding = true
      const client = await connect()
      await client.attach('demo')
      const one = client.commandBytes({ type: p.NBD_CMD_READ, length: 4096 })
      client.write(Buffer.concat(Array.from({ length: 100 }, () => one)))
      await until(() => demo.held.length === 8)
      await new Promise((resolve) => setTimeout(resolve, 50))
      strictEqual(demo.held.length, 8)
      strictEqual(server.listClients()[0]!.inFlight, 8)
      strictEqual(server.snapshot().requestsInFlight, 8)
      // It does not hold up others.
      const other = await connect()
      await other.attach('demo')
      const held = demo.held.splice(0)
      demo.holding = false
      strictEqual(await other.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
      demo.held.push(...held)
      source.release(demo)
      for (let left = 100; left > 0; left--) {
        strictEqual((await client.simpleReply()).error, 0)
        await client.read(4096)
      }
    },
    { limits: { requestsPerConnection: 8 } }
  ))

test('clients that never read replies are cut off when others need the memory', () =>
  serving(
    async ({ connect, server, demo }) => {
      pattern(64 * MIB).copy(demo.bytes)
      const stuck = await Promise.all(
        Array.from({ length: 12 }, async () => {
          const client = await connect()
          await client.attach('demo')
          client.pause()
          const read = client.commandBytes({ type: p.NBD_CMD_READ, length: 20 * MIB })
          client.write(Buffer.concat(Array.from({ length: 20 }, () => read)))
          return client
        })
      )
      await new Promise((resolve) => setTimeout(resolve, 100))
      const client = await connect()
      await client.attach('demo')
      // They keep what they hold only while it is not missed for long.
      for (let round = 0; round === 0 || server.snapshot().stalledDisconnects === 0; round++) {
        await exercise(client, 0, round)
      }
      for (const each of stuck) each.destroy()
      // While nobody needs its memory a slow client is left alone.
      const slow = await connect()
      await slow.attach('demo')
      slow.pause()
      slow.command({ type: p.NBD_CMD_READ, length: 12 * MIB })
      await new Promise((resolve) => setTimeout(resolve, 1_500))
      slow.resume()
      strictEqual((await slow.simpleReply()).error, 0)
      ok((await slow.read(12 * MIB)).equals(demo.bytes.subarray(0, 12 * MIB)))
    },
    { arenaPages: 4 * PAGES_PER_MIB, limits: { stallMs: 400 } }
  ))

test('clients that dribble large payloads are cut off when others need the memory', () =>
  serving(
    async ({ connect, server }) => {
      const dribblers = await Promise.all(
        Array.from({ length: 8 }, async () => {
          const client = await connect()
          await client.attach('demo')
          const bytes = client.commandBytes({ type: p.NBD_CMD_WRITE, payload: pattern(8 * MIB) })
          client.write(bytes.subarray(0, 1000))
          return { client, bytes }
        })
      )
      let at = 1000
      const timer = setInterval(() => {
        for (const { client, bytes } of dribblers) client.write(bytes.subarray(at, at + 1))
        at++
      }, 20)
      await until(() => server.budget.arena.pagesFree < PAGES_PER_MIB)
      const client = await connect()
      await client.attach('demo')
      for (let round = 0; round === 0 || server.snapshot().stalledDisconnects === 0; round++) {
        await exercise(client, 0, round)
      }
      clearInterval(timer)
    },
    { arenaPages: 2 * PAGES_PER_MIB, limits: { stallMs: 400 } }
  ))

test('small writes that dribble hold no memory at all', () =>
  serving(
    async ({ connect, server, demo }) => {
      const clients = await Promise.all(
        Array.from({ length: 100 }, async (_, index) => {
          const client = await connect()
          await client.attach('demo')
          const payload = pattern(32 * 1024, index)
          const bytes = client.commandBytes({ type: p.NBD_CMD_WRITE, payload })
          client.write(bytes.subarray(0, bytes.length - 1))
          return { client, bytes }
        })
      )
      await new Promise((resolve) => setTimeout(resolve, 100))
      strictEqual(server.budget.arena.pagesFree, server.budget.arena.pagesTotal)
      for (const { client, bytes } of clients) client.write(bytes.subarray(bytes.length - 1))
      for (const { client } of clients) strictEqual((await client.simpleReply()).error, 0)
      ok(demo.bytes[0] !== 0)
    },
    { arenaPages: 64 }
  ))

test('1,024 clients are served, and one more is turned away', () =>
  serving(
    async ({ connect, server }) => {
      const clients: NbdWireClient[] = []
      for (let group = 0; group < 8; group++) {
        clients.push(
          ...(await Promise.all(
            Array.from({ length: 128 }, async () => {
              const client = await connect()
              await client.attach('demo', { structured: true })
              return client
            })
          ))
        )
      }
      strictEqual(server.listClients().length, 1024)
      const extra = await connect()
      strictEqual((await extra.readToEnd()).length, 0)
      strictEqual(server.snapshot().connectionsRefused, 1)
      await Promise.all(
        clients.map(async (client, index) => {
          await client.writeRange(index * 4096, pattern(4096, index))
          ok((await client.readRange(index * 4096, 4096)).equals(pattern(4096, index)))
        })
      )
      for (const client of clients) client.command({ type: p.NBD_CMD_DISC })
      await until(() => server.listClients().length === 0)
    },
    { arenaPages: 512, timeoutMs: 30_000 }
  ))

test('100 clients that ask for large reads and never take them leave room for one that does', () =>
  serving(
    async ({ connect, demo }) => {
      pattern(64 * MIB).copy(demo.bytes)
      for (let group = 0; group < 4; group++) {
        await Promise.all(
          Array.from({ length: 25 }, async () => {
            const client = await connect()
            await client.attach('demo')
            client.pause()
            const read = client.commandBytes({ type: p.NBD_CMD_READ, length: 4 * MIB })
            client.write(Buffer.concat([read, read, read]))
          })
        )
      }
      const before = process.memoryUsage()
      const client = await connect()
      await client.attach('demo')
      await exercise(client, 0, 1)
      const after = process.memoryUsage()
      const grown = after.external + after.arrayBuffers - before.external - before.arrayBuffers
      ok(grown < 256 * MIB, `${grown} bytes more`)
    },
    { arenaPages: 8 * PAGES_PER_MIB, limits: { stallMs: 500 }, timeoutMs: 40_000 }
  ))

test.run()
