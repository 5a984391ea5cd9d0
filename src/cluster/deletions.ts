/**
 * What was deleted, until every peer said that nothing of it is left there. A record names all who
 * may have blocks. To take 1,000 peers out of it one by one would be 1,000 writes of a long record,
 * each told to all of them. So each peer says so in a key of its own, which only the controller
 * reads, and that takes them out of the record together.
 *
 *   the deletion -> its record, naming peers -> each: its blocks are gone, durably -> its key
 *     -> the controller: the record without them, or none any more -> their keys are removed
 *
 * A key counts as long as the record names its peer, so a crash between the last two loses nothing.
 * Peers of an older version take themselves out of the record.
 */
import { METADATA_TRANSACTION_OPS_MAX } from '../core/limits.ts'
import { type Follower, type Following, follow } from '../metadata/follow.ts'
import type { Compare } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import type { Membership } from './membership.ts'
import { type DeletedRecord, decodeRecord, encodeRecord, type PeerRecord } from './records.ts'

/** So long after the last peer of several, the record is written without them. */
const GATHER_MS = 2000
/** So long after the first, whoever is still coming. */
const GATHER_MS_MAX = 10_000

/** Whether a deletion has to wait for it. */
export const mayHoldBlocks = ({ state }: PeerRecord): boolean => state !== 'removed'

/** How the keys of a deletion end. */
export const nameOf = ({ family, part }: DeletedRecord): string =>
  part === undefined ? family : `${family}-${part}`

export class Deletions {
  readonly #cluster: Cluster

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** Those that some peer has not confirmed, as far as the records tell. */
  async list(): Promise<DeletedRecord[]> {
    const entries = await this.#cluster.readAll(this.#cluster.keys.deletions)
    return entries.map(({ key, value }) => decodeRecord('deleted', key, value))
  }

  /** This peer has no block of these layers any more, durably. Known to be so: nothing happens. */
  async confirm(deleted: DeletedRecord): Promise<void> {
    const { keys, store, self } = this.#cluster
    const name = nameOf(deleted)
    const key = keys.deletions + name
    if (deleted.pendingPeers.every((peer) => peer === self.peerId)) return this.#end(key)
    // Of one that is over there is nothing to say.
    await store.transact({
      compare: [{ key, is: 'present' }],
      success: [{ put: keys.confirmed(name, self.peerId), value: Buffer.from('{"v":1}') }]
    })
  }

  /** Nobody else is named: this peer does not have to wait for a controller. */
  async #end(key: string): Promise<void> {
    const { store, self } = this.#cluster
    await untilSettled(`ending ${key}`, async () => {
      const entry = await store.get(key)
      if (entry === null) return true
      const record = decodeRecord('deleted', key, entry.value)
      const pendingPeers = record.pendingPeers.filter((peer) => peer !== self.peerId)
      const value = encodeRecord('deleted', { ...record, pendingPeers })
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry.modRevision }],
        success: [pendingPeers.length === 0 ? { delete: key } : { put: key, value }]
      })
      return succeeded ? true : null
    })
  }
}

interface Confirmed {
  readonly peers: Set<string>
  readonly firstMs: number
  lastMs: number
}

/** The controller's part. */
export class DeletionKeeper {
  readonly #cluster: Cluster
  readonly #membership: Membership
  /** By name of the deletion. */
  readonly #confirmed = new Map<string, Confirmed>()
  #following: Following | null = null
  /** Somebody was removed, or this process is new here: no key tells of that. */
  #isAllDue = true

  constructor(cluster: Cluster, membership: Membership) {
    this.#cluster = cluster
    this.#membership = membership
    membership.onChange((peer) => {
      if (this.#isRemoved(peer)) this.#isAllDue = true
    })
  }

  /** As long as it is elected, once a round. @throws StoreError */
  async step(isElected: Compare): Promise<void> {
    this.#following ??= this.#follow()
    await this.#following.ready
    const now = this.#cluster.clock.monotonicMs()
    const isQuiet = ({ firstMs, lastMs }: Confirmed): boolean =>
      now - lastMs >= GATHER_MS || now - firstMs >= GATHER_MS_MAX
    for (const [name, confirmed] of this.#confirmed) {
      if (isQuiet(confirmed)) await this.#settle(name, confirmed.peers, isElected)
    }
    if (!this.#isAllDue) return
    for (const deleted of await new Deletions(this.#cluster).list()) {
      const hasLeft = (peer: string): boolean => this.#isRemoved(peer)
      const isShorter = deleted.pendingPeers.some(hasLeft)
      if (isShorter) await this.#settle(nameOf(deleted), new Set(), isElected)
    }
    this.#isAllDue = false
  }

  /** Not elected any more. */
  stop(): void {
    this.#following?.stop()
    this.#following = null
    this.#confirmed.clear()
    this.#isAllDue = true
  }

  /** One that was removed never comes back with what it has. */
  #isRemoved(peer: string): boolean {
    const view = this.#membership.peer(peer)
    return view !== null && !mayHoldBlocks(view.record)
  }

  #follow(): Following {
    const { keys, store, timers, clock } = this.#cluster
    const partsOf = (key: string): [string, string] => {
      const [name = '', peer = ''] = key.slice(keys.confirmations.length).split('/')
      return [name, peer]
    }
    const follower: Follower = {
      onPut: ({ key }) => {
        const [name, peer] = partsOf(key)
        const nowMs = clock.monotonicMs()
        const known = this.#confirmed.get(name)
        known?.peers.add(peer)
        if (known !== undefined) known.lastMs = nowMs
        else this.#confirmed.set(name, { peers: new Set([peer]), firstMs: nowMs, lastMs: nowMs })
      },
      onDelete: (key) => {
        const [name, peer] = partsOf(key)
        const known = this.#confirmed.get(name)
        known?.peers.delete(peer)
        if (known?.peers.size === 0) this.#confirmed.delete(name)
      }
    }
    return follow(store, keys.confirmations, follower, timers)
  }

  async #settle(name: string, confirmed: Set<string>, isElected: Compare): Promise<void> {
    const { keys, store } = this.#cluster
    const key = keys.deletions + name
    const peers = [...confirmed]
    const entry = await store.get(key)
    if (entry !== null) {
      const record = decodeRecord('deleted', key, entry.value)
      const isLeft = (peer: string): boolean => !confirmed.has(peer) && !this.#isRemoved(peer)
      const pendingPeers = record.pendingPeers.filter(isLeft)
      if (pendingPeers.length < record.pendingPeers.length) {
        const value = encodeRecord('deleted', { ...record, pendingPeers })
        const { succeeded } = await store.transact({
          compare: [isElected, { key, modRevision: entry.modRevision }],
          success: [pendingPeers.length === 0 ? { delete: key } : { put: key, value }]
        })
        if (!succeeded) return
      }
    }
    for (let from = 0; from < peers.length; from += METADATA_TRANSACTION_OPS_MAX) {
      const some = peers.slice(from, from + METADATA_TRANSACTION_OPS_MAX)
      const success = some.map((peer) => ({ delete: keys.confirmed(name, peer) }))
      const { succeeded } = await store.transact({ compare: [isElected], success })
      if (!succeeded) return
    }
  }
}
