/** What a peer that starts says about groups of metadata that was restored (PROTOCOL.md, R31). */
import { type Cluster, untilSettled } from '../cluster/cluster.ts'
import { coveringGroup, firstGroups, leastGroups, newSplit } from '../cluster/group-shape.ts'
import { type GroupChange, type GroupRecords, type KnownGroup, NO_BOOT } from '../cluster/groups.ts'
import {
  decodeRecord,
  encodeRecord,
  type GroupRecord,
  type PoolRecord
} from '../cluster/records.ts'
import { RESTORE_EPOCH_STEP } from '../core/limits.ts'

interface Starting {
  readonly peerId: string
  readonly bootId: string
}

/**
 * `epoch`: highest of the group that the peer remembers, 0 for none. Null: nothing to say.
 */
export function decideRestored(
  record: GroupRecord,
  { peerId, bootId }: Starting,
  epoch: number
): GroupChange | null {
  const { restored, members, inSync, syncing } = record
  if (restored === undefined) return null
  const others = <T extends { peer: string }>(list: readonly T[]): T[] =>
    list.filter(({ peer }) => peer !== peerId)
  const isListed =
    members.includes(peerId) || [...inSync, ...syncing].some(({ peer }) => peer === peerId)
  const unproven = restored.unproven.filter((peer) => peer !== peerId)
  if (epoch > restored.epoch) {
    const known = restored.behind.find(({ peer }) => peer === peerId)
    if (known?.epoch === epoch && unproven.length === restored.unproven.length) return null
    const behind = [...others(restored.behind), { peer: peerId, epoch }]
    const proven = others(restored.proven)
    return { members, inSync, syncing, restored: { ...restored, unproven, proven, behind } }
  }
  if (!isListed) return null
  const before = restored.proven.find(({ peer }) => peer === peerId)
  if (before?.boot === bootId) return null
  const proven = [...others(restored.proven), { peer: peerId, boot: bootId }]
  const next = { ...restored, unproven, proven }
  return provenChange(record, next) ?? { members, inSync, syncing, restored: next }
}

/** Everybody who counts remembers no more than the record says: it is right. Null: not yet. */
function provenChange(
  { members, inSync, syncing }: GroupRecord,
  { unproven, proven, behind }: NonNullable<GroupRecord['restored']>
): GroupChange | null {
  if (unproven.length > 0 || behind.length > 0) return null
  const present = (list: GroupRecord['inSync']): GroupRecord['inSync'] =>
    proven.filter(({ peer }) => list.some((entry) => entry.peer === peer))
  const left = present(inSync)
  if (left.length === 0) return null
  return { members, inSync: left, syncing: present(syncing), restored: null }
}

/** What a peer promised to hold. */
export interface Memory {
  groupEpochs(): Iterable<{ pool: number; group: number; epoch: number }>
  familyEpochs(): Iterable<{ family: string; epoch: number }>
}

/**
 * Says for each group what this peer remembers, and then that it did. `pools`: those there are.
 * Nothing to do in a cluster that was not restored. @throws StoreError
 */
export async function settleRestored(
  parts: { readonly cluster: Cluster; readonly records: GroupRecords; readonly memory: Memory },
  self: Starting,
  pools: readonly PoolRecord[]
): Promise<void> {
  const { cluster, records, memory } = parts
  const key = cluster.keys.restore
  const entry = await cluster.store.get(key)
  if (entry === null) return
  const { epochFloor } = decodeRecord('restore', key, entry.value)
  for (const pool of pools) {
    const groups = rememberedOf(pool, await records.readAll(pool.number), memory)
    for (const [group, epoch] of groups) {
      await settleGroup({ records, self, epochFloor }, pool, group, epoch)
    }
  }
  for (const { family, epoch } of memory.familyEpochs()) await raiseFamily(cluster, family, epoch)
  await confirm(cluster, self.peerId)
}

/**
 * The highest epoch that is remembered of each group, 0 for none. R46: what is remembered of a
 * group that the copy does not know as split counts for the one that it came from.
 */
function rememberedOf(
  pool: PoolRecord,
  known: ReadonlyMap<number, KnownGroup>,
  memory: Memory
): Map<number, number> {
  const find = (group: number): GroupRecord | null => known.get(group)?.record ?? null
  const remembered = new Map([...known.keys()].map((group) => [group, 0]))
  for (const { pool: number, group, epoch } of memory.groupEpochs()) {
    if (number !== pool.number) continue
    const covering = coveringGroup(group, pool, find)
    remembered.set(covering, Math.max(remembered.get(covering) ?? 0, epoch))
  }
  return remembered
}

async function settleGroup(
  parts: {
    readonly records: GroupRecords
    readonly self: Starting
    readonly epochFloor: number
  },
  pool: PoolRecord,
  group: number,
  epoch: number
): Promise<void> {
  const { records, self, epochFloor } = parts
  const { number } = pool
  await untilSettled(`group ${number}/${group}`, async () => {
    const known = await records.read(number, group)
    if (known === null) {
      const floor = Math.max(epochFloor, epoch)
      const split = newSplit(leastGroups(pool), firstGroups(pool))
      const record = { ...unknownGroup(self.peerId, epoch), ...split }
      return records.change(number, group, null, record, [], floor)
    }
    const { record } = known
    // Decided without this peer, which would refuse what is asked of it.
    const isRefused = record.restored === undefined && epoch > record.epoch
    const change = isRefused ? record : decideRestored(record, self, epoch)
    if (change === null) return true
    return records.change(number, group, known, change, [], isRefused ? epoch : 0)
  })
}

/** The copy is older than the group: whoever remembers it may have data in it. */
const unknownGroup = (peer: string, epoch: number): GroupChange => ({
  members: [peer],
  inSync: [{ peer, boot: NO_BOOT }],
  syncing: [],
  restored: { epoch: 0, unproven: [], proven: [], behind: [{ peer, epoch }] }
})

/** The copy may be of before another restore: its writerEpochs were given out after that. */
async function raiseFamily({ store, keys }: Cluster, family: string, epoch: number): Promise<void> {
  const key = keys.family(family)
  await untilSettled(`family ${family}`, async () => {
    const entry = await store.get(key)
    if (entry === null) return true
    const record = decodeRecord('family', key, entry.value)
    if (epoch <= record.writerEpoch) return true
    const writerEpoch = Math.min(epoch + RESTORE_EPOCH_STEP, 0xffffffff)
    const { succeeded } = await store.transact({
      compare: [{ key, modRevision: entry.modRevision }],
      success: [{ put: key, value: encodeRecord('family', { ...record, writerEpoch }) }]
    })
    return succeeded ? true : null
  })
}

async function confirm({ store, keys }: Cluster, peerId: string): Promise<void> {
  await untilSettled('the record of the restore', async () => {
    const entry = await store.get(keys.restore)
    if (entry === null) return true
    const record = decodeRecord('restore', entry.key, entry.value)
    if (!record.pendingPeers.includes(peerId)) return true
    const pendingPeers = record.pendingPeers.filter((peer) => peer !== peerId)
    const { succeeded } = await store.transact({
      compare: [{ key: entry.key, modRevision: entry.modRevision }],
      success: [{ put: entry.key, value: encodeRecord('restore', { ...record, pendingPeers }) }]
    })
    return succeeded ? true : null
  })
}
