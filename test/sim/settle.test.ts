/** R11: what flushes wait for after a takeover that could not reach everybody. */
import { strictEqual } from 'node:assert'
import { test } from 'uvu'
import { OpKind } from '../../src/replication/block-store.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'
import type { Session, SimVolume } from './volume.ts'

/** Longer than patience with a member, and than tries to settle a group are apart. */
const WAIT_MS = 5000
const OPEN_MS = 15_000
/** Without anybody to wait for. */
const SOON_MS = 300

/** A gateway after one that died with unflushed writes, of which p1 has half and is cut off. */
async function takenOver(): Promise<{ sim: QuietCluster; volume: SimVolume; session: Session }> {
  const sim = new QuietCluster({ peers: 2, copies: 1, volumes: 2 })
  const { world, network } = sim
  const { volume, session: first } = await sim.open()
  for (let i = 0; i < REQUESTS; i++) volume.write(first, OpKind.Write)
  await sim.ended(first, 1000)
  network.cut('p0', 'p1')
  network.cut('p1', 'p0')
  sim.peers[0]!.crash(false)
  sim.peers[0]!.start()
  await world.runFor(1000, 'p0 serves', () => (sim.peers[0]!.boot?.writers ?? null) !== null)
  return { sim, volume, session: await sim.openAt(0, volume) }
}

async function endWell(sim: QuietCluster, volume: SimVolume, session: Session): Promise<void> {
  const { world, network } = sim
  await world.runUntil(world.nowMs + WAIT_MS)
  const waiting = session.inFlight
  if (waiting > 0) {
    network.healAll()
    await sim.ended(session, WAIT_MS)
  }
  // Flushed is flushed: all there was is there after this.
  sim.peers[1]!.crash(true)
  network.healAll()
  sim.peers[1]!.start()
  const again = session.isOver ? await sim.openAt(0, volume) : session
  for (let i = 0; i < 3 * REQUESTS; i++) volume.read(again)
  await sim.ended(again, OPEN_MS)
  strictEqual(waiting, 1)
  strictEqual(sim.errors.length, 0)
}

test('a flush waits for a group that may hold what the gateway before left unflushed', async () => {
  const { sim, volume, session } = await takenOver()
  volume.flush(session)
  await endWell(sim, volume, session)
})

test('it does so too when the lease was taken anew meanwhile', async () => {
  const { sim, volume, session } = await takenOver()
  const { world } = sim
  const retaken = session.boot.writers!.retake(volume.record)
  session.epoch = await world.until(OPEN_MS, 'the lease is taken anew', retaken)
  volume.flush(session)
  await endWell(sim, volume, session)
})

test('flushes of other volumes do not wait for it', async () => {
  const { sim, volume, session } = await takenOver()
  volume.flush(session)
  const other = sim.volumes[1]!
  const beside = await sim.openAt(0, other)
  other.flush(beside)
  await sim.ended(beside, SOON_MS)
  strictEqual(session.inFlight, 1)
})

test('nor for members that only a volume beside wrote to', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 1, volumes: 2 })
  const { volume, session } = await sim.open()
  const other = sim.volumes[1]!
  const beside = await sim.openAt(0, other)
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, 1000)
  sim.network.cut('p0', 'p1')
  sim.network.cut('p1', 'p0')
  // More than members are asked for at once.
  for (let i = 0; i < 10; i++) volume.flush(session)
  other.flush(beside)
  await sim.ended(beside, SOON_MS)
  strictEqual(session.inFlight, 10)
  sim.network.healAll()
  await sim.ended(session, WAIT_MS)
  strictEqual(sim.errors.length, 0)
})

test.run()
