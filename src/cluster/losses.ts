/**
 * Groups that nobody serves until an operator says whose copy counts: the metadata was restored
 * and may be older than the data (PROTOCOL.md, R31), a disk was reverted (R14), or whoever was in
 * sync is gone for good.
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { GroupRecords, type GroupChange, isFresh } from './groups.ts'
import type { Membership } from './membership.ts'
import { decodeRecord, encodeRecord, type GroupRecord, type PoolRecord } from './records.ts'

export interface WaitingGroup {
  readonly pool: PoolRecord
  readonly group: number
  /** What happened, and what is known of it. */
  readonly why: string
  /** Who can be chosen now, best first. */
  readonly candidates: readonly string[]
  /** Peers that may still come and settle it without a loss. */
  readonly awaited: readonly string[]
}

export interface WaitingGroups {
  readonly groups: readonly WaitingGroup[]
  /** Peers without which no group can be made anew. */
  readonly pendingPeers: readonly string[]
}

export interface Acceptance {
  /** Only this one; else all that wait for nobody but the operator, or for peers that are down. */
  readonly group: { readonly pool: string; readonly group: number } | null
  /** Whose copy is to count; null takes the best. */
  readonly peer: string | null
}

interface Parts {
  readonly cluster: Cluster
  readonly membership: Membership
}

const short = (peer: string): string => peer.slice(0, 8)

/** Null when the group waits for nobody, or just for peers that are down. */
function waitingOf(
  record: GroupRecord,
  { membership }: Parts
): Omit<WaitingGroup, 'pool' | 'group'> | null {
  const { restored, inSync, syncing } = record
  const isUp = (peer: string): boolean => (membership.peer(peer)?.alive ?? null) !== null
  const listed = [...inSync, ...syncing].map(({ peer }) => peer)
  if (restored !== undefined) {
    const { epoch, behind, proven, unproven } = restored
    const told = [...behind].sort((a, b) => b.epoch - a.epoch)
    const order = [...told, ...proven].map(({ peer }) => peer)
    // R34: what they have was not wanted any more.
    const isOld = (peer: string): boolean =>
      isFresh(record, peer) && !told.some((entry) => entry.peer === peer)
    const candidates = [...new Set([...order, ...listed])].filter((id) => isUp(id) && !isOld(id))
    const awaited = unproven.filter((peer) => !isUp(peer))
    const newest = told[0]
    const why =
      newest !== undefined
        ? `the restored metadata is older than the data: peer ${short(newest.peer)} remembers ` +
          `epoch ${newest.epoch}, the copy has ${epoch}`
        : awaited.length > 0
          ? `since the restore not all said what they remember: ${awaited.map(short).join(', ')}`
          : 'nobody who was in sync in the copy is left'
    return { why, candidates, awaited }
  }
  if (inSync.some(({ peer, boot }) => membership.isPresentBoot(peer, boot))) return null
  const gone = inSync.filter(({ peer }) => {
    const state = membership.peer(peer)?.record.state ?? 'removed'
    return state === 'removed'
  })
  const reverted = inSync.filter(({ peer }) => isUp(peer))
  if (gone.length < inSync.length && reverted.length === 0) return null
  const candidates = listed.filter(isUp)
  const awaited = inSync.map(({ peer }) => peer).filter((peer) => !isUp(peer))
  const why =
    reverted.length > 0
      ? `the disk of peer ${short(reverted[0]!.peer)} is an older state of what the cluster knows`
      : `all that were in sync were removed: ${gone.map(({ peer }) => short(peer)).join(', ')}`
  return { why, candidates, awaited }
}

export async function waitingGroups(
  parts: Parts,
  pools: readonly PoolRecord[],
  records: Pick<GroupRecords, 'readAll'> = new GroupRecords(parts.cluster)
): Promise<WaitingGroups> {
  const { keys, store } = parts.cluster
  const groups: WaitingGroup[] = []
  for (const pool of pools) {
    for (const [group, { record }] of await records.readAll(pool.number)) {
      const waiting = waitingOf(record, parts)
      if (waiting !== null) groups.push({ pool, group, ...waiting })
    }
  }
  const entry = await store.get(keys.restore)
  const restore = entry === null ? null : decodeRecord('restore', entry.key, entry.value)
  return { groups, pendingPeers: restore?.pendingPeers ?? [] }
}

/**
 * Makes the copies of peers that are up the ones that count; what only others had is lost. Returns
 * the groups it did that to. @throws StoreError NotFound, Busy (the chosen peer is down), Conflict
 */
export async function acceptLoss(
  parts: Parts,
  pools: readonly PoolRecord[],
  { group: only, peer }: Acceptance
): Promise<WaitingGroup[]> {
  const { groups } = await waitingGroups(parts, pools)
  const chosen = groups.filter(
    ({ pool, group }) => only === null || (pool.name === only.pool && group === only.group)
  )
  if (only !== null && chosen.length === 0) {
    const text = `group ${only.pool}/${only.group} waits for no decision`
    throw new StoreError(ErrorCode.NotFound, text)
  }
  const done: WaitingGroup[] = []
  for (const each of chosen) {
    const best = peer === null ? each.candidates[0] : each.candidates.find((id) => id === peer)
    if (best !== undefined) {
      if (await accept(parts, each, best)) done.push(each)
    } else if (only !== null) {
      const name = `group ${only.pool}/${only.group}`
      const text = `${name}: ${peer === null ? 'nobody who has a copy' : `peer ${peer}`} is up`
      throw new StoreError(ErrorCode.Busy, peer === null ? text : `${text.slice(0, -3)} has none`)
    }
  }
  if (only === null) await waitForNobody(parts)
  return done
}

async function accept(parts: Parts, waiting: WaitingGroup, peerId: string): Promise<boolean> {
  const { cluster, membership } = parts
  const records = new GroupRecords(cluster)
  const { pool, group, candidates } = waiting
  return untilSettled(`group ${pool.name}/${group}`, async () => {
    const known = await records.read(pool.number, group)
    if (known === null || waitingOf(known.record, parts) === null) return false
    const entryOf = (peer: string): { peer: string; boot: string }[] => {
      const boot = membership.peer(peer)?.alive?.bootId
      return boot === undefined ? [] : [{ peer, boot }]
    }
    const inSync = entryOf(peerId)
    if (inSync.length === 0) throw new StoreError(ErrorCode.Busy, `peer ${peerId} is down`)
    const syncing = candidates.filter((peer) => peer !== peerId).flatMap(entryOf)
    const { members } = known.record
    const change: GroupChange = { members, inSync, syncing, restored: null }
    return (await records.change(pool.number, group, known, change)) === null ? null : true
  })
}

/** Groups may be made anew without the word of peers that are down. */
async function waitForNobody({ cluster, membership }: Parts): Promise<void> {
  const { store, keys } = cluster
  await untilSettled('the record of the restore', async () => {
    const entry = await store.get(keys.restore)
    if (entry === null) return true
    const record = decodeRecord('restore', entry.key, entry.value)
    const isUp = (peer: string): boolean => (membership.peer(peer)?.alive ?? null) !== null
    const pendingPeers = record.pendingPeers.filter(isUp)
    if (pendingPeers.length === record.pendingPeers.length) return true
    const { succeeded } = await store.transact({
      compare: [{ key: entry.key, modRevision: entry.modRevision }],
      success: [{ put: entry.key, value: encodeRecord('restore', { ...record, pendingPeers }) }]
    })
    return succeeded ? true : null
  })
}
