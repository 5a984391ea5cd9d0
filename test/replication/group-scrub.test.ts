/** Members of groups are compared, and repaired from each other, without a client that reads. */
import { deepStrictEqual, notDeepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { nextLayerLow } from '../../src/core/layer-ids.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { OpFlag, OpKind } from '../../src/replication/block-store.ts'
import type { GroupScrub } from '../../src/replication/group-scrub.ts'
import { hexOf } from '../../src/shard/block-reader.ts'
import { ShardOp } from '../../src/shard/op.ts'
import { MemberCluster } from '../helpers/member-cluster.ts'
import type { MemberPeer } from '../helpers/member-peer.ts'

const test = suite('group scrub')

const { Write, Trim } = OpKind
const CHUNKS = 4
const at = (chunk: number, firstBlock: number, blockCount = 1) => ({
  chunk,
  firstBlock,
  blockCount
})

/** Enough for sealed segments on each shard, which are what shards scrub. */
async function filled(count: number, isSealed = false): Promise<MemberCluster> {
  const cluster = await MemberCluster.create(count)
  cluster.isSealed = isSealed
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    for (let first = 0; first < 192; first += 48) {
      await cluster.change(Write, at(chunk, first, 48), 10 + chunk)
    }
  }
  return cluster
}

async function scrubShards(peer: MemberPeer): Promise<void> {
  const op = Object.assign(new ShardOp(), { kind: OpKind.Scrub })
  peer.store.broadcast(op, () => {})
  const isOver = () => peer.log.filter(({ message }) => message.includes('round')).length >= 2
  for (let i = 0; i < 10_000 && !isOver(); i++) {
    peer.store.ring()
    await new Promise((resolve) => setImmediate(resolve))
  }
  ok(isOver(), 'the scrub of the shards ends')
}

async function mended(scrub: GroupScrub): Promise<number> {
  for (let i = 0; i < 400 && (scrub.progress.mended === 0 || scrub.progress.damaged > 0); i++) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  scrub.close()
  return scrub.progress.mended
}

const isGood = async (cluster: MemberCluster, peer: MemberPeer): Promise<void> => {
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    const values = await cluster.values(peer, chunk, 0, 144)
    ok(values.every((value) => value === 10 + chunk))
  }
}

for (const isSealed of [false, true]) {
  const what = isSealed ? 'sealed blocks' : 'blocks'
  test(`${what} that are damaged on disk come back from another member, unread`, async () => {
    const cluster = await filled(2, isSealed)
    const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
    t.keys.close()
    const versions = await cluster.held(t, 0)
    t.damage()
    await scrubShards(t)
    const blocks = await mended(cluster.scrubOf(t))
    ok(blocks > 300, `${blocks} blocks`)
    if (isSealed) Object.assign(t, { keySlot: t.keys.hold(Buffer.alloc(32, 0x33)) })
    deepStrictEqual(await cluster.held(t, 0), versions)
    // The segments that took writes then are sealed now.
    t.log.length = 0
    await scrubShards(t)
    await mended(cluster.scrubOf(t))
    cluster.kill(s, false)
    await isGood(cluster, t)
  })
}

test('what a read finds damaged below its layer comes back, unscrubbed', async () => {
  const cluster = await filled(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  const [middle, head] = [nextLayerLow(7), nextLayerLow(nextLayerLow(7))]
  for (const [i, layerLow] of [middle, head].entries()) {
    for (const peer of cluster.peers) {
      const { record } = cluster.records[groupOfChunk(0, 1, 2, 4)]!
      const fields = { ...at(2, 24 + 3 * i, 2), layerLow, pool: 1, groupEpoch: record.epoch }
      const version = { fenceEpoch: 1, writerEpoch: 1, sequence: 1000 + i }
      strictEqual((await peer.run(Write, { ...fields, ...version }, 60 + i)).error, 0)
    }
  }
  const read = async (peer: MemberPeer, firstBlock: number, blockCount: number) => {
    const { record } = cluster.records[groupOfChunk(0, 1, 2, 4)]!
    const under = { layerLow: head, pool: 1, groupEpoch: record.epoch, fenceEpoch: 1 }
    const op = await peer.run(OpKind.Read, { ...at(2, firstBlock, blockCount), ...under })
    return [op.error, ...peer.arena.bytes.subarray(op.payload, op.payload + blockCount * 4096)]
  }
  t.damage()
  for (const [first, count] of [
    [20, 12],
    [20, 12],
    [100, 2]
  ] as const) {
    strictEqual((await read(t, first, count))[0], ErrorCode.ChecksumMismatch)
  }
  // Each once, though it was read twice: 2 of each upper layer, the rest of the lowest.
  strictEqual(await mended(cluster.scrubOf(t)), 12 + 2)
  const places = cluster.log.filter(({ message }) => message.includes('were repaired'))
  const layers = new Set(places.map(({ fields }) => fields['layer']))
  deepStrictEqual(
    [...layers].sort(),
    [7, middle, head].map((low) => hexOf(0, low))
  )
  for (const [first, count] of [
    [20, 12],
    [100, 2]
  ] as const) {
    const bytes = await read(t, first, count)
    strictEqual(bytes[0], 0)
    deepStrictEqual(bytes, await read(s, first, count))
  }
  strictEqual((await read(t, 110, 1))[0], ErrorCode.ChecksumMismatch, 'nobody read it')
})

test('damage where nobody else has the block is named', async () => {
  const cluster = await filled(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  cluster.kill(t, false)
  s.damage()
  await scrubShards(s)
  const scrub = cluster.scrubOf(s)
  for (let i = 0; i < 400 && scrub.progress.damaged === 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  scrub.close()
  strictEqual(scrub.progress.mended, 0)
  ok(scrub.progress.damaged > 300)
  const named = cluster.log.find(({ message }) => message.includes('not repaired'))
  strictEqual(named?.fields['family'], '0000000000000001')
  ok(typeof named.fields['block'] === 'number')
})

test('a write that a member lost is found, named and repaired', async () => {
  const cluster = await filled(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(1, 5, 3), 77, s)
  await cluster.change(Write, at(2, 150, 60), 88, t)
  await cluster.change(Trim, at(3, 0, 2), 0, t)
  const scrub = cluster.scrubOf(s)
  await cluster.compare(scrub)
  const { differences, repaired } = scrub.progress
  strictEqual(differences, 3 + 60 + 2)
  strictEqual(repaired, differences)
  for (const peer of [s, t]) {
    deepStrictEqual(await cluster.values(peer, 1, 4, 5), [11, 77, 77, 77, 11])
    deepStrictEqual(await cluster.values(peer, 2, 208, 3), [88, 88, 0])
    deepStrictEqual(await cluster.values(peer, 3, 0, 3), [0, 0, 13])
  }
  const named = cluster.log.filter(({ message }) => message.includes('differed'))
  ok(named.some(({ fields }) => fields['chunk'] === 1 && fields['block'] === 5))
  const again = cluster.scrubOf(s)
  await cluster.compare(again)
  strictEqual(again.progress.differences, 0)
  strictEqual(again.progress.groupsCompared, 4)
})

/** A member has other bytes under the version that the others have, with a checksum to them. */
async function corrupt(
  cluster: MemberCluster,
  peer: MemberPeer,
  value: number,
  keySlot = 0
): Promise<void> {
  const [, epoch, sequence] = /d(\d+)\.(\d+)/.exec((await cluster.held(peer, 0))[7]!)!
  const { record } = cluster.records[groupOfChunk(0, 1, 0, 4)]!
  const fields = {
    ...{ chunk: 0, firstBlock: 7, pool: 1, group: groupOfChunk(0, 1, 0, 4), fenceEpoch: 1 },
    ...{ groupEpoch: record.epoch, writerEpoch: Number(epoch), sequence: Number(sequence) },
    keySlot
  }
  strictEqual((await peer.run(Write, fields, value)).error, 0)
}

test('other bytes of one version: what most have is right, of two what the first has', async () => {
  for (const count of [2, 3]) {
    const cluster = await filled(count)
    const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
    // Of three the first one is wrong.
    await corrupt(cluster, count === 3 ? s : t, 99)
    const scrub = cluster.scrubOf(s)
    await cluster.compare(scrub)
    strictEqual(scrub.progress.differences, 1)
    strictEqual(scrub.progress.repaired, 1)
    for (const peer of cluster.peers) {
      deepStrictEqual(await cluster.values(peer, 0, 6, 3), [10, 10, 10])
    }
  }
})

test('of two sealed blocks in one version neither is copied, of three the odd one', async () => {
  for (const count of [2, 3]) {
    const cluster = await filled(count, true)
    const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
    // Whoever has its disk put a block there that does not open, with its checksum.
    await corrupt(cluster, s, 99, s.keys.hold(Buffer.alloc(32, 0x44)))
    const scrub = cluster.scrubOf(s)
    await cluster.compare(scrub)
    strictEqual(scrub.progress.differences, 1)
    strictEqual(scrub.progress.repaired, count === 3 ? 1 : 0)
    const named = cluster.log.find(({ message }) => message.includes('differed'))
    deepStrictEqual(named?.fields['right'], count === 3 ? [t.peerId, '3'.padStart(32, '0')] : [])
    strictEqual(named?.fields['block'], 7)
    for (const peer of cluster.peers.slice(count === 3 ? 0 : 1)) {
      deepStrictEqual(await cluster.values(peer, 0, 6, 3), [10, 10, 10])
    }
  }
})

test('a sealed block that was put back with its version is found, and goes', async () => {
  const cluster = await filled(2, true)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  // Written at one alone: the other's disk has what was there before.
  await cluster.change(Write, at(1, 5), 77, t)
  const older = await cluster.held(s, 1)
  const scrub = cluster.scrubOf(s)
  await cluster.compare(scrub)
  deepStrictEqual([scrub.progress.differences, scrub.progress.repaired], [1, 1])
  notDeepStrictEqual(await cluster.held(s, 1), older)
  for (const peer of [s, t]) {
    deepStrictEqual(await cluster.values(peer, 1, 4, 3), [11, 77, 11])
  }
})

// A mark needs no key, so whoever has a disk, or is a member, can make one up that is newer.
test('a trim that a member made up is believed, and data in its place is not', async () => {
  const cluster = await filled(2, true)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Trim, at(2, 3), 0, t)
  const scrub = cluster.scrubOf(s)
  await cluster.compare(scrub)
  for (const peer of [s, t]) {
    deepStrictEqual(await cluster.values(peer, 2, 2, 3), [12, 0, 12])
  }
})

test('what is on its way to a member is no difference', async () => {
  const cluster = await filled(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  let late = 0
  cluster.cut = (what) => {
    if (what !== 'versions') return false
    // At each look there is something that only one of them has yet.
    late++
    void cluster.change(Write, at(0, late), 50, s)
    return false
  }
  await cluster.change(Write, at(0, 0), 50, s)
  const scrub = cluster.scrubOf(s)
  const compared = cluster.compare(scrub)
  while (late === 0) await new Promise((resolve) => setTimeout(resolve, 1))
  await cluster.change(Write, at(0, 0), 51)
  await compared
  ok(late >= 2)
  ok(cluster.log.every(({ fields }) => fields['block'] !== 0 && fields['block'] !== late))
  void t
})

test('nothing is copied in groups that somebody joins, nor while a volume moves', async () => {
  const cluster = await filled(3)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(1, 5), 77, s)
  cluster.families[0] = { ...cluster.families[0]!, writerEpoch: 2 }
  const one = cluster.scrubOf(s)
  await cluster.compare(one)
  strictEqual(one.progress.differences, 0)
  cluster.families[0] = { ...cluster.families[0]!, settledEpoch: 2 }
  cluster.kill(t, false)
  await cluster.start(t)
  const two = cluster.scrubOf(s)
  await cluster.compare(two)
  strictEqual(two.progress.groups, 0)
})

test('a takeover in the middle ends it: members refuse what it would copy', async () => {
  const cluster = await filled(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(1, 5), 77, s)
  let looks = 0
  cluster.cut = (what) => {
    if (what !== 'versions' || ++looks < 2) return false
    for (const peer of cluster.peers) peer.fences.raiseFamily(0, 1, 2)
    return false
  }
  const scrub = cluster.scrubOf(s)
  await cluster.compare(scrub)
  ok(looks >= 2)
  strictEqual(scrub.progress.repaired, 0)
  deepStrictEqual(await cluster.values(t, 1, 5, 1), [11])
})

test('a block that changed since it was read stays as it is', async () => {
  const cluster = await filled(2)
  const [s] = cluster.peers as [MemberPeer, MemberPeer]
  const write = (sequence: number, value: number, flags: number) =>
    s.run(
      Write,
      { ...at(0, 0), pool: 1, groupEpoch: 99, fenceEpoch: 1, writerEpoch: 1, sequence, flags },
      value
    )
  const held = async () => (await cluster.held(s, 0))[0]
  const before = await held()
  const answers = await Promise.all([write(1000, 60, 0), write(999, 61, OpFlag.SameVersion)])
  deepStrictEqual(
    answers.map(({ error }) => error),
    [0, 17]
  )
  strictEqual(await held(), 'd1.1000')
  ok(before !== 'd1.1000')
  strictEqual((await write(1000, 62, OpFlag.SameVersion)).error, 0)
  deepStrictEqual(await cluster.values(s, 0, 0, 1), [62])
  await cluster.change(Trim, at(1, 0), 0)
  const absent = { ...at(1, 0), pool: 1, groupEpoch: 99, fenceEpoch: 1, writerEpoch: 1 }
  const fields = { ...absent, sequence: 3, flags: OpFlag.SameVersion }
  strictEqual((await s.run(Write, fields, 9)).error, 17)
})

test.run()
