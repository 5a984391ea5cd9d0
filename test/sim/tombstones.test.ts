/** R12: what a member missed is not forgotten by those that have it. */
import { test } from 'uvu'
import { OpKind } from '../../src/replication/block-store.ts'
import { type SimPeer, TOMBSTONE_PAUSE_MS } from './peer.ts'
import { QuietCluster } from './quiet.ts'
import {
  change,
  every,
  isIn,
  LIMIT_MS,
  overwrite,
  overwriteUnanswered,
  readAll
} from './scenario.ts'
import type { SimVolume } from './volume.ts'

test('a trim outlives compaction at a peer that does not hear who missed it', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 3, engine: true })
  const { network, peers, world } = sim
  await sim.start()
  const [gateway, source, left] = peers as [SimPeer, SimPeer, SimPeer]
  const volume = sim.volumes[0]!
  const first = await sim.openAt(0, volume)
  change(volume, first, OpKind.Write)
  volume.flush(first)
  await sim.ended(first, LIMIT_MS)
  await every(sim, 'all have it', (record) => record.inSync.length === 3)
  await world.runUntil(world.nowMs + 2000)
  const cut = (one: string, other: string): void => {
    network.cut(one, other)
    network.cut(other, one)
  }
  cut(source.name, 'metadata')
  cut(left.name, 'metadata')
  cut(left.name, gateway.name)
  change(volume, first, OpKind.Trim)
  await every(sim, 'one is out', (record) => !isIn(record, left))
  // It is asked by the source, and has all on disk that it was sent.
  await world.runUntil(world.nowMs + 4 * TOMBSTONE_PAUSE_MS)
  await overwrite(sim, volume, first)
  await world.runUntil(world.nowMs + 2000)
  network.healAll()
  // The gateway knew, and would be as good a source.
  cut(left.name, gateway.name)
  await every(sim, 'it is in again', (record) => isIn(record, left))
  network.healAll()
  volume.release(first)
  await readAll(sim, volume, await sim.openAt(2, volume))
})

/** A member loses power after a trim that nobody flushed; the others compact what that hid. */
async function loseTrim(betweenMs: number): Promise<void> {
  const sim = new QuietCluster({ peers: 3, copies: 3, volumes: 2, engine: true })
  const { peers, world } = sim
  await sim.start()
  const lost = peers[2]!
  const [volume, other] = sim.volumes as [SimVolume, SimVolume]
  const first = await sim.openAt(0, volume)
  const beside = await sim.openAt(0, other)
  change(volume, first, OpKind.Write)
  volume.flush(first)
  await sim.ended(first, LIMIT_MS)
  await overwrite(sim, other, beside)
  await world.runUntil(world.nowMs + 3 * TOMBSTONE_PAUSE_MS)
  change(volume, first, OpKind.Trim)
  await sim.ended(first, LIMIT_MS)
  await world.runUntil(world.nowMs + betweenMs)
  lost.crash(true)
  // Before anybody says that it is gone.
  await overwriteUnanswered(sim, other, beside)
  lost.start()
  await every(sim, 'it is out', (record) => !isIn(record, lost))
  await every(sim, 'it is in again', (record) => isIn(record, lost))
  await readAll(sim, volume, first)
  volume.release(first)
  await readAll(sim, volume, await sim.openAt(2, volume))
}

test('a trim that was not flushed outlives compaction, for a member that lost it', async () => {
  await loseTrim(0)
})

test('before a tombstone goes the others have it on disk, flushed or not', async () => {
  await loseTrim(3 * TOMBSTONE_PAUSE_MS)
})

test.run()
