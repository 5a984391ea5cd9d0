import { deepStrictEqual, match, ok, rejects, strictEqual } from 'node:assert'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { NbdClient } from '../../src/nbd/client.ts'
import * as p from '../../src/nbd/protocol.ts'
import { bounded, MIB, pattern, serving, until } from '../helpers/nbd-serving.ts'

const connectTo = (port: number, more: { exportName?: string; slots?: number } = {}) =>
  NbdClient.connect({
    endpoint: { host: '127.0.0.1', port },
    exportName: 'demo',
    slots: 4,
    payloadBytesMax: 2 * MIB,
    handshakeMs: 2_000,
    ...more
  })

/** Submits one request and waits for its reply. */
function ask(client: NbdClient, command: number, offset: number, length: number, source?: Buffer) {
  const reply = new Promise<number>((resolve) => {
    client.onReply = (_, error) => resolve(error)
  })
  client.submit(0, command, offset, length, source ?? null)
  client.send()
  return bounded(reply, 5_000)
}

test('size and flags of the export are known, and errors are those of the server', async () => {
  await serving(async ({ port }) => {
    const client = await connectTo(port)
    strictEqual(client.sizeBytes, 64 * MIB)
    ok((client.flags & p.NBD_FLAG_SEND_FLUSH) !== 0)
    strictEqual(await ask(client, p.NBD_CMD_READ, 0, 4096), 0)
    strictEqual(await ask(client, p.NBD_CMD_READ, 64 * MIB, 4096), p.NBD_EINVAL)
    strictEqual(await ask(client, p.NBD_CMD_FLUSH, 0, 0), 0)
    client.close()
  })
})

test('small and large payloads arrive where they belong', async () => {
  await serving(async ({ port, demo }) => {
    const client = await connectTo(port)
    const source = pattern(3 * MIB)
    for (const [offset, length] of [
      [0, 512],
      [4096, 32 * 1024],
      [MIB + 100, 32 * 1024 + 1],
      [8 * MIB, 2 * MIB]
    ] as const) {
      strictEqual(await ask(client, p.NBD_CMD_WRITE, offset, length, source), 0)
      ok(demo.bytes.subarray(offset, offset + length).equals(source.subarray(0, length)))
    }
    client.close()
  })
})

test('every slot gets its own reply, however many are in flight', async () => {
  await serving(async ({ port }) => {
    const client = await connectTo(port, { slots: 64 })
    const replies = new Array<number>(64).fill(0)
    const total = 6400
    let [sent, answered] = [0, 0]
    const next = (slot: number) => {
      if (sent++ >= total) return
      // An odd size: headers of replies come in pieces.
      client.submit(slot, p.NBD_CMD_READ, sent * 512, 512 + slot * 11)
    }
    client.onReply = (slot, error) => {
      strictEqual(error, 0)
      replies[slot]!++
      answered++
      next(slot)
    }
    for (let slot = 0; slot < 64; slot++) next(slot)
    client.send()
    await until(() => answered === total)
    ok(replies.every((count) => count > 0))
    client.close()
  })
})

const refused = (code: ErrorCode, message: RegExp) => (error: unknown) => {
  ok(error instanceof StoreError)
  strictEqual(error.code, code, error.message)
  match(error.message, message)
  return true
}

test('an export that is not there is NotFound, nobody there is Unavailable', async () => {
  await serving(async ({ port }) => {
    await rejects(connectTo(port, { exportName: 'x' }), refused(ErrorCode.NotFound, /volume "x"/))
  })
  await rejects(connectTo(1), refused(ErrorCode.Unavailable, /127\.0\.0\.1:1.*ECONNREFUSED/))
})

async function withPeer(
  greet: (socket: Socket) => void,
  use: (port: number) => Promise<void>
): Promise<void> {
  const sockets: Socket[] = []
  const server: Server = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    greet(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    await use((server.address() as AddressInfo).port)
  } finally {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
}

test('what is no NBD server, and one that says nothing, are told', async () => {
  const chatty = (socket: Socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n')
  await withPeer(chatty, async (port) => {
    await rejects(connectTo(port), refused(ErrorCode.Unavailable, /is no NBD server/))
  })
  await withPeer(
    (socket) => socket.end(),
    async (port) => {
      await rejects(connectTo(port), refused(ErrorCode.Unavailable, /closed the connection/))
    }
  )
  await withPeer(
    () => {},
    async (port) => {
      const connecting = NbdClient.connect({
        ...{ endpoint: { host: '127.0.0.1', port }, exportName: '', slots: 1 },
        ...{ payloadBytesMax: 0, handshakeMs: 100 }
      })
      await rejects(connecting, refused(ErrorCode.Unavailable, /in time/))
    }
  )
})

function greeting(): Buffer {
  const bytes = Buffer.alloc(18)
  bytes.write('NBDMAGICIHAVEOPT', 'latin1')
  bytes.writeUInt16BE(p.NBD_FLAG_FIXED_NEWSTYLE, 16)
  return bytes
}

function optionReply(type: number, data = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(20)
  bytes.writeUInt32BE(p.NBD_REP_MAGIC_HIGH, 0)
  bytes.writeUInt32BE(p.NBD_REP_MAGIC_LOW, 4)
  bytes.writeUInt32BE(p.NBD_OPT_GO, 8)
  bytes.writeUInt32BE(type, 12)
  bytes.writeUInt32BE(data.length, 16)
  return Buffer.concat([bytes, data])
}

test('a server that insists on TLS is told apart', async () => {
  const strict = (socket: Socket) => {
    socket.write(greeting())
    socket.once('data', () => socket.write(optionReply(p.NBD_REP_ERR_TLS_REQD)))
  }
  await withPeer(strict, async (port) => {
    await rejects(connectTo(port), refused(ErrorCode.Forbidden, /only with TLS/))
  })
})

test('a reply to nothing breaks the connection, once', async () => {
  const info = Buffer.alloc(12)
  info.writeUInt32BE(MIB, 6)
  const wild = (socket: Socket) => {
    // Byte by byte: nothing is lost between pieces.
    for (const byte of greeting()) socket.write(Buffer.of(byte))
    socket.once('data', () => {
      socket.write(optionReply(p.NBD_REP_INFO, info))
      socket.write(optionReply(p.NBD_REP_ACK))
      socket.once('data', () => {
        const reply = Buffer.alloc(16)
        reply.writeUInt32BE(p.NBD_SIMPLE_REPLY_MAGIC, 0)
        reply.writeUInt32BE(3, 12)
        socket.end(Buffer.concat([reply, reply]))
      })
    })
  }
  await withPeer(wild, async (port) => {
    const client = await connectTo(port)
    strictEqual(client.sizeBytes, MIB)
    const reasons: string[] = []
    client.onLost = (reason) => reasons.push(reason)
    client.submit(0, p.NBD_CMD_READ, 0, 512)
    client.send()
    await until(() => reasons.length > 0)
    deepStrictEqual(reasons, ['the server sent a reply that belongs to no request'])
  })
})

test.run()
