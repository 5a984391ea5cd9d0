import type { SimCluster } from './cluster.ts'

/** Block -> version and value; null where it is damaged. */
type Held = ReadonlyMap<string, string | null>

/** Reports, by volume and group, what each member in sync has. */
export async function heldByMembers(
  sim: SimCluster,
  report: (group: number, held: readonly Held[]) => void
): Promise<void> {
  for (const volume of sim.volumes) {
    for (const [group, { inSync, epoch }] of sim.groups()) {
      const held: Held[] = []
      for (const { peer } of inSync) {
        const { boot } = sim.peers.find(({ peerId }) => peerId === peer)!
        const found = volume.heldBy(boot!, group, epoch)
        held.push(await sim.world.until(30_000, 'a member tells what it holds', found))
      }
      report(group, held)
    }
  }
}
