import type { Cluster } from '../cluster/cluster.ts'
import type { PoolView } from '../cluster/group-table.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import type { TakenWriter, Writers } from '../cluster/writers.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { HANDOVER_MS, HANDOVER_POLL_MS, MEMBER_TRUST_MS, SESSION_TTL_MS } from '../core/limits.ts'
import type { FamilyIo } from './family-io.ts'
import type { ReplicatedStore } from './replicated-store.ts'
import { type FormerReader, Takeover } from './takeover.ts'
import { WriterOffers } from './writer-offers.ts'

/**
 * Why a volume that is served here has to be given up: another gateway has it, or asks for it; or
 * its members restarted, and writes may be lost that no flush followed.
 */
export type LossReason = 'fenced' | 'wanted' | 'powerLoss'

export interface ReplicatedWritersOptions {
  readonly store: ReplicatedStore
  readonly cluster: Cluster
  readonly writers: Writers
  /** The pool of a volume. @throws StoreError */
  readonly poolOf: (volume: VolumeRecord) => Promise<PoolView>
  /** TTL of sessions: how long a gateway trusts a lease that was revoked. */
  readonly ttlMs?: number
}

export interface AcquireOptions {
  /** A gateway that has it is asked to let go, and loses it when it does not. */
  readonly takeover?: boolean
  /** It is not even asked if it offers that. */
  readonly waits?: boolean
  readonly onLost: (why: LossReason) => void
}

interface OpenFamily {
  readonly family: FamilyIo
  readonly onLost: (why: LossReason) => void
  /** A lost lease was taken anew, and what follows from that is not done. */
  isRetaking: boolean
}

/** The right to write volumes whose blocks are replicated: with it comes the takeover. */
export class ReplicatedWriters {
  /** Others may serve the same volumes: see WriterGate of the volume layer. */
  readonly isShared = true
  readonly #options: ReplicatedWritersOptions
  readonly #open = new Map<string, OpenFamily>()
  /** Families that are being acquired. */
  readonly #acquiring = new Set<string>()
  readonly #offers: WriterOffers
  /** Families that another gateway asks for, and until when they are left to it. */
  readonly #wantedMs = new Map<string, number>()
  #stopListening: (() => void) | null = null

  constructor(options: ReplicatedWritersOptions) {
    this.#options = options
    this.#offers = new WriterOffers(options.writers, options.store.timers)
  }

  /**
   * Takes the writer lease and serves the family; returns the writerEpoch.
   * @throws StoreError Busy when another peer has it, NotFound when the volume is gone
   */
  async acquire(volume: VolumeRecord, options: AcquireOptions): Promise<number> {
    const known = this.#open.get(volume.family)
    const isOpen = known !== undefined && !known.family.isClosed
    if (isOpen || this.#acquiring.has(volume.family)) {
      // Versions of one writerEpoch are counted in one place.
      throw new StoreError(ErrorCode.Busy, `volume ${volume.name} is open here already`)
    }
    this.#acquiring.add(volume.family)
    try {
      return await this.#acquire(volume, options)
    } finally {
      this.#acquiring.delete(volume.family)
    }
  }

  async #acquire(volume: VolumeRecord, options: AcquireOptions): Promise<number> {
    const { store, writers, poolOf } = this.#options
    this.#listen()
    const pool = store.pool(await poolOf(volume))
    const taken = await this.#take(volume, options)
    const readers = await this.#readers(taken)
    const family = store.openFamily(pool, {
      family: volume.family,
      writerEpoch: taken.writerEpoch,
      claim: taken.claim,
      unavailableMs: volume.unavailableMs ?? null,
      onFenced: () => options.onLost('fenced'),
      onPowerLoss: () => options.onLost('powerLoss')
    })
    try {
      await new Takeover({ store, writers, family, taken, readers }).run()
    } catch (thrown) {
      store.closeFamily(family)
      throw thrown
    }
    if (family.isClosed) throw lost(volume)
    family.isServed = true
    this.#open.set(volume.family, { family, onLost: options.onLost, isRetaking: false })
    this.#offers.begin(volume.family, taken.claim)
    if (this.#isWanted(volume.family)) {
      await this.release(volume)
      throw wanted(volume)
    }
    return taken.writerEpoch
  }

  /**
   * Takes the lease anew under a higher writerEpoch: the session was replaced, or sequence numbers
   * run low. Clients wait meanwhile. If the lease was lost in between, members may have come
   * whose versions nobody compared: they are made equal as in a takeover.
   * @throws StoreError Busy when another gateway had it meanwhile
   */
  async retake(volume: VolumeRecord): Promise<number> {
    const known = this.#open.get(volume.family)
    if (known === undefined || known.family.isClosed) throw lost(volume)
    const { family } = known
    const { store, writers } = this.#options
    family.isRetaken = true
    // What the takeover before could not reach is not equal for being taken anew.
    known.isRetaking ||= family.unsettled.size > 0
    for (const { index } of family.pool.all()) family.unsettled.add(index)
    try {
      const taken = await writers.take(volume, family.writerEpoch)
      family.raise(taken.writerEpoch, taken.claim)
      this.#offers.begin(volume.family, taken.claim)
      family.isRetaken = false
      const isWhole = taken.wasHeld && !known.isRetaking
      known.isRetaking = !isWhole
      const again = { ...taken, wasClean: isWhole }
      await new Takeover({ store, writers, family, taken: again, readers: [] }).run()
      known.isRetaking = false
      return taken.writerEpoch
    } catch (thrown) {
      const isLost =
        thrown instanceof StoreError &&
        (thrown.code === ErrorCode.Busy || thrown.code === ErrorCode.Closed)
      if (isLost) store.fence(family)
      throw thrown
    } finally {
      family.isRetaken = false
    }
  }

  /** This peer was asked to admit nothing of the family below `writerEpoch`. */
  noteFence(family: string, writerEpoch: number): void {
    const known = this.#open.get(family)?.family
    if (known !== undefined && known.writerEpoch < writerEpoch) this.#options.store.fence(known)
  }

  /** What `retake` returned is in use: nothing more is written under an older writerEpoch. */
  noteEpoch(volume: VolumeRecord, writerEpoch: number): void {
    const known = this.#open.get(volume.family)?.family
    if (known !== undefined) known.begunEpoch = writerEpoch
  }

  /** Nobody waits for it here, or somebody does: see WriterGate of the volume layer. */
  offer(volume: VolumeRecord, isOffered: boolean): void {
    this.#offers.set(volume.family, isOffered)
  }

  /** The record of a volume that may be served here is another now. */
  noteChange(volume: VolumeRecord): void {
    const known = this.#open.get(volume.family)
    if (known !== undefined) known.family.unavailableMs = volume.unavailableMs ?? null
  }

  /**
   * Serves the family no more and gives the lease back. Nothing is asked of it any more; what is
   * pending is waited for a while, and left to the next takeover then.
   */
  async release(volume: VolumeRecord): Promise<void> {
    const { store, writers } = this.#options
    const known = this.#open.get(volume.family)
    this.#open.delete(volume.family)
    this.#offers.end(volume.family)
    if (known === undefined) return
    const { family } = known
    const isClean = !family.isClosed && (await this.#drain(family))
    const { claim, isClosed } = family
    store.closeFamily(family)
    if (isClosed) await writers.release(volume)
    else if (isClean) await writers.leaveClean(volume.family, claim)
    else await writers.release(volume)
  }

  close(): void {
    this.#stopListening?.()
    this.#stopListening = null
  }

  /** True when every write is on the disks of all members. */
  async #drain(family: FamilyIo): Promise<boolean> {
    const { store } = this.#options
    const endMs = store.clock.monotonicMs() + HANDOVER_MS
    while (store.clock.monotonicMs() < endMs && !family.isClosed) {
      // The next takeover has to settle it anyway.
      if (family.unsettled.size > 0) return false
      if (family.pending === 0) {
        const isFlushed = await this.#flush(family, endMs)
        if (family.pending > 0) continue
        return isFlushed && !family.isTainted && family.unsettled.size === 0 && !family.isClosed
      }
      await this.#sleep(HANDOVER_POLL_MS)
    }
    return false
  }

  #flush(family: FamilyIo, endMs: number): Promise<boolean> {
    const { store } = this.#options
    return new Promise((resolve) => {
      const cancel = store.timers.start(endMs - store.clock.monotonicMs(), () => resolve(false))
      store.flushes.flush(family, (error) => {
        cancel()
        resolve(error === 0 && family.dirtyGroups.size === 0)
      })
      store.wake()
    })
  }

  /** R16: who may read the family yet, after it was taken from them. */
  async #readers({ former, wasClean }: TakenWriter): Promise<FormerReader[]> {
    const { writers, ttlMs = SESSION_TTL_MS } = this.#options
    if (wasClean) return []
    // Somebody, of whom nothing is known.
    if (former === null) return [{ peer: '', boot: '', trustMs: ttlMs }]
    const readers: FormerReader[] = []
    for (const each of former) {
      const trustMs = await writers.trustOf(each, MEMBER_TRUST_MS, ttlMs)
      if (trustMs > 0) readers.push({ ...each, trustMs })
    }
    return readers
  }

  async #take(
    volume: VolumeRecord,
    { takeover = false, waits = false }: AcquireOptions
  ): Promise<TakenWriter> {
    const { writers, cluster } = this.#options
    if (!takeover && this.#isWanted(volume.family)) throw wanted(volume)
    for (let asked = false; ; asked = true) {
      const holder = await writers.holder(volume.family)
      const isOther = holder !== null && holder.gateway !== cluster.self.peerId
      const isAsked = isOther && (takeover || (holder.isOffered && !waits))
      if (isAsked && !(await this.#ask(volume.family, !takeover)) && takeover) {
        await writers.revoke(holder)
      }
      try {
        return await writers.take(volume)
      } catch (thrown) {
        const isBusy = thrown instanceof StoreError && thrown.code === ErrorCode.Busy
        if (!isBusy || !isAsked || asked) throw thrown
      }
    }
  }

  /** Asks the gateway that has the family to let go; true if it did. */
  async #ask(family: string, ifOffered: boolean): Promise<boolean> {
    const { writers, store } = this.#options
    await writers.askFor(family, ifOffered)
    const endMs = store.clock.monotonicMs() + HANDOVER_MS
    let holder = await writers.holder(family)
    while (holder !== null && store.clock.monotonicMs() < endMs) {
      await this.#sleep(HANDOVER_POLL_MS)
      holder = await writers.holder(family)
    }
    await writers.askNoMore(family)
    return holder === null
  }

  /** Hears when another gateway asks for a family. */
  #listen(): void {
    const { store, writers } = this.#options
    this.#stopListening ??= writers.onAsked({
      onAsked: (family, ifOffered) => {
        if (ifOffered && !this.#offers.has(family)) return
        if (!ifOffered) this.#wantedMs.set(family, store.clock.monotonicMs() + HANDOVER_MS)
        this.#open.get(family)?.onLost('wanted')
      },
      onEnd: (family) => this.#wantedMs.delete(family)
    })
  }

  /**
   * Its clients come back at once, and it would be taken again before the other one has it. For
   * so long as that one waits before it ends our lease, at most.
   */
  #isWanted(family: string): boolean {
    const untilMs = this.#wantedMs.get(family) ?? 0
    if (this.#options.store.clock.monotonicMs() < untilMs) return true
    this.#wantedMs.delete(family)
    return false
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.store.timers.start(ms, resolve)
    })
  }
}

const wanted = (volume: VolumeRecord): StoreError =>
  new StoreError(ErrorCode.Busy, `volume ${volume.name} moves to another gateway just now`)
const lost = (volume: VolumeRecord): StoreError =>
  new StoreError(ErrorCode.Closed, `volume ${volume.name}: another gateway took it over`)
