/** R12: what a member missed is not forgotten by those that have it. */
import { test } from 'uvu'
import { OpKind } from '../../src/replication/block-store.ts'
import type { SimPeer } from './peer.ts'
import { QuietCluster } from './quiet.ts'
import { change, every, isIn, LIMIT_MS, overwrite, readAll } from './scenario.ts'

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
  network.cut(source.name, 'metadata')
  network.cut('metadata', source.name)
  left.crash(false)
  change(volume, first, OpKind.Trim)
  await every(sim, 'one is out', (record) => !isIn(record, left))
  await overwrite(sim, volume, first)
  await world.runUntil(world.nowMs + 2000)
  network.heal(source.name, 'metadata')
  network.heal('metadata', source.name)
  // The other one knew, and would be as good a source.
  network.cut(left.name, gateway.name)
  network.cut(gateway.name, left.name)
  left.start()
  await every(sim, 'it is in again', (record) => isIn(record, left))
  network.heal(left.name, gateway.name)
  network.heal(gateway.name, left.name)
  volume.release(first)
  await readAll(sim, volume, await sim.openAt(2, volume))
})

test.run()
