import { ErrorCode, StoreError } from '../core/errors.ts'
import { follow } from '../metadata/follow.ts'
import type { Entry, LeaseId } from '../metadata/store.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import type { Claim } from './group-table.ts'
import {
  decodeRecord,
  encodeRecord,
  type FamilyRecord,
  type GroupMember,
  type VolumeRecord
} from './records.ts'

const WRITER_EPOCH_MAX = 0xffffffff

/** The lease that writer records are bound to. */
export interface LeaseHolder {
  readonly lease: LeaseId
  /** Asks for the lease now; takes a new one when it has ended. */
  renew(): Promise<void>
}

/** The right to write a family, as it was taken. */
export interface TakenWriter {
  readonly writerEpoch: number
  /** The writer record, by which other changes of this writer can be bound to it. */
  readonly claim: Claim
  /** Highest writerEpoch given out before; 0 for none. */
  readonly previousEpoch: number
  /** Versions of writers before this one are in all members in sync, R17; 0 for none. */
  readonly settledEpoch: number
  /** The writer before left nothing undone. */
  readonly wasClean: boolean
  /** This process had it all the time. */
  readonly wasHeld: boolean
  /**
   * Processes of other peers that had it, and of which no takeover made sure that they know; null
   * where an older program did not say who had it last.
   */
  readonly former: readonly GroupMember[] | null
}

/** Who has the right to write a family. */
export interface WriterHolder {
  readonly gateway: string
  readonly bootId: string
  readonly lease: LeaseId
  /** It lets go for whoever asks. */
  readonly isOffered: boolean
}

export interface HandoverListener {
  /** `ifOffered`: it wants it only from a writer that lets go for anyone. */
  onAsked(family: string, ifOffered: boolean): void
  /** It does not any more: it has the family, or gave up. */
  onEnd(family: string): void
}

/** The right to write a family: one peer has it, bound to its lease, under a fencing token. */
export class Writers {
  readonly #cluster: Cluster
  readonly #session: LeaseHolder

  constructor(cluster: Cluster, session: LeaseHolder) {
    this.#cluster = cluster
    this.#session = session
  }

  /** Takes the writer lease, see `take`, and returns the writerEpoch. */
  async acquire(volume: VolumeRecord): Promise<number> {
    return (await this.take(volume)).writerEpoch
  }

  /**
   * Takes the writer lease of the volume's family, or takes it anew, under a writerEpoch above
   * every one given out before. A lease that an earlier process of this peer left behind is
   * taken over at once, because that process cannot live: this one owns the data directory.
   * `onlyAfter` takes it only if no other writer was there since that writerEpoch was given out.
   * @throws StoreError Busy when another peer has it, or had it; NotFound when the volume is gone
   */
  async take(volume: VolumeRecord, onlyAfter: number | null = null): Promise<TakenWriter> {
    const { keys, store, self } = this.#cluster
    const familyKey = keys.family(volume.family)
    const writerKey = keys.writer(volume.family)
    return untilSettled(`opening ${volume.name} for writing`, async () => {
      const { entries } = await store.transact({
        success: [{ get: familyKey }, { get: writerKey }, { get: keys.volume(volume.id) }]
      })
      const [family = null, writer = null, present = null] = entries
      if (present === null) {
        throw new StoreError(ErrorCode.NotFound, `volume ${volume.name} was deleted`)
      }
      const held = writer === null ? null : decodeRecord('writer', writerKey, writer.value)
      if (held !== null && held.gateway !== self.peerId) {
        const text = `volume ${volume.name} is open for writing on peer ${held.gateway}`
        throw new StoreError(ErrorCode.Busy, text)
      }
      const old = family === null ? null : decodeRecord('family', familyKey, family.value)
      const previousEpoch = Math.max(old?.writerEpoch ?? 0, held?.writerEpoch ?? 0)
      if (onlyAfter !== null && previousEpoch !== onlyAfter) {
        throw new StoreError(ErrorCode.Busy, `volume ${volume.name} had another writer meanwhile`)
      }
      const writerEpoch = previousEpoch + 1
      if (writerEpoch > WRITER_EPOCH_MAX) {
        throw new StoreError(ErrorCode.LimitReached, `volume ${volume.name} is out of writerEpochs`)
      }
      const wasClean = old?.clean === true || previousEpoch === 0
      const record = { v: 1, gateway: self.peerId, bootId: self.bootId, writerEpoch } as const
      const revision = await this.#put({
        compare: [
          { key: familyKey, modRevision: family?.modRevision ?? 0 },
          { key: writerKey, modRevision: writer?.modRevision ?? 0 },
          { key: present.key, is: 'present' }
        ],
        family: { key: familyKey, value: encodeRecord('family', begun(old, record)) },
        writer: { key: writerKey, value: encodeRecord('writer', record) },
        // Of who had it before.
        offerKey: keys.offer(volume.family)
      })
      if (revision === null) return null
      const claim = { key: writerKey, modRevision: revision }
      const wasHeld = held?.bootId === self.bootId
      const isTold = wasClean || old?.gateway !== undefined
      const former = isTold ? formerOf(old, self.peerId) : null
      const settledEpoch = old?.settledEpoch ?? 0
      return { writerEpoch, claim, previousEpoch, settledEpoch, wasClean, wasHeld, former }
    })
  }

  /** Who has the lease now. */
  async holder(family: string): Promise<WriterHolder | null> {
    const { keys, store } = this.#cluster
    const [key, offerKey] = [keys.writer(family), keys.offer(family)]
    const { entries } = await store.transact({ success: [{ get: key }, { get: offerKey }] })
    const [entry = null, offer = null] = entries
    if (entry === null) return null
    const { gateway, bootId } = decodeRecord('writer', key, entry.value)
    const isOffered =
      offer !== null && decodeRecord('offer', offerKey, offer.value).gateway === gateway
    return { gateway, bootId, lease: entry.lease, isOffered }
  }

  /**
   * Ends the lease of a writer that does not let go, and all else that it holds by it. First its
   * peer's record says so: that it may trust the lease yet concerns all that it holds.
   */
  async revoke({ gateway, bootId, lease }: WriterHolder): Promise<void> {
    const { keys, store } = this.#cluster
    const key = keys.peer(gateway)
    await untilSettled(`peer ${gateway}`, async () => {
      const entry = await store.get(key)
      if (entry === null) return true
      const record = decodeRecord('peer', key, entry.value)
      if (record.bootId !== bootId || record.revokedBootId === bootId) return true
      const value = encodeRecord('peer', { ...record, revokedBootId: bootId })
      const compare = [{ key, modRevision: entry.modRevision }]
      return (await store.transact({ compare, success: [{ put: key, value }] })).succeeded || null
    })
    try {
      await this.#cluster.store.revokeLease(lease)
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      // It has ended meanwhile.
    }
  }

  /**
   * How long a process that had a family may go on reading it: not at all if its peer runs another
   * one now, `endedMs` if its lease ended by itself, `revokedMs` if it was revoked.
   */
  async trustOf({ peer, boot }: GroupMember, endedMs: number, revokedMs: number): Promise<number> {
    const { keys, store } = this.#cluster
    const key = keys.peer(peer)
    const entry = await store.get(key)
    if (entry === null) return revokedMs
    const { bootId, revokedBootId } = decodeRecord('peer', key, entry.value)
    if (bootId !== boot) return 0
    return revokedBootId === boot ? revokedMs : endedMs
  }

  /** Asks the writer of the family to let it go; `ifOffered`: only if it would for anyone. */
  async askFor(family: string, ifOffered: boolean): Promise<void> {
    const { keys, store, self } = this.#cluster
    const value = encodeRecord('handover', { v: 1, gateway: self.peerId, ifOffered })
    await untilSettled(`asking for family ${family}`, async () => {
      try {
        const { lease } = this.#session
        await store.transact({ success: [{ put: keys.handover(family), value, lease }] })
        return true
      } catch (thrown) {
        await this.#renewAfter(thrown)
        return null
      }
    })
  }

  async askNoMore(family: string): Promise<void> {
    const { keys, store } = this.#cluster
    await store.transact({ success: [{ delete: keys.handover(family) }] })
  }

  /** Tells of each family that another gateway asks for, and of the end of that. */
  onAsked(listener: HandoverListener): () => void {
    const { keys, store, timers, self } = this.#cluster
    const familyOf = (key: string): string => key.slice(keys.handovers.length)
    const onPut = ({ key, value }: Entry): void => {
      const { ifOffered = false, gateway } = decodeRecord('handover', key, value)
      if (gateway === self.peerId) listener.onEnd(familyOf(key))
      else listener.onAsked(familyOf(key), ifOffered)
    }
    const onDelete = (key: string): void => listener.onEnd(familyOf(key))
    const following = follow(store, keys.handovers, { onPut, onDelete }, timers)
    return () => following.stop()
  }

  /** Says whether this writer lets the family go for whoever asks, while it has it. */
  async offer(family: string, claim: Claim, isOffered: boolean): Promise<void> {
    const { keys, store, self } = this.#cluster
    const key = keys.offer(family)
    const value = encodeRecord('offer', { v: 1, gateway: self.peerId })
    const { lease } = this.#session
    await store.transact({
      compare: [claim],
      success: [isOffered ? { put: key, value, lease } : { delete: key }]
    })
  }

  /**
   * Members in sync agree about all that was written before, and nobody reads who had the family:
   * see FamilyRecord.
   */
  async settle(family: string, { writerEpoch, claim }: TakenWriter): Promise<void> {
    const settled = ({ former: _, ...old }: FamilyRecord): FamilyRecord => ({
      ...old,
      settledEpoch: writerEpoch
    })
    await this.#change(family, claim, settled, [])
  }

  /** Gives the lease back and leaves word that nothing is undone. */
  async leaveClean(family: string, claim: Claim): Promise<void> {
    const { keys } = this.#cluster
    const left = [{ delete: claim.key }, { delete: keys.offer(family) }]
    await this.#change(family, claim, (old) => ({ ...old, clean: true }), left)
  }

  /** Gives the lease back, if it is this process's. */
  async release(volume: VolumeRecord): Promise<void> {
    const { keys, store, self } = this.#cluster
    const key = keys.writer(volume.family)
    const entry = await store.get(key)
    if (entry === null) return
    const { gateway, bootId } = decodeRecord('writer', key, entry.value)
    if (gateway !== self.peerId || bootId !== self.bootId) return
    await store.transact({
      compare: [{ key, modRevision: entry.modRevision }],
      success: [{ delete: key }, { delete: keys.offer(volume.family) }]
    })
  }

  /** @throws StoreError Closed when the claim does not hold any more */
  async #change(
    family: string,
    claim: Claim,
    edit: (old: FamilyRecord) => FamilyRecord,
    operations: readonly { readonly delete: string }[]
  ): Promise<void> {
    const { keys, store } = this.#cluster
    const key = keys.family(family)
    await untilSettled(`family ${family}`, async () => {
      const { entries } = await store.transact({ success: [{ get: key }, { get: claim.key }] })
      const [entry = null, writer = null] = entries
      if (entry === null || writer?.modRevision !== claim.modRevision) {
        throw new StoreError(ErrorCode.Closed, `family ${family}: the writer lease is lost`)
      }
      const record = edit(decodeRecord('family', key, entry.value))
      const { succeeded } = await store.transact({
        compare: [{ key, modRevision: entry.modRevision }, claim],
        success: [{ put: key, value: encodeRecord('family', record) }, ...operations]
      })
      return succeeded ? true : null
    })
  }

  /** The revision of the change; null when something else changed meanwhile. */
  async #put(change: {
    compare: readonly ({ key: string } & ({ modRevision: number } | { is: 'present' }))[]
    family: { key: string; value: Buffer }
    writer: { key: string; value: Buffer }
    offerKey: string
  }): Promise<number | null> {
    try {
      const { succeeded, revision } = await this.#cluster.store.transact({
        compare: change.compare,
        success: [
          { put: change.family.key, value: change.family.value },
          { put: change.writer.key, value: change.writer.value, lease: this.#session.lease },
          { delete: change.offerKey }
        ]
      })
      return succeeded ? revision : null
    } catch (thrown) {
      await this.#renewAfter(thrown)
      return null
    }
  }

  /** The session's lease ended: after a long pause of the process, or it was revoked. */
  async #renewAfter(thrown: unknown): Promise<void> {
    if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
    await this.#session.renew()
  }
}

/** The family's record while `writer` writes. What was left clean is settled by that. */
function begun(
  old: FamilyRecord | null,
  writer: { readonly writerEpoch: number; readonly gateway: string; readonly bootId: string }
): FamilyRecord {
  const { writerEpoch, gateway: peer, bootId: boot } = writer
  const gateway = { peer, boot }
  if (old === null) return { v: 1, writerEpoch, gateway }
  const { clean = false, former: _, ...kept } = old
  if (clean) return { ...kept, writerEpoch, gateway, settledEpoch: writerEpoch }
  const former = formerOf(old, peer)
  return { ...kept, writerEpoch, gateway, ...(former.length === 0 ? {} : { former }) }
}

/** An earlier process of the same peer does not run any more: the data directory is locked. */
function formerOf(old: FamilyRecord | null, self: string): GroupMember[] {
  if (old === null || old.clean === true) return []
  const { former = [], gateway } = old
  const all = gateway === undefined ? former : [...former, gateway]
  return all.filter(
    ({ peer, boot }, at) =>
      peer !== self && all.findIndex((each) => each.peer === peer && each.boot === boot) === at
  )
}
