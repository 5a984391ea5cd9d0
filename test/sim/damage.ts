/** What a scrub is there for: damage on a disk that no client comes across. */
import type { SimCluster } from './cluster.ts'
import { heldByMembers } from './held.ts'

const MENDED_MS_MAX = 180_000
/** Of flips: some hit what is no longer in use. */
const FLIPS = 12

/**
 * Damages the disk of one member, then looks only after the scrub had its time: every member in
 * sync has every block again. Returns the blocks that got their bytes back.
 */
export async function damageIsMended(sim: SimCluster): Promise<number> {
  const { world, peers, flipped } = sim
  const members = [...sim.groups().values()].filter(({ inSync }) => inSync.length > 1)
  const ids = new Set(members.flatMap(({ inSync }) => inSync.map(({ peer }) => peer)))
  const [bad = peers.find(({ peerId }) => ids.has(peerId))] = flipped
  if (bad === undefined) return 0
  for (let flip = 0; flip < FLIPS; flip++) bad.disk.flipBits(false)
  flipped.add(bad)
  world.log(`bits flip on the disk of ${bad.name}, while nobody reads`)
  const endMs = world.nowMs + MENDED_MS_MAX
  for (;;) {
    await world.runUntil(world.nowMs + 10_000)
    const lost = await damagedBlocks(sim)
    if (lost.length === 0) break
    if (world.nowMs > endMs) throw new Error(`no scrub got back ${lost.join(', ')}`)
  }
  return peers.reduce((sum, { boot }) => sum + (boot?.serving?.here.scrub.progress.mended ?? 0), 0)
}

async function damagedBlocks(sim: SimCluster): Promise<string[]> {
  const lost: string[] = []
  await heldByMembers(sim, (group, held) => {
    for (const member of held) {
      for (const [key, value] of member) if (value === null) lost.push(`${group}: ${key}`)
    }
  })
  return lost
}
