/** R13, R14: what a disk may have lost nobody builds on. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { OpKind } from '../../src/replication/block-store.ts'
import { type SimPeer, TTL_MS } from './peer.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'
import { LIMIT_MS, readAll } from './scenario.ts'

test('R13: a flush does not succeed over a member that lost what was to be flushed', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 1 })
  const { world, peers } = sim
  const { volume, session } = await sim.open()
  const other = peers[1]!
  // Some of it is there only, where nobody has flushed it.
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, LIMIT_MS)
  other.crash(true)
  other.start()
  await world.runFor(LIMIT_MS, 'it serves', () => other.boot?.writers != null)
  let isFlushed = false
  volume.flush(session, () => {
    isFlushed = true
  })
  await sim.ended(session, LIMIT_MS)
  await world.runUntil(world.nowMs + 1000)
  ok(!isFlushed, 'clients are told that it was not flushed')
  strictEqual(session.why, 'powerLoss')
})

test('R14: a disk that went back is not the truth, also where it comes first', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world, peers } = sim
  const { volume, session } = await sim.open()
  const [whole, reverted] = peers as [SimPeer, SimPeer]
  const isWhole = (): boolean => [...sim.groups().values()].every((g) => g.inSync.length === 2)
  const old = reverted.disk.state()
  // It ran twice since.
  for (let start = 0; start < 2; start++) {
    reverted.crash(false)
    reverted.start()
    await world.runUntil(world.nowMs + 200)
    for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
    volume.flush(session)
    await sim.ended(session, LIMIT_MS)
    await world.runFor(LIMIT_MS, 'both are in sync', isWhole)
  }
  whole.crash(false)
  reverted.crash(false)
  reverted.disk.revert(old)
  await world.runUntil(world.nowMs + 2 * TTL_MS)
  reverted.start()
  await world.runFor(LIMIT_MS, 'p1 serves', () => reverted.boot?.writers != null)
  whole.start()
  await world.runFor(LIMIT_MS, 'p0 serves', () => whole.boot?.writers != null)
  await readAll(sim, volume, await sim.openAt(0, volume))
})

test('R14: starts that do not reach the metadata make no disk the newest', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world, network, peers } = sim
  const { volume, session } = await sim.open()
  const [whole, reverted] = peers as [SimPeer, SimPeer]
  const isWhole = (): boolean => [...sim.groups().values()].every((g) => g.inSync.length === 2)
  const old = reverted.disk.state()
  reverted.crash(false)
  reverted.start()
  await world.runUntil(world.nowMs + 200)
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  volume.flush(session)
  await sim.ended(session, LIMIT_MS)
  await world.runFor(LIMIT_MS, 'both are in sync', isWhole)
  volume.flush(session)
  await sim.ended(session, LIMIT_MS)
  whole.crash(false)
  reverted.crash(false)
  reverted.disk.revert(old)
  network.cut(reverted.name, 'metadata')
  reverted.start()
  await world.runUntil(world.nowMs + 4 * TTL_MS)
  network.heal(reverted.name, 'metadata')
  await world.runFor(LIMIT_MS, 'p1 serves', () => reverted.boot?.writers != null)
  whole.start()
  await world.runFor(LIMIT_MS, 'p0 serves', () => whole.boot?.writers != null)
  await readAll(sim, volume, await sim.openAt(0, volume))
})

test.run()
