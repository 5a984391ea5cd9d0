import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import * as p from '../../src/nbd/protocol.ts'
import { NbdServer } from '../../src/nbd/server.ts'
import { Scratch } from '../helpers/images.ts'
import { end } from '../helpers/process.ts'
import { MemorySource } from '../helpers/memory-devices.ts'
import { bounded, MIB, pattern, serving, until } from '../helpers/nbd-serving.ts'
import { infoData, NbdWireClient } from '../helpers/nbd-wire-client.ts'

const test = suite('nbd server')

test('a disconnect in the middle of anything leaves nothing behind', () =>
  serving(
    async ({ connect, server, demo, source }) => {
      pattern(20 * MIB).copy(demo.bytes)
      const large = pattern(9 * MIB)
      const commands: [object, number][] = [
        [{ type: p.NBD_CMD_FLUSH }, 13],
        [{ type: p.NBD_CMD_WRITE, payload: pattern(4096) }, 2000],
        [{ type: p.NBD_CMD_WRITE, payload: pattern(60_000) }, 20],
        [{ type: p.NBD_CMD_WRITE, payload: pattern(60_000) }, 50_000],
        [{ type: p.NBD_CMD_WRITE, payload: large }, 100],
        [{ type: p.NBD_CMD_WRITE, payload: large }, 5 * MIB],
        [{ type: p.NBD_CMD_WRITE, payload: large, offset: 64 * MIB }, 5 * MIB],
        [{ type: p.NBD_CMD_READ, length: 4096 }, 28],
        [{ type: p.NBD_CMD_READ, length: 20 * MIB }, 28],
        [{ type: p.NBD_CMD_READ, length: 20 * MIB, flags: p.NBD_CMD_FLAG_DF }, 28],
        [{ type: p.NBD_CMD_BLOCK_STATUS, length: 64 * MIB }, 28]
      ]
      for (const mode of [{}, { structured: true, contexts: ['base:allocation'] }]) {
        for (const holding of [false, true]) {
          for (const [command, count] of commands) {
            demo.holding = holding
            const client = await connect()
            await client.attach('demo', mode)
            client.pause()
            const bytes = client.commandBytes(command as { type: number })
            client.write(bytes.subarray(0, count))
            await new Promise((resolve) => setTimeout(resolve, 4))
            client.destroy()
            await new Promise((resolve) => setTimeout(resolve, 2))
            source.release(demo)
            await until(() => server.listClients().length === 0)
            strictEqual(source.arena.pagesFree, source.arena.pagesTotal, `first ${count} bytes`)
          }
        }
      }
    },
    { arenaPages: 1024 }
  ))

test('a client that closes its side gets the answers it asked for', () =>
  serving(async ({ connect, demo, source }) => {
    pattern(3 * MIB).copy(demo.bytes)
    for (const last of [p.NBD_CMD_DISC, p.NBD_CMD_FLUSH]) {
      demo.holding = true
      const client = await connect()
      await client.attach('demo')
      client.command({ type: p.NBD_CMD_READ, length: 3 * MIB })
      client.command({ type: last })
      client.end()
      await until(() => demo.held.length > 0)
      source.release(demo)
      strictEqual((await client.simpleReply()).error, 0)
      ok((await client.read(3 * MIB)).equals(demo.bytes.subarray(0, 3 * MIB)))
      await client.readToEnd()
    }
  }))

test('a client whose volume is no longer served here is cut off, and told nothing', () =>
  serving(async ({ connect, server, demo, source }) => {
    for (const command of [
      { type: p.NBD_CMD_WRITE, payload: pattern(4096) },
      { type: p.NBD_CMD_READ, length: 3 * MIB },
      { type: p.NBD_CMD_FLUSH }
    ]) {
      demo.holding = true
      demo.fail = () => ErrorCode.Closed
      const client = await connect()
      await client.attach('demo')
      client.command(command)
      client.command(command)
      await until(() => demo.held.length > 1)
      source.release(demo)
      demo.holding = false
      strictEqual((await client.readToEnd().catch(() => Buffer.alloc(0))).length, 0)
      await until(() => server.listClients().length === 0)
      strictEqual(source.arena.pagesFree, source.arena.pagesTotal)
    }
    strictEqual(demo.opens, 0)
  }))

test('what follows NBD_CMD_DISC is not looked at', () =>
  serving(async ({ connect, demo }) => {
    demo.record = true
    const client = await connect()
    await client.attach('demo')
    const disconnect = client.commandBytes({ type: p.NBD_CMD_DISC })
    const trim = client.commandBytes({ type: p.NBD_CMD_TRIM, length: MIB })
    client.write(Buffer.concat([disconnect, trim, Buffer.alloc(100_000, 7)]))
    strictEqual((await client.readToEnd()).length, 0)
    strictEqual(demo.seen.length, 0)
  }))

test('a shutdown answers what is in flight and refuses what comes', () =>
  serving(
    async ({ connect, server, demo, source }) => {
      const idle = await connect()
      await idle.attach('demo')
      const early = await connect()
      await early.greet()
      const busy = await connect()
      await busy.attach('demo')
      demo.holding = true
      const payload = pattern(5 * MIB)
      busy.command({ type: p.NBD_CMD_WRITE, offset: 10, payload, cookie: 1n })
      await until(() => demo.held.length === 6)
      const closed = server.close(5_000)
      await idle.readToEnd()
      busy.command({ type: p.NBD_CMD_TRIM, length: 64 * MIB, cookie: 2n })
      deepStrictEqual(await busy.simpleReply(), { error: p.NBD_ESHUTDOWN, cookie: 2n })
      const refused = await early.option(p.NBD_OPT_GO, infoData('demo'))
      strictEqual(refused.at(-1)!.type, p.NBD_REP_ERR_SHUTDOWN)
      await rejects(connect())
      source.release(demo)
      deepStrictEqual(await busy.simpleReply(), { error: 0, cookie: 1n })
      await busy.readToEnd()
      await bounded(closed, 3_000)
      ok(demo.bytes.subarray(10, 10 + payload.length).equals(payload))
    },
    { arenaPages: 16_384 }
  ))

test('a shutdown cuts off who does not finish in time, and still waits for the volume', () =>
  serving(async ({ connect, server, demo, source }) => {
    const client = await connect()
    await client.attach('demo')
    demo.holding = true
    client.command({ type: p.NBD_CMD_READ, length: 4096 })
    await until(() => demo.held.length === 1)
    let over = false
    const closed = server.close(100).then(() => {
      over = true
    })
    await client.readToEnd()
    await new Promise((resolve) => setTimeout(resolve, 50))
    strictEqual(over, false)
    source.release(demo)
    await bounded(closed, 2_000)
  }))

test('a client can be disconnected by its id, and its requests finish first', () =>
  serving(async ({ connect, server, demo, source }) => {
    const client = await connect()
    await client.attach('demo')
    const other = await connect()
    await other.attach('demo')
    demo.holding = true
    client.command({ type: p.NBD_CMD_WRITE, payload: pattern(4096) })
    await until(() => demo.held.length === 1)
    const { id } = server.listClients()[0]!
    strictEqual(server.disconnect(999), false)
    strictEqual(server.disconnect(id), true)
    // No more commands are taken from it, a payload on its way included.
    client.command({ type: p.NBD_CMD_WRITE, payload: pattern(100_000) })
    await new Promise((resolve) => setTimeout(resolve, 20))
    source.release(demo)
    strictEqual((await client.simpleReply()).error, 0)
    strictEqual((await client.readToEnd()).length, 0)
    await until(() => server.listClients().length === 1)
    strictEqual(await other.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  }))

test('a client can be disconnected in the middle of a payload', () =>
  serving(async ({ connect, server, source }) => {
    const client = await connect()
    await client.attach('demo')
    const bytes = client.commandBytes({ type: p.NBD_CMD_WRITE, payload: pattern(3 * MIB) })
    client.write(bytes.subarray(0, 1_500_000))
    await until(() => source.arena.pagesFree < source.arena.pagesTotal)
    server.disconnect(server.listClients()[0]!.id)
    client.write(bytes.subarray(1_500_000))
    await client.readToEnd()
    client.destroy()
    await until(() => server.listClients().length === 0)
    strictEqual(source.arena.pagesFree, source.arena.pagesTotal)
  }))

test('a client that is disconnected and does not take its replies is cut off', () =>
  serving(
    async ({ connect, server }) => {
      const client = await connect()
      await client.attach('demo')
      client.pause()
      client.command({ type: p.NBD_CMD_READ, length: 32 * MIB })
      await until(() => server.listClients()[0]!.inFlight === 1)
      server.disconnect(server.listClients()[0]!.id)
      await until(() => server.listClients().length === 0)
    },
    { limits: { drainMs: 200 } }
  ))

test('clients of one export can be disconnected together', () =>
  serving(async ({ connect, server, source }) => {
    source.add('other', MIB)
    const first = await connect()
    await first.attach('demo')
    const second = await connect()
    await second.attach('demo')
    const third = await connect()
    await third.attach('other')
    strictEqual(server.disconnectVolume('demo'), 2)
    await first.readToEnd()
    await second.readToEnd()
    strictEqual(await third.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  }))

test('a device that grows and shrinks is served at its size of the moment', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.attach('demo')
    demo.sizeBytes = 8192
    strictEqual(await client.errorOf({ type: p.NBD_CMD_TRIM, length: 8193 }), p.NBD_EINVAL)
    demo.sizeBytes = 64 * MIB
    strictEqual(await client.errorOf({ type: p.NBD_CMD_TRIM, length: 8193 }), 0)
  }))

test('unix sockets are served, stale ones replaced, other files left alone', async () => {
  const scratch = await Scratch.create()
  const source = new MemorySource(256)
  source.add('demo', MIB)
  const path = scratch.path('nbd.sock')
  const first = new NbdServer({ source })
  const second = new NbdServer({ source })
  try {
    // Left behind by a process that died.
    const program = `require('net').createServer().listen(${JSON.stringify(path)})`
    const child = spawn(process.execPath, ['-e', program], { stdio: 'ignore' })
    await until(() => existsSync(path))
    await end(child, 'SIGKILL')
    await first.listen({ path })
    const client = await NbdWireClient.connect({ path })
    await client.attach('demo')
    await client.writeRange(10, pattern(200_000))
    ok((await client.readRange(10, 200_000)).equals(pattern(200_000)))
    strictEqual(first.listClients()[0]!.address, path)
    client.destroy()
    await rejects(second.listen({ path }), /EADDRINUSE/)
    const file = scratch.path('file')
    writeFileSync(file, 'precious')
    await rejects(second.listen({ path: file }), /EADDRINUSE/)
    strictEqual(readFileSync(file, 'utf8'), 'precious')
    await first.close(1_000)
    strictEqual(existsSync(path), false)
  } finally {
    await first.close(100)
    await second.close(100)
    await scratch.remove()
  }
})

test('one server listens in several places', async () => {
  const scratch = await Scratch.create()
  const source = new MemorySource(256)
  source.add('demo', MIB)
  const server = new NbdServer({ source })
  try {
    const places = [
      await server.listen({ host: '127.0.0.1', port: 0 }),
      await server.listen({ host: '127.0.0.1', port: 0 }),
      await server.listen({ path: scratch.path('nbd.sock') })
    ]
    for (const place of places) {
      const client = await NbdWireClient.connect(place)
      await client.attach('demo')
      strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
      client.destroy()
    }
    strictEqual(server.snapshot().connectionsTotal, 3)
  } finally {
    await server.close(1_000)
    await scratch.remove()
  }
})

test('an export that fails to open for a moment does not end the server', () =>
  serving(async ({ connect, source }) => {
    source.refuse = ErrorCode.ShardFailed
    for (let round = 0; round < 3; round++) {
      const client = await connect()
      await client.greet()
      const replies = await client.option(p.NBD_OPT_GO, infoData('demo'))
      strictEqual(replies.at(-1)!.type, p.NBD_REP_ERR_POLICY)
    }
    source.refuse = ErrorCode.Ok
    await (await connect()).attach('demo')
  }))

test.run()
