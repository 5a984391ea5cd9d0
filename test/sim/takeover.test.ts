/**
 * R15: what a writer sent before it was replaced, and comes after that, changes nothing. R17: what
 * one that takes its lease anew sends again counts, whoever looks at members meanwhile.
 */
import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { OpKind } from '../../src/replication/block-store.ts'
import { heldByMembers } from './held.ts'
import { type SimPeer, TTL_MS } from './peer.ts'
import { QuietCluster } from './quiet.ts'
import { change, every, holdWrites, isIn, LIMIT_MS, readAll } from './scenario.ts'
import { setState } from './mover.ts'
import { CHUNK_BLOCKS_USED, CHUNKS } from './volume.ts'

test('a member that was told nothing else of the new writer refuses the old one', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { network, peers, world } = sim
  const { volume } = await sim.open()
  const [group, record] = [...sim.groups()][0]!
  const isIn = ({ peerId }: SimPeer): boolean => record.inSync.some(({ peer }) => peer === peerId)
  // One that is no member: it does not have to leave.
  const at = peers.findIndex((peer) => !isIn(peer))
  const [next, late] = peers.filter(isIn) as [SimPeer, SimPeer]
  const old = await sim.openAt(at, volume)
  const chunks = Array.from({ length: CHUNKS }, (_, chunk) => chunk)
  const chunk = chunks.find((each) => volume.groupOf(each * CHUNK_BLOCKS_USED) === group)!
  const write = (): void => volume.write(old, OpKind.Write, { first: 0, count: 2, chunk })
  write()
  await sim.ended(old, LIMIT_MS)
  // What it sends from now on is under way all the time.
  for (const place of [next.name, late.name, 'metadata']) network.cut(peers[at]!.name, place)
  write()
  old.boot.store!.ring()
  await world.runUntil(world.nowMs + 10)
  await sim.openAt(peers.indexOf(next), volume)
  strictEqual(sim.groups().get(group)!.epoch, record.epoch, 'nobody had to leave')
  network.heal(peers[at]!.name, late.name)
  await world.runUntil(world.nowMs + 1000)
  await heldByMembers(sim, (each, [one, other]) => {
    if (each === group) deepStrictEqual(other, one)
  })
})

test('what is sent again after the lease was taken anew is not void for who syncs', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { network, peers, world } = sim
  const { volume } = await sim.open()
  const [group, { inSync }] = [...sim.groups()][0]!
  const isIn = ({ peerId }: SimPeer): boolean => inSync.some(({ peer }) => peer === peerId)
  const at = peers.findIndex((peer) => !isIn(peer))
  const [source, target] = peers.filter(isIn) as [SimPeer, SimPeer]
  const gateway = peers[at]!
  const session = await sim.openAt(at, volume)
  const chunks = Array.from({ length: CHUNKS }, (_, chunk) => chunk)
  const chunk = chunks.find((each) => volume.groupOf(each * CHUNK_BLOCKS_USED) === group)!
  const where = { first: 0, count: 2, chunk }
  volume.write(session, OpKind.Write, where)
  await sim.ended(session, LIMIT_MS)
  // One member has all, the other one syncs and cannot reach it.
  for (const [from, to] of bothWays(source, target)) network.cut(from, to)
  target.crash(false)
  target.start()
  const isSyncing = (): boolean => sim.groups().get(group)!.syncing[0]?.boot === target.boot?.bootId
  await world.runFor(LIMIT_MS, 'it syncs', isSyncing)
  // It gets a write that the other one does not, and the lease ends.
  network.cut(gateway.name, source.name)
  await world.runUntil(world.nowMs + 2000)
  volume.write(session, OpKind.Write, where)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 1000)
  const { epoch } = session
  network.cut(gateway.name, 'metadata')
  await world.runUntil(world.nowMs + 2 * TTL_MS)
  // The takeover reaches all; what is sent after its flush comes late.
  const service = source.boot!.service!
  const flush = service.flush.bind(service)
  service.flush = (done) => {
    network.cut(gateway.name, source.name)
    flush(done)
  }
  network.heal(gateway.name, source.name)
  network.heal(gateway.name, 'metadata')
  await world.runFor(LIMIT_MS, 'the lease is taken anew', () => session.epoch > epoch)
  service.flush = flush
  for (const [from, to] of bothWays(source, target)) network.heal(from, to)
  await world.runUntil(world.nowMs + 2 * LIMIT_MS)
  network.heal(gateway.name, source.name)
  await sim.ended(session, LIMIT_MS)
  const isWhole = (): boolean => sim.groups().get(group)!.inSync.length === 2
  await world.runFor(2 * LIMIT_MS, 'both are in sync', isWhole)
  await heldByMembers(sim, (each, [one, other]) => {
    if (each === group) deepStrictEqual(other, one)
  })
  source.crash(false)
  volume.read(session, where)
  await sim.ended(session, LIMIT_MS)
})

test('R23: nobody comes in sync with what a takeover meanwhile did not see', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { network, peers, world } = sim
  const { volume } = await sim.open()
  const [group, { inSync }] = [...sim.groups()][0]!
  const isIn = ({ peerId }: SimPeer): boolean => inSync.some(({ peer }) => peer === peerId)
  const gateway = peers.find((peer) => !isIn(peer))!
  const [source, target] = peers.filter(isIn) as [SimPeer, SimPeer]
  const session = await sim.openAt(peers.indexOf(gateway), volume)
  const chunks = Array.from({ length: CHUNKS }, (_, chunk) => chunk)
  const chunk = chunks.find((each) => volume.groupOf(each * CHUNK_BLOCKS_USED) === group)!
  const where = { first: 0, count: 2, chunk }
  volume.write(session, OpKind.Write, where)
  await sim.ended(session, LIMIT_MS)
  for (const [from, to] of bothWays(source, target)) network.cut(from, to)
  target.crash(false)
  target.start()
  const isSyncing = (): boolean => sim.groups().get(group)!.syncing[0]?.boot === target.boot?.bootId
  await world.runFor(LIMIT_MS, 'it syncs', isSyncing)
  await world.runUntil(world.nowMs + 500)
  // It alone gets a write, and the gateway dies.
  network.cut(gateway.name, source.name)
  volume.write(session, OpKind.Write, where)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 20)
  gateway.crash(false)
  await world.runUntil(world.nowMs + 2 * TTL_MS)
  // It compared and left that alone; its promotion is under way while a takeover settles all.
  const service = target.boot!.service!
  const flush = service.flush.bind(service)
  let isCompared = false
  service.flush = (done) => {
    if (!isCompared) network.cut(target.name, 'metadata')
    isCompared = true
    flush(done)
  }
  for (const [from, to] of bothWays(source, target)) network.heal(from, to)
  await world.runFor(2 * LIMIT_MS, 'it compared', () => isCompared)
  await sim.openAt(peers.indexOf(source), volume)
  network.healAll()
  const isWhole = (): boolean => sim.groups().get(group)!.inSync.length === 2
  await world.runFor(2 * LIMIT_MS, 'both are in sync', isWhole)
  await heldByMembers(sim, (each, [one, other]) => {
    if (each === group) deepStrictEqual(other, one)
  })
})

const bothWays = (one: SimPeer, other: SimPeer): [string, string][] => [
  [one.name, other.name],
  [other.name, one.name]
]

test('R17: what was under way, and is damaged where alone it is, is given up', async () => {
  const sim = new QuietCluster({ peers: 4, copies: 3 })
  const { peers, world } = sim
  const { volume, session } = await sim.open()
  const [gateway, absent, lacks, has] = peers as [SimPeer, SimPeer, SimPeer, SimPeer]
  setState(sim, gateway, 'drained')
  await every(sim, 'the gateway is no member', (record) => !isIn(record, gateway))
  absent.crash(false)
  change(volume, session, OpKind.Write)
  volume.flush(session)
  await sim.ended(session, LIMIT_MS)
  for (const record of sim.groups().values()) {
    ok(record.inSync.length === 2 && isIn(record, has), 'the write minimum: nobody may leave')
  }
  const goOn = holdWrites(lacks)
  change(volume, session, OpKind.Write)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 20)
  gateway.crash(false)
  for (let i = 0; i < 500; i++) has.disk.flipBits(false)
  goOn(false)
  const next = await sim.openAt(peers.indexOf(lacks), volume)
  await readAll(sim, volume, next)
  change(volume, next, OpKind.Write)
  await sim.ended(next, LIMIT_MS)
})

test('R17: a member that syncs and has what is damaged elsewhere gives it', async () => {
  const sim = new QuietCluster({ peers: 4, copies: 3 })
  const { network, peers, world } = sim
  const { volume, session } = await sim.open()
  const [gateway, syncs, lacks, has] = peers as [SimPeer, SimPeer, SimPeer, SimPeer]
  setState(sim, gateway, 'drained')
  await every(sim, 'the gateway is no member', (record) => !isIn(record, gateway))
  await every(sim, 'the others are', ({ inSync }) => inSync.length === 3)
  volume.flush(session)
  await sim.ended(session, LIMIT_MS)
  const goOn = holdWrites(lacks)
  change(volume, session, OpKind.Write)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 20)
  syncs.crash(false)
  const [group, { epoch }] = [...sim.groups()][0]!
  const written = await world.until(1000, 'what it has', volume.heldBy(has.boot!, group, epoch))
  await every(sim, 'who is gone left', (record) => !isIn(record, syncs))
  gateway.crash(false)
  for (let i = 0; i < 500; i++) has.disk.flipBits(false)
  goOn(false)
  syncs.start()
  await every(sim, 'it syncs', ({ syncing }) => syncing.length === 1)
  // It does not come in sync.
  network.cut(syncs.name, 'metadata')
  await sim.openAt(peers.indexOf(lacks), volume)
  const after = sim.groups().get(group)!.epoch
  const given = await world.until(1000, 'it has it', volume.heldBy(lacks.boot!, group, after))
  deepStrictEqual(given, written)
})

test.run()
