/** What a peer that starts says about groups of metadata that was restored (PROTOCOL.md, R31). */
import { type Cluster, untilSettled } from '../cluster/cluster.ts'
import { type GroupChange, type GroupRecords, NO_BOOT } from '../cluster/groups.ts'
import { decodeRecord, encodeRecord, type GroupRecord } from '../cluster/records.ts'
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
 * Says for each group what this peer remembers, and then that it did. `pools`: numbers of those
 * there are. Nothing to do in a cluster that was not restored. @throws StoreError
 */
export async function settleRestored(
  parts: { readonly cluster: Cluster; readonly records: GroupRecords; readonly memory: Memory },
  self: Starting,
  pools: readonly number[]
): Promise<void> {
  const { cluster, records, memory } = parts
  const key = cluster.keys.restore
  const entry = await cluster.store.get(key)
  if (entry === null) return
  const { epochFloor } = decodeRecord('restore', key, entry.value)
  const remembered = new Map<string, number>()
  for (const { pool, group, epoch } of memory.groupEpochs()) {
    if (pools.includes(pool)) remembered.set(`${pool}/${group}`, epoch)
  }
  const groups = new Set(remembered.keys())
  for (const pool of pools) {
    for (const group of (await records.readAll(pool)).keys()) groups.add(`${pool}/${group}`)
  }
  for (const name of groups) {
    const [pool, group] = name.split('/').map(Number) as [number, number]
    const epoch = remembered.get(name) ?? 0
    await untilSettled(`group ${name}`, async () => {
      const known = await records.read(pool, group)
      if (known === null) {
        const floor = Math.max(epochFloor, epoch)
        return records.change(pool, group, null, unknownGroup(self.peerId, epoch), [], floor)
      }
      const { record } = known
      // Decided without this peer, which would refuse what is asked of it.
      const isRefused = record.restored === undefined && epoch > record.epoch
      const change = isRefused ? record : decideRestored(record, self, epoch)
      if (change === null) return true
      return records.change(pool, group, known, change, [], isRefused ? epoch : 0)
    })
  }
  for (const { family, epoch } of memory.familyEpochs()) await raiseFamily(cluster, family, epoch)
  await confirm(cluster, self.peerId)
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
