import type { SimCluster } from './cluster.ts'
import type { SimVolume } from './volume.ts'

/** Block -> version and value; null where it is damaged. */
type Held = ReadonlyMap<string, string | null>

/** An operator who took peers back, or a repair, may change a group some times. */
const LOOKS = 50
const LOOK_MS = 500

/** Reports, by volume and group, what each member in sync has. */
export async function heldByMembers(
  sim: SimCluster,
  report: (group: number, held: readonly Held[]) => void
): Promise<void> {
  for (const volume of sim.volumes) {
    for (const group of sim.groups().keys()) report(group, await heldInSync(sim, volume, group))
  }
}

/**
 * All members are asked under one record, R3: while that is changed they refuse, and who was asked
 * before would be compared with who is asked after it.
 */
async function heldInSync(sim: SimCluster, volume: SimVolume, group: number): Promise<Held[]> {
  const { world, peers } = sim
  for (let look = 0; look < LOOKS; look++) {
    const { inSync, epoch } = sim.groups().get(group)!
    const held: Held[] = []
    for (const { peer } of inSync) {
      const { boot } = peers.find(({ peerId }) => peerId === peer)!
      const found = volume.heldBy(boot!, group, epoch)
      held.push(await world.until(30_000, 'a member tells what it holds', found))
    }
    if (sim.groups().get(group)!.epoch === epoch) return held
    await world.runUntil(world.nowMs + LOOK_MS)
  }
  throw new Error(`group ${group} changes all the time`)
}
