/** A member comes back, or a new one comes, and is made what the members in sync are. */
import { deepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { ShardOp } from '../../src/shard/op.ts'
import type { MemberPeer } from '../helpers/member-peer.ts'
import { MemberCluster } from '../helpers/member-cluster.ts'
import { seededRandom } from '../helpers/shard-rig.ts'

const test = suite('resync')

const CHUNKS = 6
const BLOCKS = 48
const at = (chunk: number, firstBlock: number, blockCount = 1) => ({
  chunk,
  firstBlock,
  blockCount
})
const { Write, Trim, WriteZeroes } = OpKind

/** Holes may be there or not: both read as zeroes. */
const withoutHoles = (held: readonly string[]): string[] =>
  held.map((text) => (text.startsWith('h') ? '' : text))

async function sameHeld(cluster: MemberCluster, one: MemberPeer, other: MemberPeer): Promise<void> {
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    const left = withoutHoles(await cluster.held(one, chunk))
    deepStrictEqual(withoutHoles(await cluster.held(other, chunk)), left, `chunk ${chunk}`)
    const values = await cluster.values(one, chunk, 0, BLOCKS)
    deepStrictEqual(await cluster.values(other, chunk, 0, BLOCKS), values)
  }
}

test('what was written, trimmed and zeroed meanwhile is there after a resync', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  for (let chunk = 0; chunk < CHUNKS; chunk++) await cluster.change(Write, at(chunk, 0, 20), 10)
  await t.flush()
  cluster.kill(t)
  await cluster.change(Write, at(1, 5, 3), 11)
  await cluster.change(Trim, at(2, 0, 20))
  await cluster.change(WriteZeroes, at(3, 2, 4))
  await cluster.change(Write, at(4, 200, 50), 12)
  await cluster.start(t)
  ok(!cluster.isInSync(t))
  const resyncer = await cluster.resync(t)
  ok(cluster.isInSync(t))
  await sameHeld(cluster, s, t)
  deepStrictEqual(await cluster.values(t, 2, 0, 3), [0, 0, 0])
  strictEqual(resyncer.progress.bytesCopied, 53 * 4096)
  strictEqual(resyncer.progress.groupsDone, 4)
  t.die(true)
  await t.boot()
  await sameHeld(cluster, s, t)
})

test('sealed blocks are copied without a key, and open where they come', async () => {
  const cluster = await MemberCluster.create(2)
  cluster.isSealed = true
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  for (let chunk = 0; chunk < CHUNKS; chunk++) await cluster.change(Write, at(chunk, 0, 20), 10)
  cluster.kill(t)
  // Runs of many versions, so that tags of one answer go to many writes.
  for (let block = 0; block < 40; block += 2)
    await cluster.change(Write, at(1, block, 1), block + 1)
  await cluster.change(Write, at(4, 100, 40), 12)
  await cluster.change(Trim, at(4, 120, 3))
  t.keys.close()
  await cluster.start(t)
  await cluster.resync(t)
  const again = t.keys.hold(Buffer.alloc(32, 0x33))
  Object.assign(t, { keySlot: again })
  await sameHeld(cluster, s, t)
  deepStrictEqual(await cluster.values(t, 1, 0, 4), [1, 10, 3, 10])
  deepStrictEqual(await cluster.values(t, 4, 118, 6), [12, 12, 0, 0, 0, 12])
  // Nothing was written in the clear.
  Object.assign(t, { keySlot: 0 })
  ok((await cluster.values(t, 4, 100, 20)).some((value) => value !== 12))
})

test('a write that nobody else has never comes back, nor what it replaced', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(0, 0, 8), 10)
  await Promise.all([s.flush(), t.flush()])
  // Nobody was told of these: the gateway dies while they are on their way.
  await cluster.change(Write, at(0, 2), 66, t)
  await cluster.change(Write, at(0, 2), 67, t)
  await cluster.change(Trim, at(0, 3), 0, t)
  await cluster.change(Write, at(0, 30), 68, t)
  await t.flush()
  cluster.kill(t, false)
  cluster.families[0] = { ...cluster.families[0]!, writerEpoch: 2, settledEpoch: 2 }
  await cluster.change(Write, at(0, 5), 12)
  await cluster.start(t)
  const resyncer = await cluster.resync(t)
  ok(cluster.isInSync(t))
  strictEqual(resyncer.voidedBlocks, 3)
  for (let boot = 0; boot < 3; boot++) {
    await sameHeld(cluster, s, t)
    deepStrictEqual(await cluster.values(t, 0, 2, 4), [10, 10, 10, 12])
    deepStrictEqual(await cluster.values(t, 0, 30, 1), [0])
    t.die(boot === 0)
    await t.boot()
  }
})

test('what the present writer may still bring to the source is left alone', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(0, 0, 8), 10)
  cluster.kill(t)
  await cluster.start(t)
  await cluster.change(Write, at(0, 2), 11, t)
  await cluster.resync(t)
  deepStrictEqual(await cluster.values(t, 0, 2, 1), [11])
  deepStrictEqual(await cluster.values(s, 0, 2, 1), [10])
})

test('a takeover in the middle settles what only the target has, before it counts', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(0, 0, 8), 10)
  cluster.kill(t)
  await cluster.start(t)
  await cluster.change(Write, at(0, 2), 11, t)
  cluster.cut = (what) => {
    if (what === 'versions' && cluster.writerEpoch === 1) {
      cluster.families[0] = { ...cluster.families[0]!, writerEpoch: 2, settledEpoch: 2 }
    }
    return false
  }
  const resyncer = await cluster.resync(t)
  strictEqual(resyncer.voidedBlocks, 1)
  await sameHeld(cluster, s, t)
})

test('a new member gets the holes too, lest an old copy shows what they hide', async () => {
  const cluster = await MemberCluster.create(3)
  const [s, t, u] = cluster.peers as [MemberPeer, MemberPeer, MemberPeer]
  cluster.kill(t)
  await cluster.change(Write, at(0, 0, 8), 10)
  await Promise.all([s.flush(), u.flush()])
  cluster.kill(u)
  await cluster.change(Trim, at(0, 0, 8))
  await cluster.start(t)
  await cluster.resync(t)
  ok((await cluster.held(t, 0))[3]!.startsWith('h'), 'the hole came along')
  cluster.kill(s)
  await cluster.start(u)
  deepStrictEqual(await cluster.values(u, 0, 0, 2), [10, 10])
  await cluster.resync(u)
  ok(cluster.isInSync(u))
  deepStrictEqual(await cluster.values(u, 0, 0, 2), [0, 0])
})

test('what was sent before the target was listed is refused once sums are compared', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(0, 0, 8), 10)
  cluster.kill(t)
  const group = groupOfChunk(0, 1, 0, 4)
  const groupEpoch = cluster.records[group]!.record.epoch
  await cluster.start(t)
  const late: Promise<number>[] = []
  cluster.cut = (what) => {
    if (what !== 'groupSums') return false
    const old = { pool: 1, group, groupEpoch, fenceEpoch: 1, writerEpoch: 1, sequence: 5000 }
    late.push(s.run(Write, old, 99).then(({ error }) => error))
    return false
  }
  await cluster.resync(t)
  deepStrictEqual(await Promise.all(late), [ErrorCode.StaleGroup])
  await sameHeld(cluster, s, t)
})

test('deletions are applied before anything is compared', async () => {
  const cluster = await MemberCluster.create(2)
  const [, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(0, 0, 8), 10)
  cluster.kill(t)
  await cluster.start(t)
  const order: string[] = []
  cluster.cut = (what) => {
    order.push(`${what} after ${cluster.deletions}`)
    return false
  }
  await cluster.resync(t)
  ok(order.includes('groupSums after 1'), order.join())
  ok(!order.some((step) => step.endsWith('after 0')))
})

test('a volume deleted at the source in the middle is not voided here', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(0, 0, 8), 10)
  await t.flush()
  cluster.kill(t)
  await cluster.change(Write, at(0, 0, 1), 11)
  cluster.families[0] = { ...cluster.families[0]!, writerEpoch: 2, settledEpoch: 2 }
  await cluster.start(t)
  cluster.cut = (what) => {
    if (what !== 'versions') return false
    const op = Object.assign(new ShardOp(), { kind: OpKind.DeleteLayer, familyLow: 1, layerLow: 7 })
    s.store.broadcast(op, () => {})
    cluster.families.length = 0
    return false
  }
  const resyncer = await cluster.resync(t)
  strictEqual(resyncer.voidedBlocks, 0)
  ok(cluster.isInSync(t))
})

test('a source that is lost in the middle is replaced by another', async () => {
  const cluster = await MemberCluster.create(3)
  const [s, t, u] = cluster.peers as [MemberPeer, MemberPeer, MemberPeer]
  cluster.kill(t)
  for (let chunk = 0; chunk < CHUNKS; chunk++) await cluster.change(Write, at(chunk, 0, 40), chunk)
  await cluster.start(t)
  let ops = 0
  let killed = false
  cluster.cut = (what, to) => {
    if (what === 'op' && ++ops === 3 && !killed) {
      killed = true
      cluster.kill(to)
      return true
    }
    return false
  }
  await cluster.resync(t)
  ok(killed && cluster.isInSync(t))
  await sameHeld(cluster, cluster.up.has(s) ? s : u, t)
})

test('a block that the source cannot read comes from another member, with the others', async () => {
  const cluster = await MemberCluster.create(3)
  const [s, t, u] = cluster.peers as [MemberPeer, MemberPeer, MemberPeer]
  cluster.kill(t)
  await cluster.change(Write, at(0, 0, 40), 10)
  await cluster.start(t)
  s.damage()
  await cluster.resync(t)
  await sameHeld(cluster, u, t)
  const alone = await MemberCluster.create(2)
  const [only, back] = alone.peers as [MemberPeer, MemberPeer]
  alone.kill(back)
  await alone.change(Write, at(0, 0, 40), 10)
  await alone.start(back)
  only.damage()
  const resyncer = alone.resyncerOf(back)
  resyncer.want({ pool: 1, groups: 4 }, groupOfChunk(0, 1, 0, 4))
  const endMs = Date.now() + 10_000
  while (alone.log.length === 0 && Date.now() < endMs) await new Promise(setImmediate)
  resyncer.close()
  ok(!alone.isInSync(back), 'what it would read instead is older')
  ok(String(alone.log[0]!.fields['why']).includes('chunk 0 block'), JSON.stringify(alone.log))
})

test('a target that dies in the middle goes on where it was', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  cluster.kill(t)
  for (let chunk = 0; chunk < CHUNKS; chunk++) await cluster.change(Write, at(chunk, 0, 40), chunk)
  await cluster.start(t)
  let ops = 0
  cluster.cut = (what) => {
    if (what === 'op' && ++ops === 4) {
      t.die(false)
      cluster.up.delete(t)
    }
    return ops >= 4
  }
  const resyncer = cluster.resyncerOf(t)
  for (let group = 0; group < 4; group++) resyncer.want({ pool: 1, groups: 4 }, group)
  const endMs = Date.now() + 10_000
  while (cluster.up.has(t) && Date.now() < endMs) await new Promise(setImmediate)
  resyncer.close()
  for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate)
  cluster.cut = () => false
  await cluster.start(t)
  ok(!cluster.isInSync(t))
  const again = await cluster.resync(t)
  ok(again.progress.bytesCopied < CHUNKS * 40 * 4096, 'some of it was there')
  await sameHeld(cluster, s, t)
})

test('R28: nothing is copied behind the fence under which a copy is given back', async () => {
  const cluster = await MemberCluster.create(2)
  const [, t] = cluster.peers as [MemberPeer, MemberPeer]
  cluster.kill(t)
  await cluster.change(Write, at(0, 0, 8), 10)
  await cluster.start(t)
  const group = groupOfChunk(0, 1, 0, 4)
  let turns = 0
  cluster.cut = (what) => {
    if (what === 'versions') turns++
    // The record names it no more; what is read now comes after that.
    if (what === 'op' && turns === 1) t.fences.raiseGroup(1, group, 99)
    return false
  }
  const resyncer = cluster.resyncerOf(t)
  resyncer.want({ pool: 1, groups: 4 }, group)
  const endMs = Date.now() + 10_000
  while (turns < 2 && Date.now() < endMs) await new Promise(setImmediate)
  resyncer.close()
  for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate)
  ok(turns > 1, 'it looks at its group again')
  deepStrictEqual([...new Set(await cluster.held(t, 0))], [''])
})

test('a group whose record changes meanwhile is looked at again before it counts', async () => {
  const cluster = await MemberCluster.create(2)
  const [s, t] = cluster.peers as [MemberPeer, MemberPeer]
  await cluster.change(Write, at(0, 0, 8), 10)
  cluster.kill(t)
  await cluster.change(Write, at(0, 1, 2), 11)
  await cluster.start(t)
  let changes = 0
  cluster.cut = (what) => {
    if (what !== 'groupSums' || changes++ > 0) return false
    // Out of the groups and in again: a write in between reaches the source alone.
    for (const known of cluster.records) {
      void cluster.groups.change(1, cluster.records.indexOf(known), known, known!.record)
    }
    void cluster.change(Write, at(0, 4), 12, s)
    return false
  }
  await cluster.resync(t)
  ok(cluster.isInSync(t))
  ok(changes > 1)
  await sameHeld(cluster, s, t)
})

const seed = Number(process.env['SEED'] ?? 1)
const seeds = Number(process.env['SEEDS'] ?? 25)

/** Random work with members that go and come; a block's value at all times is the last one told. */
async function runHistory(number: number): Promise<void> {
  const random = seededRandom(number)
  const cluster = await MemberCluster.create(3, number)
  cluster.isSealed = number % 2 === 0
  const model = Array.from({ length: CHUNKS }, () => new Array<number>(BLOCKS).fill(0))
  let value = 0
  const work = async (only: MemberPeer | null): Promise<void> => {
    const chunk = random.below(CHUNKS)
    const first = random.below(BLOCKS)
    const count = 1 + random.below(Math.min(12, BLOCKS - first))
    const kind = [Write, Write, Write, Trim, WriteZeroes][random.below(5)]!
    value = (value % 250) + 1
    await cluster.change(kind, at(chunk, first, count), value, only)
    if (only === null) model[chunk]!.fill(kind === Write ? value : 0, first, first + count)
  }
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 15; i++) await work(null)
    if (random.below(2) === 0) await Promise.all([...cluster.up].map((peer) => peer.flush()))
    const away = cluster.peers[random.below(3)]!
    // What only the one that goes has was never acknowledged: the gateway goes with it.
    const lost = random.below(5)
    for (let i = 0; i < lost; i++) await work(away)
    if (random.below(2) === 0) await away.flush()
    cluster.kill(away, random.below(2) === 0)
    if (lost > 0) {
      const writerEpoch = cluster.writerEpoch + 1
      cluster.families[0] = { ...cluster.families[0]!, writerEpoch, settledEpoch: writerEpoch }
    }
    for (let i = 0; i < 15; i++) await work(null)
    await cluster.start(away)
    const resync = cluster.resync(away)
    for (let i = 0; i < 6; i++) {
      await work(null)
      await new Promise(setImmediate)
    }
    await resync
    ok(cluster.isInSync(away))
    const others = [...cluster.up].filter((peer) => peer !== away)
    for (const peer of others) await sameHeld(cluster, peer, away)
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      deepStrictEqual(await cluster.values(away, chunk, 0, BLOCKS), model[chunk], `chunk ${chunk}`)
    }
  }
}

test(`members are equal after any history (SEED=${seed}, ${seeds} of them)`, async () => {
  for (let number = seed; number < seed + seeds; number++) {
    try {
      await runHistory(number)
    } catch (thrown) {
      throw new Error(`SEED=${number}: ${(thrown as Error).stack}`, { cause: thrown })
    }
  }
})

test.run()
