/** Members that are slow, or full, in simulated time. */
import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { heldByMembers } from './held.ts'
import { setState } from './mover.ts'
import type { SimPeer } from './peer.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'
import { every, holdWrites, isIn } from './scenario.ts'
import { CHUNK_BLOCKS_USED, CHUNKS, type Session, type SimVolume } from './volume.ts'

/** Patience with a member, a tick, and the read at the other one… */
const MOVED_MS = 1130
/** …before the member goes on and answers, and before its link would be given up. */
const STOPPED_MS = 1150
const LIMIT_MS = 5000

test('reads at a member that stopped go to another one; its late answers harm nobody', async () => {
  // One more peer than copies: half of the groups have none at the gateway.
  const sim = new QuietCluster({ peers: 4, copies: 3 })
  const { world } = sim
  const { volume, session } = await sim.open()
  sim.peers[1]!.boot!.process.stop(STOPPED_MS)
  sim.peers[2]!.boot!.process.stop(700)
  const { arena } = session.boot
  const free = arena.pagesFree
  for (let i = 0; i < 3 * REQUESTS; i++) volume.read(session)
  await sim.ended(session, MOVED_MS)
  await world.runUntil(world.nowMs + 1000)
  strictEqual(arena.pagesFree, free)
  strictEqual(sim.errors.length, 0)
})

function setFree(session: Session, peerId: string, freeBytes: number): void {
  for (const boot of session.boot.store!.boots.all()) {
    if (boot.peerId === peerId) boot.freeBytes = freeBytes
  }
}

test('a full member leaves and writes go on; when all are full they are refused', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 3 })
  const { world, peers } = sim
  const { volume, session } = await sim.open()
  setFree(session, peers[1]!.peerId, 0)
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, LIMIT_MS)
  strictEqual(sim.errors.length, 0)
  for (const { inSync } of sim.groups().values()) {
    ok(!inSync.some(({ peer }) => peer === peers[1]!.peerId), 'it has left')
  }
  // One would be left, and two have to have it.
  setFree(session, peers[2]!.peerId, 0)
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, 100)
  strictEqual(sim.errors.length, REQUESTS)
  ok(sim.errors.every((error) => error === ErrorCode.OutOfSpace))
  for (const { inSync } of sim.groups().values()) {
    ok(
      inSync.some(({ peer }) => peer === peers[2]!.peerId),
      'it stays'
    )
  }
  setFree(session, peers[2]!.peerId, Number.POSITIVE_INFINITY)
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  volume.read(session)
  await sim.ended(session, LIMIT_MS)
  strictEqual(sim.errors.length, REQUESTS)
  await world.runUntil(world.nowMs + 1000)
})

/** A group's copy moves to another member, and back. */
const MOVES_MS = 6000

/** Longer than a member may leave a write unanswered. */
const STANDSTILL_MS = 8000

const epochsOf = (sim: QuietCluster): number[] => [...sim.groups().values()].map((g) => g.epoch)

test('R7: a member that left and came back is sent again what it acknowledged', async () => {
  const sim = new QuietCluster({ peers: 4, copies: 2 })
  const { world, peers } = sim
  const { volume, session } = await sim.open()
  const [gateway] = peers as [SimPeer]
  setState(sim, gateway, 'drained')
  await every(sim, 'it has nothing', (record) => !isIn(record, gateway))
  const [group, { inSync }] = [...sim.groups()][0]!
  const peerOf = (at: number): SimPeer => peers.find(({ peerId }) => peerId === inSync[at]!.peer)!
  const [first, leaves] = [peerOf(0), peerOf(1)]
  const other = peers.find((peer) => ![gateway, first, leaves].includes(peer))!
  const chunks = Array.from({ length: CHUNKS }, (_, each) => each)
  const chunk = chunks.find((each) => volume.groupOf(each * CHUNK_BLOCKS_USED) === group)!
  // All but the first have it: it is not acknowledged.
  const release = holdWrites(first)
  volume.write(session, OpKind.Write, { chunk, first: 0, count: 2 })
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 20)
  // Nor does the gateway take the first out: it stands still.
  session.boot.process.stop(MOVES_MS)
  const wakesMs = world.nowMs + MOVES_MS
  const has = (peer: SimPeer) => (): boolean => isIn(sim.groups().get(group)!, peer)
  setState(sim, leaves, 'drained')
  await world.runFor(LIMIT_MS, 'it left', () => has(other)() && !has(leaves)())
  setState(sim, leaves, 'active')
  setState(sim, other, 'drained')
  await world.runFor(LIMIT_MS, 'it is back', () => has(leaves)() && !has(other)())
  ok(world.nowMs < wakesMs)
  await world.runUntil(wakesMs + 100)
  strictEqual(session.inFlight, 1)
  release()
  await sim.ended(session, LIMIT_MS)
  await heldByMembers(sim, (_, [one, another]) => deepStrictEqual(another, one))
})

test('a gateway that stood still blames no member for that', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 3 })
  const { world, peers, network } = sim
  const { volume, session } = await sim.open()
  const before = epochsOf(sim)
  // Its own disk answers before it stops, the others after that.
  network.slowMs.set(peers[1]!.name, 300)
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 10)
  peers[0]!.boot!.process.stop(STANDSTILL_MS)
  network.slowMs.clear()
  await world.runUntil(world.nowMs + STANDSTILL_MS + LIMIT_MS)
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, LIMIT_MS)
  deepStrictEqual(epochsOf(sim), before)
})

test('R8: nothing is acknowledged without a member before the record says so', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 3 })
  const { world, peers, network } = sim
  const { volume, session } = await sim.open()
  const { store } = session.boot
  const acknowledged = volume.acknowledged
  network.cut(peers[0]!.name, 'metadata')
  const groups = [...store!.allGroups()]
  for (const group of groups) {
    const boot = group.targets.find(({ peerId }) => peerId === peers[1]!.peerId)!
    store!.failBoot(group, boot, ErrorCode.DiskFailure)
  }
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  store!.ring()
  await world.runUntil(world.nowMs + 500)
  for (const group of groups) store!.reconcile(group)
  await world.runUntil(world.nowMs + 500)
  strictEqual(volume.acknowledged, acknowledged)
  network.healAll()
  await sim.ended(session, LIMIT_MS)
  strictEqual(volume.acknowledged, acknowledged + REQUESTS)
  const left = [...sim.groups().values()].map(({ inSync }) => inSync.map(({ peer }) => peer))
  ok(left.every((inSync) => !inSync.includes(peers[1]!.peerId)))
})

/** A gateway that does not hear that a second member came in sync, and the first one. */
async function behindItsRecord(): Promise<{
  sim: QuietCluster
  volume: SimVolume
  session: Session
  known: SimPeer
  range: { chunk: number; first: number; count: number }
}> {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { world, peers, network } = sim
  const { volume, session: first } = await sim.open()
  const [group, before] = [...sim.groups()][0]!
  const isMember = ({ peerId }: SimPeer): boolean =>
    before.inSync.some(({ peer }) => peer === peerId)
  const gateway = peers.find((peer) => !isMember(peer))!
  const [stays, leaves] = peers.filter(isMember) as [SimPeer, SimPeer]
  volume.release(first)
  const session = await sim.openAt(peers.indexOf(gateway), volume)
  const chunks = Array.from({ length: CHUNKS }, (_, chunk) => chunk)
  const chunk = chunks.find((each) => volume.groupOf(each * CHUNK_BLOCKS_USED) === group)!
  const range = { chunk, first: 0, count: 1 }
  const record = (): GroupRecord => sim.groups().get(group)!
  leaves.crash(false)
  volume.write(session, OpKind.Write, range)
  await sim.ended(session, LIMIT_MS)
  leaves.start()
  await world.runFor(LIMIT_MS, 'it is back', () => record().syncing.length > 0)
  await world.runUntil(world.nowMs + 20)
  network.cut('metadata', gateway.name)
  await world.runFor(LIMIT_MS, 'it is in sync', () => record().inSync.length === 2)
  volume.write(session, OpKind.Write, range)
  await sim.ended(session, LIMIT_MS)
  return { sim, volume, session, known: stays, range }
}

async function waitsForTheRecord(sim: QuietCluster, session: Session): Promise<void> {
  session.boot.store!.ring()
  await sim.world.runUntil(sim.world.nowMs + 500)
  strictEqual(session.inFlight, 1)
  sim.network.healAll()
  await sim.ended(session, LIMIT_MS)
  strictEqual(sim.errors.length, 0)
}

test('R11: a flush is not failed by those that an old record has in sync', async () => {
  const { sim, volume, session, known } = await behindItsRecord()
  known.disk.fail('sync')
  volume.flush(session)
  await waitsForTheRecord(sim, session)
})

test('R10: nor is a read of what is damaged there', async () => {
  const { sim, volume, session, known, range } = await behindItsRecord()
  for (let i = 0; i < 200; i++) known.disk.flipBits(false)
  volume.read(session, range)
  await waitsForTheRecord(sim, session)
})

test('a member that failed under one writer is not taken out by the next one here', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 3 })
  const { world, peers, network } = sim
  const { volume, session } = await sim.open()
  const before = epochsOf(sim)
  const { store } = session.boot
  network.cut(peers[0]!.name, 'metadata')
  for (const group of store!.allGroups()) {
    const boot = group.targets.find(({ peerId }) => peerId === peers[1]!.peerId)!
    store!.failBoot(group, boot, ErrorCode.DiskFailure)
  }
  await world.runUntil(world.nowMs + 500)
  for (const family of store!.families()) store!.fence(family)
  network.healAll()
  await world.runUntil(world.nowMs + 2 * LIMIT_MS)
  volume.open(peers[0]!.boot!, false)
  await world.runFor(LIMIT_MS, 'it is open again', () => volume.live.length > 0)
  const [next] = volume.live
  for (let i = 0; i < REQUESTS; i++) volume.write(next!, OpKind.Write)
  await sim.ended(next!, LIMIT_MS)
  deepStrictEqual(epochsOf(sim), before)
})

test.run()
