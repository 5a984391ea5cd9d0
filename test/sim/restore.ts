/** A metadata store that is lost with all its members, and restored from an older copy. */
import { readBackup, writeBackup } from '../../src/cluster/metadata-copy.ts'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { restoredBackup } from '../../src/cluster/restored.ts'
import type { SimCluster } from './cluster.ts'
import { TTL_MS } from './peer.ts'

/** How old the copy is, at most. */
const COPY_AGE_MS = 4000
/** Long enough for a takeover that waits for a lease to end. */
const AWAY_MS = 3 * TTL_MS

/** All peers lose power with it. Returns how many groups wait for an operator then. */
export async function loseMetadata(sim: SimCluster): Promise<number> {
  const { world, keys, metadata, peers } = sim
  // What is not in the copy was never made.
  sim.mayClone = false
  const copy = await world.until(5000, 'a copy', readBackup(metadata, keys, world.nowMs))
  const stale = peers[world.random.below(peers.length)]!
  if (world.chance(2)) stale.crash(true)
  await world.runUntil(world.nowMs + world.between(0, COPY_AGE_MS))
  sim.isHalted = true
  world.log('everything loses power, and the metadata is lost')
  for (const peer of peers) peer.crash(true)
  // Who ended cleanly has all, but nobody will know.
  for (const volume of sim.volumes) volume.onPowerLoss(null)
  await world.runUntil(world.nowMs + 2 * TTL_MS)
  const restored = restoredBackup(copy, keys, world.nowMs)
  await world.until(5000, 'a restore', writeBackup(metadata, keys, restored, { force: true }))
  await Promise.all(sim.volumes.map((volume) => volume.history.writeBases()))
  sim.isHalted = false
  sim.network.healAll()
  const isSaid = ({ restored: open }: GroupRecord): boolean => (open?.unproven ?? []).length === 0
  await world.runFor(30_000, 'all say what they remember', () => {
    for (const peer of peers) peer.start()
    return [...sim.groups().values()].every(isSaid)
  })
  // The others serve alone for a while: each has to be right, not just one of them.
  const away =
    peers[(peers.indexOf(stale) + 1 + world.random.below(peers.length - 1)) % peers.length]!
  away.crash(true)
  await world.runUntil(world.nowMs + AWAY_MS)
  away.start()
  return [...sim.groups().values()].filter(({ restored: open }) => open !== undefined).length
}
