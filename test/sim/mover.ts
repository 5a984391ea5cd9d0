/** A controller that wants groups elsewhere all the time, in its plainest form. */
import type { Cluster } from '../../src/cluster/cluster.ts'
import { GroupRecords } from '../../src/cluster/groups.ts'
import type { GroupMember, GroupRecord } from '../../src/cluster/records.ts'
import type { World } from './world.ts'

export interface MoverHost {
  readonly cluster: Cluster
  readonly pool: number
  readonly peers: readonly string[]
  readonly copies: number
  readonly world: World
  /** New places are found; else what was begun is brought to its end. */
  readonly isMoving: boolean
}

/** R25: who is not wanted any more goes when the group is whole without it. */
export async function moveGroups(host: MoverHost): Promise<void> {
  const records = new GroupRecords(host.cluster)
  for (const [group, known] of await records.readAll(host.pool)) {
    const next = nextOf(known.record, host)
    if (next === null) continue
    await records.change(host.pool, group, known, { ...known.record, ...next })
  }
}

function nextOf(record: GroupRecord, host: MoverHost): Partial<GroupRecord> | null {
  const { members } = record
  const isMember = ({ peer }: GroupMember): boolean => members.includes(peer)
  const inSync = record.inSync.filter(isMember)
  const isWhole = inSync.length === members.length
  if (isWhole && inSync.length < record.inSync.length) return { inSync }
  const syncing = record.syncing.filter(isMember)
  if (syncing.length < record.syncing.length) return { syncing }
  if (!host.isMoving || !host.world.chance(6)) return null
  const peers = [...host.peers]
  while (peers.length > host.copies) peers.splice(host.world.random.below(peers.length), 1)
  return { members: peers }
}
