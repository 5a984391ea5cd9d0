/** Reads that a gateway answers at once, from its own disk, follow the rules of all others. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { HANDOVER_MS } from '../../src/core/limits.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'
import type { Session, SimVolume } from './volume.ts'

const LIMIT_MS = 5000

function cutOff(sim: QuietCluster, ...places: readonly string[]): void {
  for (const place of places) {
    sim.network.cut('p0', place)
    sim.network.cut(place, 'p0')
  }
}

function readMuch(volume: SimVolume, session: Session): void {
  for (let i = 0; i < 5 * REQUESTS; i++) volume.read(session)
  session.boot.store!.ring()
}

test('R10: they do not show a write that is not acknowledged', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world } = sim
  const { volume, session } = await sim.open()
  const before = volume.reads
  readMuch(volume, session)
  ok(volume.reads > before, 'some are answered at once')
  await sim.ended(session, LIMIT_MS)
  cutOff(sim, 'p1')
  session.boot.members.breakAll()
  for (let i = 0; i < 2 * REQUESTS; i++) volume.write(session, OpKind.Write)
  session.boot.store!.ring()
  // The gateway's own disk has them, nobody else.
  await world.runUntil(world.nowMs + 20)
  readMuch(volume, session)
  await world.runUntil(world.nowMs + 20)
  sim.peers[0]!.crash(false)
  sim.network.healAll()
  const next = await sim.openAt(1, volume)
  readMuch(volume, next)
  await sim.ended(next, LIMIT_MS)
})

test('R10: a read that waits for a write ends with it when that is given up', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world } = sim
  const { volume, session } = await sim.open()
  const { store } = session.boot
  cutOff(sim, 'p1')
  session.boot.members.breakAll()
  for (let i = 0; i < 2 * REQUESTS; i++) volume.write(session, OpKind.Write)
  store!.ring()
  await world.runUntil(world.nowMs + 20)
  // They have the bytes, of the gateway's own disk, and are not answered.
  readMuch(volume, session)
  await world.runUntil(world.nowMs + 20)
  for (const family of [...store!.families()]) store!.fence(family)
  await world.runUntil(world.nowMs + 20)
  sim.peers[0]!.crash(false)
  sim.network.healAll()
  const next = await sim.openAt(1, volume)
  readMuch(volume, next)
  await sim.ended(next, LIMIT_MS)
})

test('R26: they end with the lease, before another gateway writes', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world } = sim
  const { volume, session } = await sim.open()
  cutOff(sim, 'p1', 'metadata')
  // It does not know that it was replaced, and is asked all the time.
  const ask = (): void => {
    readMuch(volume, session)
    world.after(50, ask)
  }
  ask()
  const next = await sim.openAt(1, volume)
  for (let i = 0; i < 2 * REQUESTS; i++) volume.write(next, OpKind.Write)
  await sim.ended(next, LIMIT_MS)
  await world.runUntil(world.nowMs + 200)
  const { reads } = volume
  await world.runUntil(world.nowMs + 1000)
  strictEqual(volume.reads, reads)
})

/** The gateway of both volumes is cut off, and asked all the time. */
async function cutOffWhileRead(): Promise<QuietCluster> {
  // Longer than it is asked to let go.
  const ttlMs = 2 * HANDOVER_MS
  const sim = new QuietCluster({ peers: 3, copies: 3, volumes: 2, ttlMs })
  const { volume: first, session } = await sim.open()
  const second = sim.volumes[1]!
  const other = await sim.openAt(0, second)
  for (let i = 0; i < REQUESTS; i++) second.write(other, OpKind.Write)
  await sim.ended(other, LIMIT_MS)
  cutOff(sim, 'p1', 'p2', 'metadata')
  const ask = (): void => {
    readMuch(first, session)
    readMuch(second, other)
    sim.world.after(50, ask)
  }
  ask()
  return sim
}

function writeMuch(volume: SimVolume, session: Session): void {
  for (let i = 0; i < 3 * REQUESTS; i++) volume.write(session, OpKind.Write)
  session.boot.store!.ring()
}

test('R16: a takeover that is not the first waits as long as that would have', async () => {
  const sim = await cutOffWhileRead()
  const { world } = sim
  const [volume] = sim.volumes as [SimVolume]
  volume.open(sim.peers[1]!.boot!, true)
  const isOut = (): boolean => [...sim.groups().values()].every(({ inSync }) => inSync.length === 2)
  await world.runFor(LIMIT_MS * 2, 'p0 is taken out', isOut)
  sim.peers[1]!.crash(false)
  sim.peers[1]!.start()
  await world.runFor(LIMIT_MS, 'p1 serves', () => sim.peers[1]!.boot?.writers != null)
  await world.runUntil(world.nowMs + 150)
  const next = await sim.openAt(1, volume)
  writeMuch(volume, next)
  await sim.ended(next, LIMIT_MS)
  await world.runUntil(world.nowMs + 5000)
})

test('R16: so does one of another volume, which finds the member taken out', async () => {
  const sim = await cutOffWhileRead()
  const { world } = sim
  const [first, second] = sim.volumes as [SimVolume, SimVolume]
  first.open(sim.peers[1]!.boot!, true)
  const isOut = (): boolean => [...sim.groups().values()].every(({ inSync }) => inSync.length === 2)
  await world.runFor(LIMIT_MS * 2, 'p0 is taken out', isOut)
  const next = await sim.openAt(2, second)
  writeMuch(second, next)
  await sim.ended(next, LIMIT_MS)
  await world.runUntil(world.nowMs + 5000)
})

test.run()
