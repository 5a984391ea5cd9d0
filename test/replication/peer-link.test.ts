import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import net from 'node:net'
import { suite } from 'uvu'
import { crc32c } from '../../src/core/checksum.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { FrameKind } from '../../src/format/peer-frames.ts'
import { OpFlag, OpKind } from '../../src/replication/block-store.ts'
import { PeerSecurity } from '../../src/replication/peer-security.ts'
import {
  clientIdentity,
  filled,
  peerServing,
  SECRET,
  serverIdentity,
  until
} from '../helpers/peer-serving.ts'
import { opFrame, PeerWire } from '../helpers/peer-wire.ts'

const test = suite('peer link')

test('what is written is read again, small and large', () =>
  peerServing(async ({ gateway }) => {
    const own = gateway()
    const member = await own.member()
    for (const blocks of [1, 2, 4, 5, 8, 9, 64, 256]) {
      const bytes = filled(blocks, blocks)
      strictEqual(await own.write(member, blocks, 3, bytes), 0)
      ok((await own.read(member, blocks, 3, blocks)).equals(bytes), `${blocks} blocks`)
    }
  }))

test('for how long a peer could not be reached is known, of its present start', () =>
  peerServing(async ({ gateway, at }) => {
    const { port } = at
    let where = { ...at, port: 1 }
    const own = gateway({ addressOf: () => where })
    const { peerId } = serverIdentity
    strictEqual(own.links.noLinkTo(peerId), null, 'nobody asked')
    own.links.find(peerId)
    await until(() => own.links.noLinkTo(peerId) !== null)
    await until(() => own.links.noLinkTo(peerId)!.forMs > 5)
    match(own.links.noLinkTo(peerId)!.why, /ECONNREFUSED/)
    where = { ...at, port: 1, bootId: 'ab'.repeat(16) }
    strictEqual(own.links.noLinkTo(peerId), null, 'another start of it, not tried yet')
    where = { ...at, port }
    own.links.refresh(peerId)
    await own.member()
    strictEqual(own.links.noLinkTo(peerId), null)
  }))

test('sealed blocks travel with their tags, small and large', () =>
  peerServing(async ({ gateway }) => {
    const own = gateway()
    const link = await own.member()
    const { arena } = own
    for (const blockCount of [1, 3, 4, 7, 8, 9, 64, 256]) {
      const payload = arena.acquire(blockCount + 2)
      const tags = arena.acquire(1)
      const bytes = filled(blockCount, blockCount)
      const tagBytes = filled(1, blockCount + 1).subarray(0, blockCount * 16)
      bytes.copy(arena.bytes, payload)
      tagBytes.copy(arena.bytes, tags)
      const at = { chunk: blockCount, firstBlock: 5, blockCount, flags: OpFlag.Sealed }
      strictEqual((await own.run(link, OpKind.Write, { ...at, payload, tags })).error, 0)
      arena.bytes.fill(0xee, payload, payload + (blockCount + 2) * 4096)
      const entries = payload + blockCount * 4096
      const read = await own.run(link, OpKind.Read, { ...at, payload, tags: entries })
      strictEqual(read.error, 0)
      ok(arena.bytes.subarray(payload, entries).equals(bytes), `${blockCount} blocks`)
      for (let i = 0; i < blockCount; i++) {
        const entry = arena.bytes.subarray(entries + 32 * i, entries + 32 * i + 32)
        ok(entry.subarray(0, 16).equals(tagBytes.subarray(16 * i, 16 * i + 16)))
        ok(entry.subarray(16).every((byte) => byte === 0))
      }
      arena.release(payload)
      arena.release(tags)
    }
  }))

test('every field of an op arrives', () =>
  peerServing(async ({ gateway, member }) => {
    member.recording = true
    const own = gateway()
    const link = await own.member()
    const fields = { chunk: 0xffff_fffe, firstBlock: 1000, blockCount: 24, flags: OpFlag.KeepHole }
    const numbers = { writerEpoch: 0xffff_ffff, sequence: 2 ** 40 - 1, fenceEpoch: 0xeeee_eeee }
    const group = { pool: 0xffff, group: 0xfffe, groupEpoch: 0xdddd_dddd }
    await own.run(link, OpKind.Trim, { ...fields, ...numbers, ...group })
    deepStrictEqual(member.seen, [
      `3 4 ${0xffff_fffe} 1000 24 ${0xffff_ffff} ${2 ** 40 - 1} ${0xeeee_eeee} 65535 65534 ` +
        `${0xdddd_dddd}`
    ])
  }))

test('block status and versions come back as they were filled', () =>
  peerServing(async ({ gateway }) => {
    const own = gateway()
    const link = await own.member()
    const bytes = filled(16, 3)
    await own.write(link, 1, 0, bytes)
    const pages = own.arena.acquire(17)
    const at = { chunk: 1, blockCount: 16, payload: pages }
    const status = await own.run(link, OpKind.BlockStatus, at)
    strictEqual(status.resultA, 1)
    strictEqual(own.arena.bytes.readUInt32LE(pages), 16)
    const versions = await own.run(link, OpKind.ReadVersions, at)
    strictEqual(versions.resultA, 1)
    ok(own.arena.bytes.subarray(pages + 4096, pages + 17 * 4096).equals(bytes))
    strictEqual(own.arena.bytes[pages], 0x11)
    own.arena.release(pages)
  }))

test('errors come back with their results', () =>
  peerServing(async ({ gateway, member }) => {
    const own = gateway()
    const link = await own.member()
    const pages = own.arena.acquire(256)
    for (const kind of [OpKind.Read, OpKind.Write, OpKind.Trim]) {
      member.failOp = (op) => {
        op.resultA = 17
        return ErrorCode.OutOfSpace
      }
      const op = await own.run(link, kind, { blockCount: 256, payload: pages })
      strictEqual(op.error, ErrorCode.OutOfSpace)
      strictEqual(op.resultA, 17)
    }
    own.arena.release(pages)
  }))

test('ops, flushes and calls of a link are carried out in their order', () =>
  peerServing(
    async ({ gateway, member }) => {
      const own = gateway()
      const link = await own.member()
      const order: string[] = []
      member.failOp = (op) => {
        order.push(`op ${op.sequence}`)
        return 0
      }
      member.answerCall = async (call) => {
        order.push(call.call)
        return { data: Buffer.alloc(0) }
      }
      const done: Promise<unknown>[] = []
      const pages = own.arena.acquire(64)
      for (let sequence = 1; sequence <= 300; sequence++) {
        const blockCount = sequence % 3 === 0 ? 64 : 1
        const fields = { sequence, blockCount, payload: pages }
        done.push(own.run(link, OpKind.Write, fields))
        if (sequence === 200) done.push(link.call({ call: 'ping', families: [] }))
      }
      await Promise.all(done)
      own.arena.release(pages)
      const ops = order.filter((each) => each.startsWith('op'))
      deepStrictEqual(
        ops,
        Array.from({ length: 300 }, (_, index) => `op ${index + 1}`)
      )
      // A call overtakes nothing that was given before it; ops are carried out a little later.
      ok(order.indexOf('ping') >= 190 && order.indexOf('ping') <= 200)
    },
    { limits: { windowOps: 16, windowBytes: 1024 * 1024 } }
  ))

test('a full window queues, and beyond the bound refuses', () =>
  peerServing(
    async ({ gateway, member }) => {
      const own = gateway()
      const link = await own.member()
      member.holding = true
      const ops = Array.from({ length: 12 }, () => own.run(link, OpKind.Trim, {}))
      await until(() => member.submitted === 4, 'the window is used')
      strictEqual(link.inFlight, 10)
      strictEqual((await ops[11]!).error, ErrorCode.LimitReached)
      member.release()
      const errors = (await Promise.all(ops)).map((op) => op.error)
      deepStrictEqual(errors, [...new Array(10).fill(0), 16, 16])
      strictEqual(link.inFlight, 0)
    },
    { limits: { windowOps: 4, queuedRequests: 6 } }
  ))

test('a server without pages stops reading from who wants them, not from others', () =>
  peerServing(
    async ({ gateway, member, server, arena }) => {
      const own = gateway()
      const link = await own.member()
      const other = gateway({ identity: { ...clientIdentity, bootId: 'dd'.repeat(16) } })
      const quiet = await other.member()
      member.holding = true
      const held: number[] = []
      // Nothing is left but what is set aside for links.
      for (let run = arena.acquire(1); run >= 0; run = arena.acquire(1)) held.push(run)
      const pages = own.arena.acquire(256)
      const ops = Array.from({ length: 5 }, (_, chunk) =>
        own.run(link, OpKind.Write, { chunk, blockCount: 256, payload: pages })
      )
      await until(() => server.pages.waiting, 'a link waits for pages')
      const before = member.held
      ok(before < 5)
      const trimmed = other.run(quiet, OpKind.Trim, {})
      await until(() => member.held === before + 1, 'the other link is read')
      member.release()
      strictEqual((await trimmed).error, 0)
      for (const run of held) arena.release(run)
      for (const op of await Promise.all(ops)) strictEqual(op.error, 0)
      own.arena.release(pages)
    },
    { arenaBytes: 16 * 1024 * 1024 }
  ))

test('two peers full of their own requests still serve each other', () =>
  peerServing(async ({ gateway, arena }) => {
    const own = gateway()
    const link = await own.member()
    const held: number[] = []
    for (let run = arena.acquire(1); run >= 0; run = arena.acquire(1)) held.push(run)
    for (let chunk = 0; chunk < 4; chunk++) {
      const bytes = filled(256, chunk)
      strictEqual(await own.write(link, chunk, 0, bytes), 0)
      ok((await own.read(link, chunk, 0, 256)).equals(bytes))
    }
    for (const run of held) arena.release(run)
  }))

test('a flush, and calls with answers of any size, come back', () =>
  peerServing(async ({ gateway, member }) => {
    const own = gateway()
    const link = await own.member()
    strictEqual(await new Promise((done) => link.flush(done)), 0)
    member.failFlush = () => ErrorCode.ShardFailed
    strictEqual(await new Promise((done) => link.flush(done)), ErrorCode.ShardFailed)
    strictEqual(member.flushes, 2)
    const family = 'ab'.repeat(8)
    for (const size of [0, 24, 20_000, 1_000_000, 4 * 1024 * 1024]) {
      member.answerCall = async (call, from) => {
        deepStrictEqual(call, { call: 'versions', family, layer: family, chunk: 7 })
        strictEqual(from.peerId, clientIdentity.peerId)
        return { more: true, data: Buffer.alloc(size, 9) }
      }
      const answer = await link.call({ call: 'versions', family, layer: family, chunk: 7 })
      strictEqual(answer.more, true)
      ok(answer.data.equals(Buffer.alloc(size, 9)))
    }
    const families = Array.from({ length: 5000 }, () => [family, 3] as const)
    member.answerCall = async (call) => {
      strictEqual(call.call === 'ping' && call.families.length, 5000)
      return { fenced: [family], freeBytes: 5, data: Buffer.alloc(0) }
    }
    const pinged = await link.call({ call: 'ping', families })
    deepStrictEqual(pinged.fenced, [family])
    strictEqual(pinged.freeBytes, 5)
  }))

test('what a call throws is thrown again, and too much is refused', () =>
  peerServing(async ({ gateway, member }) => {
    const link = await gateway().member()
    const thrownBy = async (families: readonly (readonly [string, number])[]) => {
      try {
        await link.call({ call: 'ping', families })
      } catch (thrown) {
        return thrown as StoreError
      }
      return null
    }
    member.answerCall = async () => {
      throw new StoreError(ErrorCode.StaleEpoch, 'there is another writer')
    }
    const stale = await thrownBy([])
    strictEqual(stale?.code, ErrorCode.StaleEpoch)
    strictEqual(stale.message, 'there is another writer')
    member.answerCall = async () => ({ data: Buffer.alloc(5 * 1024 * 1024) })
    strictEqual((await thrownBy([]))?.code, ErrorCode.LimitReached)
    strictEqual((await thrownBy([['no family', -1]]))?.code, ErrorCode.InvalidArgument)
    const family = 'ab'.repeat(8)
    const many = Array.from({ length: 50_000 }, () => [family, 3] as const)
    strictEqual((await thrownBy(many))?.code, ErrorCode.LimitReached)
  }))

test('a lost link answers everything with PeerLost, in order, and another one comes', () =>
  peerServing(async ({ gateway, member, server }) => {
    const own = gateway()
    const link = await own.member()
    member.holding = true
    const order: number[] = []
    const ops: Promise<unknown>[] = []
    for (let sequence = 0; sequence < 20; sequence++) {
      ops.push(
        own.run(link, OpKind.Trim, { sequence }).then((op) => {
          strictEqual(op.error, ErrorCode.PeerLost)
          order.push(sequence)
        })
      )
    }
    member.flush = () => {}
    const flushed = new Promise<number>((done) => link.flush(done))
    const called = link.call({ call: 'ping', families: [] }).then(
      () => 0,
      (error: StoreError) => error.code
    )
    member.answerCall = () => new Promise(() => {})
    const lost = new Promise<string>((resolve) => link.onLost(resolve))
    await until(() => member.submitted === 20)
    server.disconnect(clientIdentity.peerId)
    await Promise.all(ops)
    deepStrictEqual(
      order,
      Array.from({ length: 20 }, (_, index) => index)
    )
    strictEqual(await flushed, ErrorCode.PeerLost)
    await called
    ok((await lost).length > 0)
    strictEqual((await own.run(link, OpKind.Trim, {})).error, ErrorCode.PeerLost)
    member.release()
    await until(() => own.links.find(link.peerId) !== null && own.links.find(link.peerId) !== link)
    const next = await own.member()
    strictEqual((await own.run(next, OpKind.Trim, {})).error, 0)
    ok(own.changes.length >= 3)
  }))

test('R5: a new link waits until the ops of the older one are done', () =>
  peerServing(async ({ gateway, member, at, server }) => {
    const wire = await PeerWire.connect(at)
    const security = PeerSecurity.ofSecret(SECRET)
    strictEqual(await wire.enter(clientIdentity, serverIdentity, security), 'welcome')
    member.holding = true
    const old = filled(1, 1)
    wire.write(opFrame(FrameKind.Write, 1, { chunk: 3 }, old))
    await until(() => member.held === 1)
    // Half a frame, which must not be completed by anybody.
    wire.write(opFrame(FrameKind.Write, 2, { chunk: 3 }, old).subarray(0, 2000))
    const own = gateway()
    strictEqual(own.links.find(serverIdentity.peerId), null)
    await until(() => wire.closed, 'the older connection is gone')
    await new Promise((resolve) => setTimeout(resolve, 50))
    strictEqual(own.links.find(serverIdentity.peerId), null, 'not welcome yet')
    member.release()
    const link = await own.member()
    strictEqual(await own.write(link, 3, 0, filled(1, 2)), 0)
    strictEqual(member.submitted, 2)
    ok((await own.read(link, 3, 0, 1)).equals(filled(1, 2)))
    strictEqual(server.listLinks().length, 1)
  }))

test('another boot of the same gateway has a link of its own', () =>
  peerServing(async ({ gateway, server }) => {
    await gateway().member()
    await gateway({ identity: { ...clientIdentity, bootId: 'dd'.repeat(16) } }).member()
    strictEqual(server.listLinks().length, 2)
  }))

test('a request that is not answered in time ends the link', () =>
  peerServing(
    async ({ gateway, member, logged }) => {
      const own = gateway()
      const link = await own.member()
      member.holding = true
      strictEqual((await own.run(link, OpKind.Trim, {})).error, ErrorCode.PeerLost)
      await until(() => logged.some((line) => /not answered in time/.test(line)))
    },
    { limits: { requestMs: 200 } }
  ))

test('an idle link is pinged, and a half-open one is found', () =>
  peerServing(
    async ({ gateway, at }) => {
      // A proxy that goes silent.
      let silent = false
      const proxy = net.createServer((near) => {
        const far = net.connect(at.port, at.host)
        near.on('data', (bytes) => silent || far.write(bytes))
        far.on('data', (bytes) => silent || near.write(bytes))
        for (const each of [near, far]) each.on('error', () => {})
        near.on('close', () => far.destroy())
        far.on('close', () => near.destroy())
      })
      await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
      const { port } = proxy.address() as net.AddressInfo
      const own = gateway({ addressOf: () => ({ ...at, port }) })
      const link = await own.member()
      await new Promise((resolve) => setTimeout(resolve, 400))
      strictEqual(own.links.find(link.peerId), link, 'pings are answered')
      const lost = new Promise<string>((resolve) => link.onLost(resolve))
      silent = true
      match(await lost, /did not answer a ping/)
      silent = false
      own.links.close()
      proxy.close()
    },
    { limits: { requestMs: 1000, pingMs: 100, pingAnswerMs: 200 } }
  ))

test('a gateway that says nothing for too long is closed', () =>
  peerServing(
    async ({ at, server }) => {
      const wire = await PeerWire.connect(at)
      const security = PeerSecurity.ofSecret(SECRET)
      strictEqual(await wire.enter(clientIdentity, serverIdentity, security), 'welcome')
      await until(() => server.listLinks().length === 0)
      await until(() => wire.closed)
    },
    { limits: { idleMs: 1000 } }
  ))

test('a server that closes answers what it took, and says goodbye', () =>
  peerServing(async ({ gateway, member, server }) => {
    const own = gateway()
    const link = await own.member()
    member.holding = true
    const op = own.run(link, OpKind.Trim, {})
    await until(() => member.held === 1)
    const lost = new Promise<string>((resolve) => link.onLost(resolve))
    const closed = server.close()
    setTimeout(() => member.release(), 20)
    strictEqual((await op).error, 0)
    match(await lost, /shutting down/)
    await closed
    own.links.close()
  }))

test('a peer that is not there is tried again', () =>
  peerServing(async ({ gateway, at }) => {
    let port = 1
    const own = gateway({ addressOf: () => (port === 0 ? null : { ...at, port }) })
    strictEqual(own.links.find(serverIdentity.peerId), null)
    await until(() => /ECONNREFUSED/.test(own.links.troubleOf(serverIdentity.peerId)))
    port = 0
    await until(() => /not known/.test(own.links.troubleOf(serverIdentity.peerId)))
    port = at.port
    own.links.refresh(serverIdentity.peerId)
    await own.member()
  }))

test('a checksum that was computed before is sent as it is', () =>
  peerServing(async ({ gateway, member }) => {
    const own = gateway()
    const link = await own.member()
    const payload = own.arena.acquire(1)
    const bytes = own.arena.bytes.subarray(payload, payload + 4096)
    filled(1, 5).copy(bytes)
    const payloadCrc = crc32c(bytes)
    strictEqual((await own.run(link, OpKind.Write, { payload, payloadCrc })).error, 0)
    // Of other bytes: as if they had changed since.
    const stale = { payload, payloadCrc: (payloadCrc ^ 1) >>> 0 }
    strictEqual((await own.run(link, OpKind.Write, stale)).error, ErrorCode.PeerLost)
    strictEqual(member.applied, 1)
    own.arena.release(payload)
  }))

test('a payload that the reader damaged on its way loses the link', () =>
  peerServing(async ({ gateway, at }) => {
    let damage = false
    const proxy = net.createServer((near) => {
      const far = net.connect(at.port, at.host)
      near.pipe(far)
      far.on('data', (bytes) => {
        if (damage) bytes[bytes.length - 1]! ^= 1
        near.write(bytes)
      })
      for (const each of [near, far]) each.on('error', () => {})
      near.on('close', () => far.destroy())
      far.on('close', () => near.destroy())
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    const { port } = proxy.address() as net.AddressInfo
    const own = gateway({ addressOf: () => ({ ...at, port }) })
    for (const blockCount of [1, 100]) {
      const link = await own.member()
      damage = true
      const pages = own.arena.acquire(blockCount)
      const op = await own.run(link, OpKind.Read, { blockCount, payload: pages })
      strictEqual(op.error, ErrorCode.PeerLost)
      own.arena.release(pages)
      damage = false
      await until(() => own.links.find(link.peerId) !== link)
    }
    own.links.close()
    proxy.close()
  }))

test.run()
