/** Restart, resync and controller in their plainest form, for members that are models. */
import type { Cluster } from '../../src/cluster/cluster.ts'
import { GroupRecords, type KnownGroup } from '../../src/cluster/groups.ts'
import { decodeRecord, type GroupMember } from '../../src/cluster/records.ts'
import { StoreError } from '../../src/core/errors.ts'
import { copyBlocks } from '../../src/replication/block-copy.ts'
import type { Compare } from '../../src/metadata/store.ts'
import type { Members } from '../../src/replication/member.ts'
import type { ModelDisk } from '../helpers/model-member.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import type { TestArena } from '../helpers/test-arena.ts'

/** R13: what a peer does about the groups that list it before it accepts links. */
export async function takePlaces(
  cluster: Cluster,
  pool: number,
  clean: string | null
): Promise<void> {
  const records = new GroupRecords(cluster)
  const { peerId, bootId } = cluster.self
  for (const group of (await records.readAll(pool)).keys()) {
    for (;;) {
      const known = (await records.read(pool, group))!
      const { record } = known
      const mine = ({ peer, boot }: GroupMember): boolean => peer === peerId && boot !== bootId
      if (![...record.inSync, ...record.syncing].some(mine)) break
      const self = { peer: peerId, boot: bootId }
      const old = record.inSync.find(mine)
      const others = record.inSync.filter(({ peer }) => peer !== peerId)
      const otherRuns = await anyRuns(cluster, others)
      const stays = old !== undefined && (old.boot === clean || !otherRuns)
      const inSync = record.inSync.flatMap((entry) =>
        mine(entry) ? (stays ? [self] : []) : [entry]
      )
      const syncing = record.syncing.filter(({ peer }) => peer !== peerId)
      if (!stays) syncing.push(self)
      const changed = await records.change(pool, group, known, { ...record, inSync, syncing })
      if (changed !== null) break
    }
  }
}

async function anyRuns(cluster: Cluster, entries: readonly GroupMember[]): Promise<boolean> {
  for (const { peer, boot } of entries) {
    const entry = await cluster.store.get(cluster.keys.alive(peer))
    if (entry !== null && decodeRecord('alive', entry.key, entry.value).bootId === boot) return true
  }
  return false
}

export interface ResyncHost {
  readonly cluster: Cluster
  readonly members: Members
  readonly arena: TestArena
  readonly disk: ModelDisk
  readonly pool: { readonly number: number; readonly groups: number }
  readonly fenceSelf: (family: string, writerEpoch: number) => void
}

/** R19–R23 for one group. */
export async function resync(host: ResyncHost, group: number): Promise<boolean> {
  const { cluster, members, pool, disk } = host
  const records = new GroupRecords(cluster)
  const known = await records.read(pool.number, group)
  const { peerId, bootId } = cluster.self
  const isMine = ({ peer, boot }: GroupMember): boolean => peer === peerId && boot === bootId
  if (known === null || !known.record.syncing.some(isMine)) return true
  const families = await cluster.readAll(`${cluster.keys.root}families/`)
  const settled = new Map<string, number>()
  const revisions = new Map(families.map(({ key, modRevision }) => [key.slice(-16), modRevision]))
  for (const { key, value } of families) {
    const family = key.slice(-16)
    const record = decodeRecord('family', key, value)
    settled.set(family, record.settledEpoch ?? 0)
    host.fenceSelf(family, record.writerEpoch)
  }
  disk.groupEpochs.set(
    `${pool.number}/${group}`,
    Math.max(disk.groupEpochs.get(`${pool.number}/${group}`) ?? 0, known.record.epoch)
  )
  const [entry] = known.record.inSync
  const source = entry === undefined ? null : members.find(entry.peer)
  const self = members.find(peerId)
  if (source === null || self === null || source.bootId !== entry?.boot) return false
  const id = { pool: pool.number, group }
  await source.call({ call: 'fenceGroup', id, epoch: known.record.epoch })
  const guards: Compare[] = []
  const epochs = new Map(
    families.map(({ key, value }) => [
      key.slice(-16),
      decodeRecord('family', key, value).writerEpoch
    ])
  )
  for (const [family, settledEpoch] of settled) {
    const left = await pass(host, { known, group, family, settledEpoch, source, self })
    // What was left alone is right only as long as no other writer settles the family.
    const modRevision = revisions.get(family)!
    if (left > 0) guards.push({ key: cluster.keys.family(family), modRevision })
    // And not while one is about to, who may have seen this group already.
    if (left > 0 && left < epochs.get(family)!) {
      guards.push({ key: cluster.keys.writer(family), is: 'absent' })
    }
  }
  const error = await new Promise<number>((resolve) => self.flush(resolve))
  if (error !== 0) return false
  const now = (await records.read(pool.number, group))!
  if (now.modRevision !== known.modRevision) return false
  const me = { peer: peerId, boot: bootId }
  const inSync = [...now.record.inSync, me]
  const syncing = now.record.syncing.filter((each) => !isMine(each))
  const next = { ...now.record, inSync, syncing }
  return (await records.change(pool.number, group, now, next, guards)) !== null
}

async function pass(
  host: ResyncHost,
  one: {
    readonly known: KnownGroup
    readonly group: number
    readonly family: string
    readonly settledEpoch: number
    readonly source: NonNullable<ReturnType<Members['find']>>
    readonly self: NonNullable<ReturnType<Members['find']>>
  }
): Promise<number> {
  /** Oldest writerEpoch of what was left alone. */
  let left = 0
  const { disk, pool } = host
  const { family, source, self, group, known, settledEpoch } = one
  const [high, low] = [
    Number.parseInt(family.slice(0, 8), 16),
    Number.parseInt(family.slice(8), 16)
  ]
  const shape = { pool: pool.number, groups: pool.groups }
  const asked = { call: 'chunkSums', shape, group, family, withHoles: true } as const
  const { data } = await source.call({ ...asked, after: null, limit: 10_000 })
  const chunks = new Map<string, { layer: [number, number]; chunk: number }>()
  const add = (layerHigh: number, layerLow: number, chunk: number): void => {
    chunks.set(`${layerHigh}/${layerLow}/${chunk}`, { layer: [layerHigh, layerLow], chunk })
  }
  for (let at = 0; at < data.length; at += 24) {
    add(data.readUInt32LE(at + 4), data.readUInt32LE(at), data.readUInt32LE(at + 8))
  }
  for (const key of disk.families.get(family)?.keys() ?? []) {
    const [layer = '', chunk = ''] = key.split('/')
    if (groupOfChunk(high, low, Number(chunk), pool.groups) !== group) continue
    add(Number.parseInt(layer.slice(0, 8), 16), Number.parseInt(layer.slice(8), 16), Number(chunk))
  }
  for (const { layer, chunk } of chunks.values()) {
    const hex = layer.map((word) => word.toString(16).padStart(8, '0')).join('')
    const runs = await source.call({ call: 'versions', family, layer: hex, chunk })
    const there = new Map<number, { writerEpoch: number; sequence: number }>()
    for (let at = 0; at < runs.data.length; at += 24) {
      const first = runs.data.readUInt16LE(at)
      there.set(first, {
        writerEpoch: runs.data.readUInt32LE(at + 8),
        sequence: runs.data.readUInt32LE(at + 16)
      })
    }
    // What no member in sync has was never acknowledged.
    const mine = disk.families.get(family)
    for (const [key, block] of [...(mine ?? [])]) {
      if (!key.startsWith(`${hex}/${chunk}/`)) continue
      const theirs = there.get(Number(key.split('/')[2]))
      const isNewer =
        theirs === undefined ||
        block.writerEpoch > theirs.writerEpoch ||
        (block.writerEpoch === theirs.writerEpoch && block.sequence > theirs.sequence)
      if (isNewer && block.writerEpoch < settledEpoch) mine!.delete(key)
      else if (isNewer) left = Math.min(left || block.writerEpoch, block.writerEpoch)
    }
    const range = {
      familyHigh: high,
      familyLow: low,
      layerHigh: layer[0],
      layerLow: layer[1],
      chunk,
      firstBlock: 0,
      blockCount: 128,
      pool: pool.number,
      group,
      groupEpoch: known.record.epoch,
      fenceEpoch: 0
    }
    const failure = await copyBlocks(host.arena, range, source, [self])
    if (failure !== null) throw new StoreError(failure.error as 1, 'a copy failed')
  }
  return left
}

/** R25 in short: members that the record lacks and that run are listed as syncing. */
export async function listAbsent(cluster: Cluster, pool: number): Promise<void> {
  const records = new GroupRecords(cluster)
  for (const [group, known] of await records.readAll(pool)) {
    const { record } = known
    const listed = new Set([...record.inSync, ...record.syncing].map(({ peer }) => peer))
    for (const peer of record.members) {
      if (listed.has(peer)) continue
      const alive = await cluster.store.get(cluster.keys.alive(peer))
      if (alive === null) continue
      const { bootId } = decodeRecord('alive', alive.key, alive.value)
      const syncing = [...record.syncing, { peer, boot: bootId }]
      const guards = [{ key: alive.key, modRevision: alive.modRevision }]
      await records.change(pool, group, known, { ...record, syncing }, guards)
      break
    }
  }
}
