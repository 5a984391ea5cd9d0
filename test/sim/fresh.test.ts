/** R34: a peer that comes back to a group which did without it brings nothing from before. */
import { ok } from 'node:assert'
import { test } from 'uvu'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { setState } from './mover.ts'
import { QuietCluster } from './quiet.ts'
import { type SimPeer, TOMBSTONE_PAUSE_MS } from './peer.ts'
import { change, every, isIn, LIMIT_MS, overwrite, readAll } from './scenario.ts'
import type { Session, SimVolume } from './volume.ts'

/** p1 was left with what it had, and then blocks were trimmed. Ends before it is wanted again. */
async function leftBehind(): Promise<{ sim: QuietCluster; volume: SimVolume; session: Session }> {
  const sim = new QuietCluster({ peers: 3, copies: 2, engine: true })
  const { peers, world } = sim
  await sim.start()
  const [gateway, left, other] = peers as [SimPeer, SimPeer, SimPeer]
  setState(sim, other, 'drained')
  const volume = sim.volumes[0]!
  const session = await sim.openAt(0, volume)
  change(volume, session, OpKind.Write)
  volume.flush(session)
  await sim.ended(session, LIMIT_MS)
  await every(sim, 'p0 and p1 have it', (record) => isIn(record, gateway) && isIn(record, left))
  left.crash(false)
  setState(sim, left, 'drained')
  setState(sim, other, 'active')
  await every(sim, 'p2 has it instead', (record) => {
    const { members } = record
    return isIn(record, other) && !isIn(record, left) && !members.includes(left.peerId)
  })
  change(volume, session, OpKind.Trim)
  // All that have the trims have them on disk: compaction may drop them.
  await world.runUntil(world.nowMs + 4 * TOMBSTONE_PAUSE_MS)
  await overwrite(sim, volume, session)
  await world.runUntil(world.nowMs + 2000)
  // It cannot give back what it has.
  sim.network.cut(left.name, other.name)
  sim.network.cut(other.name, left.name)
  return { sim, volume, session }
}

test('what was trimmed while it was out does not come back with it', async () => {
  const { sim, volume } = await leftBehind()
  const [, left, other] = sim.peers as [SimPeer, SimPeer, SimPeer]
  left.start()
  setState(sim, left, 'active')
  setState(sim, other, 'drained')
  await every(sim, 'p1 has it again', (record) => isIn(record, left) && !isIn(record, other))
  const session = await sim.openAt(1, volume)
  await readAll(sim, volume, session)
})

test('nor when it dies again and again while it gives up what it has', async () => {
  const { sim, volume } = await leftBehind()
  const { world } = sim
  const [, left, other] = sim.peers as [SimPeer, SimPeer, SimPeer]
  left.start()
  setState(sim, left, 'active')
  setState(sim, other, 'drained')
  const isNamed = ({ fresh = [], syncing }: GroupRecord): boolean =>
    fresh.includes(left.peerId) || syncing.some(({ peer }) => peer === left.peerId)
  for (let crash = 0; crash < 12; crash++) {
    await world.runFor(LIMIT_MS, 'p1 is wanted', () => {
      const records = [...sim.groups().values()]
      return records.some(isNamed) || records.every((record) => isIn(record, left))
    })
    // Shorter and longer than it takes to drop, and to be listed.
    await world.runUntil(world.nowMs + 3 * crash)
    left.crash(crash % 2 === 0)
    left.start()
  }
  await every(sim, 'p1 has it again', (record) => isIn(record, left) && !isIn(record, other))
  const session = await sim.openAt(1, volume)
  await readAll(sim, volume, session)
})

test('a member that was only away keeps what it has', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2, engine: true })
  const { session, volume } = await sim.open()
  const [, left] = sim.peers as [SimPeer, SimPeer]
  await every(sim, 'p1 has some', (record) => !isIn(record, left) || record.inSync.length === 2)
  left.crash(true)
  for (let i = 0; i < 20; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, LIMIT_MS)
  const were = [...sim.groups()].filter(([, { members }]) => members.includes(left.peerId))
  ok(were.length > 0 && were.every(([, record]) => !isIn(record, left)))
  const named = sim.world.trace.length
  left.start()
  await every(sim, 'p1 is back', (record) => record.inSync.length === 2)
  await sim.world.runUntil(sim.world.nowMs + 100)
  const since = sim.world.trace.slice(named).join('\n')
  ok(since.includes('a group is up to date') && !since.includes('were given up'), since)
})

test.run()
