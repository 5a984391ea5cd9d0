/** What a member does with the requests of gateways and other members. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { BlockOp, OpFlag, OpKind } from '../../src/replication/block-store.ts'
import { decodeFound } from '../../src/replication/chunk-finder.ts'
import { decodeQuiet } from '../../src/replication/confirmations.ts'
import { ShardMemberService } from '../../src/replication/shard-member-service.ts'
import type { MemberAnswer, MemberCall } from '../../src/replication/member.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { MemberPeer } from '../helpers/member-peer.ts'

const test = suite('member service')

const FAMILY = '0000000000000001'
const LAYER = '0000000000000007'
const epochs = { fenceEpoch: 5, groupEpoch: 3, writerEpoch: 5, pool: 1, group: 2 }
const shape = { pool: 1, groups: 4 }

const fenceFamily = (peer: MemberPeer, writerEpoch: number): Promise<MemberAnswer> =>
  peer.member.call({ call: 'fenceFamily', family: FAMILY, writerEpoch })
const fenceGroup = (peer: MemberPeer, epoch: number): Promise<MemberAnswer> =>
  peer.member.call({ call: 'fenceGroup', id: { pool: 1, group: 2 }, epoch })

const isStale = (code: ErrorCode) => (error: unknown) =>
  error instanceof StoreError && error.code === code

test('a fence ends older writers and older groups, for reads as for writes', async () => {
  const peer = await MemberPeer.create(1)
  strictEqual((await peer.run(OpKind.Write, { ...epochs, sequence: 1 }, 7)).error, 0)
  await fenceFamily(peer, 6)
  for (const kind of [OpKind.Read, OpKind.Write, OpKind.Trim, OpKind.BlockStatus]) {
    const { error } = await peer.run(kind, { ...epochs, sequence: 2 })
    strictEqual(error, ErrorCode.StaleEpoch)
  }
  const newer = { ...epochs, fenceEpoch: 6 }
  strictEqual((await peer.run(OpKind.Read, newer)).error, 0)
  await fenceGroup(peer, 4)
  strictEqual((await peer.run(OpKind.Read, newer)).error, ErrorCode.StaleGroup)
  strictEqual((await peer.run(OpKind.Read, { ...newer, groupEpoch: 4 })).error, 0)
  await rejects(fenceFamily(peer, 5), isStale(ErrorCode.StaleEpoch))
  await rejects(fenceGroup(peer, 3), isStale(ErrorCode.StaleGroup))
})

test('R3: a read that needs no worker is admitted like any other', async () => {
  const peer = await MemberPeer.create(1)
  Object.assign(peer.store, { readNow: () => 1 })
  const read = (fields: Partial<BlockOp>): number => {
    const where = { kind: OpKind.Read, familyLow: 1, layerLow: 7, blockCount: 1 }
    const op = Object.assign(new BlockOp(), where, fields)
    return peer.service.readNow(op, Buffer.alloc(4096), 0)
  }
  strictEqual(read(epochs), 1)
  await fenceFamily(peer, 6)
  strictEqual(read(epochs), -1)
  strictEqual(read({ ...epochs, fenceEpoch: 6 }), 1)
  await fenceGroup(peer, 4)
  strictEqual(read({ ...epochs, fenceEpoch: 6 }), -1)
  strictEqual(read({ ...epochs, fenceEpoch: 6, groupEpoch: 4 }), 1)
})

test('R3: who asks for chunks is admitted as a reader of each of their groups', async () => {
  const peer = await MemberPeer.create(1)
  strictEqual((await peer.run(OpKind.Write, { ...epochs, sequence: 1, chunk: 9 }, 7)).error, 0)
  const question = { family: FAMILY, layer: LAYER, since: null, first: 0, end: 1000 }
  const ask = async (groups: readonly [number, number][], writerEpoch = 5): Promise<number[]> => {
    const wanted = { shape: { pool: 1, groups: 4 }, wanted: groups, writerEpoch }
    const { data } = await peer.member.call({ call: 'chunks', ...wanted, ...question })
    return [...decodeFound(data).chunks]
  }
  const group = groupOfChunk(0, 1, 9, 4)
  const all = [0, 1, 2, 3].map((each): [number, number] => [each, 3])
  deepStrictEqual(await ask(all), [9])
  deepStrictEqual(await ask(all.filter(([each]) => each !== group)), [])
  await fenceGroup(peer, 4)
  await rejects(ask(all), isStale(ErrorCode.StaleGroup))
  deepStrictEqual(await ask(all.map(([each]) => [each, 4])), [9])
  await fenceFamily(peer, 6)
  await rejects(ask(all.map(([each]) => [each, 4])), isStale(ErrorCode.StaleEpoch))
})

test('R16: a fence is told for how long nobody was confirmed as the writer', async () => {
  const peer = await MemberPeer.create(1)
  const clock = new ManualClock()
  const service = new ShardMemberService(peer.store, peer.arena, peer.fences, clock)
  const from = { peerId: 'a'.repeat(32), bootId: 'b'.repeat(32) }
  const ping = (family: string, writerEpoch: number) =>
    service.call({ call: 'ping', families: [[family, writerEpoch]] }, from)
  const quiet = async (writerEpoch: number): Promise<number> => {
    const { data } = await service.call({ call: 'fenceFamily', family: FAMILY, writerEpoch }, from)
    return decodeQuiet(data)
  }
  clock.nowMs += 300
  strictEqual(await quiet(5), 300, 'this process cannot know of before its start')
  clock.nowMs += 5000
  strictEqual(await quiet(5), 1000)
  await ping(FAMILY, 5)
  clock.nowMs += 40
  await ping('0000000000000002', 5)
  strictEqual(await quiet(6), 40)
  // The old one is told that it is not the writer any more.
  deepStrictEqual((await ping(FAMILY, 5)).fenced, [FAMILY])
  clock.nowMs += 40
  strictEqual(await quiet(7), 80)
  strictEqual(decodeQuiet(Buffer.alloc(0)), 0, 'of a member of an earlier version')
})

test('a newer op raises the bar as a fence does', async () => {
  const peer = await MemberPeer.create(1)
  strictEqual((await peer.run(OpKind.Write, { ...epochs, sequence: 1 }, 7)).error, 0)
  const other = { ...epochs, fenceEpoch: 9, groupEpoch: 9 }
  strictEqual((await peer.run(OpKind.Read, other)).error, 0)
  strictEqual((await peer.run(OpKind.Read, epochs)).error, ErrorCode.StaleEpoch)
  strictEqual(
    (await peer.run(OpKind.Read, { ...epochs, fenceEpoch: 9 })).error,
    ErrorCode.StaleGroup
  )
})

test('a fence is answered once older ops are done, and holds after a restart', async () => {
  const peer = await MemberPeer.create(1)
  const order: string[] = []
  const write = peer.run(OpKind.Write, { ...epochs, sequence: 1 }, 7).then(({ error }) => {
    order.push(`write ${error}`)
  })
  const fence = fenceFamily(peer, 6).then(() => order.push('fence'))
  const late = peer.run(OpKind.Write, { ...epochs, sequence: 2 }, 8)
  strictEqual((await late).error, ErrorCode.StaleEpoch)
  await Promise.all([write, fence])
  deepStrictEqual(order, ['write 0', 'fence'])
  peer.die(true)
  await peer.boot()
  strictEqual((await peer.run(OpKind.Read, epochs)).error, ErrorCode.StaleEpoch)
})

test('R31: what a flush made durable is remembered with the epochs of its writes', async () => {
  const peer = await MemberPeer.create(1)
  strictEqual((await peer.run(OpKind.Write, { ...epochs, sequence: 1 }, 7)).error, 0)
  strictEqual(await new Promise((resolve) => peer.member.flush(resolve)), 0)
  peer.die(true)
  await peer.boot()
  const older = await peer.run(OpKind.Read, { ...epochs, groupEpoch: 2 })
  strictEqual(older.error, ErrorCode.StaleGroup)
})

test('a resync reads under its group epoch alone, and writes nothing', async () => {
  const peer = await MemberPeer.create(1)
  await fenceFamily(peer, 6)
  const op = { ...epochs, fenceEpoch: 0, firstBlock: 0 }
  strictEqual((await peer.run(OpKind.ReadVersions, op)).error, 0)
  strictEqual((await peer.run(OpKind.Read, op)).error, ErrorCode.StaleEpoch)
  strictEqual((await peer.run(OpKind.Write, op)).error, ErrorCode.StaleEpoch)
  await fenceGroup(peer, 9)
  strictEqual((await peer.run(OpKind.ReadVersions, op)).error, ErrorCode.StaleGroup)
})

test('what is no request of a gateway is refused', async () => {
  const peer = await MemberPeer.create(1)
  for (const kind of [OpKind.DeleteLayer, OpKind.Void, OpKind.Compact, OpKind.Flush, 0, 99, 255]) {
    strictEqual((await peer.run(kind, epochs)).error, ErrorCode.InvalidArgument)
  }
})

test('sums of chunks come page by page, in order', async () => {
  const peer = await MemberPeer.create(1)
  for (let chunk = 0; chunk < 40; chunk++) {
    await peer.run(OpKind.Write, { ...epochs, chunk, sequence: chunk + 1 }, 7)
  }
  const hole = { ...epochs, chunk: 99, sequence: 99, flags: OpFlag.KeepHole }
  strictEqual((await peer.run(OpKind.Trim, hole)).error, 0)
  const sums = await peer.member.call({
    ...{ call: 'groupSums', shape, family: FAMILY, withHoles: false }
  })
  strictEqual(sums.data.length, 4 * 16)
  let blocks = 0
  let chunks = 0
  for (let group = 0; group < 4; group++) {
    strictEqual(sums.data.readUInt32LE(group * 16), group)
    blocks += sums.data.readUInt32LE(group * 16 + 4)
    const ask = { call: 'chunkSums', shape, group, family: FAMILY, withHoles: false } as const
    let request: Extract<MemberCall, { call: 'chunkSums' }> = { ...ask, after: null, limit: 3 }
    let last = -1
    for (;;) {
      const { data, more } = await peer.member.call(request)
      for (let at = 0; at < data.length; at += 24) {
        ok(data.readUInt32LE(at + 8) > last)
        last = data.readUInt32LE(at + 8)
        chunks++
      }
      if (more !== true) break
      request = { ...ask, limit: 3, after: { layer: LAYER, chunk: last } }
    }
  }
  strictEqual(blocks, 40)
  strictEqual(chunks, 40)
  const { data } = await peer.member.call({
    ...{ call: 'versions', family: FAMILY, layer: LAYER, chunk: 99 }
  })
  strictEqual(data.readUInt32LE(4), 3)
})

test('R17: versions are given up for the newest writer only, and never come back', async () => {
  const peer = await MemberPeer.create(1)
  const write = { ...epochs, firstBlock: 3, sequence: 2 }
  strictEqual((await peer.run(OpKind.Write, { ...write, sequence: 1 }, 7)).error, 0)
  strictEqual((await peer.run(OpKind.Write, write, 8)).error, 0)
  const { pool, group, groupEpoch, fenceEpoch: writerEpoch } = write
  const where = { pool, group, groupEpoch, family: FAMILY, layer: LAYER, chunk: 0 }
  const entry = { firstBlock: 3, blockCount: 1, writerEpoch, sequence: 2 }
  const call = (epoch: number): Promise<MemberAnswer> =>
    peer.member.call({
      ...{ call: 'void', ...where, writerEpoch: epoch },
      voids: [{ ...entry, floorEpoch: writerEpoch, floorSequence: 1 }]
    })
  await fenceFamily(peer, writerEpoch + 1)
  await rejects(call(writerEpoch), { code: ErrorCode.StaleEpoch })
  await call(writerEpoch + 1)
  const versions = { call: 'versions', family: FAMILY, layer: LAYER, chunk: 0 } as const
  strictEqual((await peer.member.call(versions)).data.length, 0)
  const again = { ...write, fenceEpoch: writerEpoch + 1 }
  strictEqual((await peer.run(OpKind.Write, again, 8)).error, ErrorCode.StaleEpoch)
  strictEqual((await peer.run(OpKind.Write, { ...again, sequence: 1 }, 7)).error, 0)
})

test('a ping names the families that another writer took, and the room', async () => {
  const peer = await MemberPeer.create(1)
  await fenceFamily(peer, 6)
  const { fenced, freeBytes } = await peer.member.call({
    call: 'ping',
    families: [
      [FAMILY, 5],
      ['0000000000000009', 1]
    ]
  })
  deepStrictEqual(fenced, [FAMILY])
  strictEqual(freeBytes, 2 ** 30)
})

test('many fences share writes of their file', async () => {
  const peer = await MemberPeer.create(1)
  const fences: Promise<MemberAnswer>[] = []
  for (let family = 1; family <= 500; family++) {
    const id = family.toString(16).padStart(16, '0')
    fences.push(peer.member.call({ call: 'fenceFamily', family: id, writerEpoch: family }))
  }
  await Promise.all(fences)
  ok(peer.fenceStore.saves <= 3, `${peer.fenceStore.saves} saves`)
  strictEqual(peer.fenceStore.saved.length, 500)
  for (let family = 1; family <= 500; family++)
    strictEqual(peer.fences.familyEpoch(0, family), family)
})

test('admission of an op takes far less than its way through a queue', async () => {
  const peer = await MemberPeer.create(1)
  for (let family = 1; family <= 1000; family++) peer.fences.raiseFamily(0, family, 1)
  const ops = Array.from({ length: 64 }, (_, i) =>
    Object.assign(new BlockOp(), { ...epochs, familyLow: 1 + (i >> 4), group: i & 7 })
  )
  for (let round = 0; round < 2000; round++) for (const op of ops) peer.fences.admit(op, false)
  const start = performance.now()
  const rounds = 10_000
  for (let round = 0; round < rounds; round++) for (const op of ops) peer.fences.admit(op, false)
  const nanoseconds = ((performance.now() - start) * 1e6) / rounds / ops.length
  ok(nanoseconds < 1000, `${nanoseconds} ns`)
  if (process.env['VERBOSE'] !== undefined) console.log(`${nanoseconds} ns an op`)
})

test.run()
