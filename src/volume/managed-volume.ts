import { parseId64 } from '../cluster/ids.ts'
import type { SnapshotRecord, VolumeRecord } from '../cluster/records.ts'
import type { VolumeChange, VolumeDirectory } from '../cluster/volume-directory.ts'
import type { Arena } from '../core/arena.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { SNAPSHOT_HOLD_MS } from '../core/limits.ts'
import { type Limits, NO_LIMITS } from './admission.ts'
import { BlockVolume } from './block-volume.ts'
import type { Locks } from './locks.ts'
import { OpenVolume, usersOf } from './open-volume.ts'
import { VolumeEnd } from './volume-end.ts'
import { VolumeHead } from './volume-head.ts'
import type { VolumeHistory } from './volume-history.ts'
import type { OpenOptions } from './volume-options.ts'
import type { VolumeRequest } from './request.ts'
import type { VolumeIo } from './volume-io.ts'
import type { VolumeKeyring } from './volume-keyring.ts'
import { type SettingsChange, settingsOf } from './volume-settings.ts'
import type { LossReason, WriterGate } from './writer-gate.ts'

/** Between attempts to take a writer lease anew. */
const RETRY_MS = 1000

/** Another peer has the volume, or it is gone. */
const lostCodes: readonly number[] = [ErrorCode.Busy, ErrorCode.NotFound, ErrorCode.Closed]

/** What volumes share beside the request path. */
export interface ManagedContext {
  readonly io: VolumeIo
  /** Of encrypted volumes; with the keyring. */
  readonly sealedIo: VolumeIo | null
  /** null in a process that serves no encrypted volumes. */
  readonly keyring: VolumeKeyring | null
  readonly directory: VolumeDirectory
  readonly gate: WriterGate
  readonly history: VolumeHistory
  /** By volume id: whatever changes a volume, or opens it, does so alone. */
  readonly locks: Locks
  readonly trouble: (what: string, thrown: unknown) => void
  /** Ends the connections of a volume's clients. */
  readonly disconnect: (volume: string) => void | Promise<void>
}

/**
 * A volume that was opened in this process: its record, its request path, all opens of it, and
 * what needs both metadata and bytes. Methods that say *alone* are called under its lock.
 *
 * The size that clients see is `volume.sizeBytes`. `record.sizeBytes` may lag behind it by appends
 * that no flush recorded yet; nothing was ever written from `record.touchedBytes` on.
 */
export class ManagedVolume {
  record: VolumeRecord
  readonly volume: BlockVolume
  readonly opens: Set<OpenVolume> = new Set()
  readonly end: VolumeEnd
  readonly head: VolumeHead
  readonly #context: ManagedContext
  /** As they are in force. */
  #limits: Limits = NO_LIMITS
  /** It was deleted. */
  isGone = false
  #copies: Promise<void> = Promise.resolve()

  constructor(context: ManagedContext, record: VolumeRecord, unitBytes: number) {
    this.#context = context
    this.record = record
    this.end = new VolumeEnd(this, unitBytes)
    this.head = new VolumeHead(this)
    this.volume = this.#pathTo(record.name, record.sizeBytes, record.headLayer)
    this.#followRecord()
    this.volume.ops.onSequenceLow = () => this.retakeWriter()
  }

  /** The request path to one of its layers. */
  #pathTo(name: string, sizeBytes: number, headLayer: string): BlockVolume {
    const { encryption, unavailableMs = null } = this.record
    const family = parseId64(this.record.family)
    const layer = parseId64(headLayer)
    // Without keys it is never opened, see `#requireKey`.
    const { io, sealedIo } = this.#context
    const volume = new BlockVolume(encryption === undefined ? io : (sealedIo ?? io), {
      name,
      sizeBytes,
      identity: {
        familyHigh: family.high,
        familyLow: family.low,
        layerHigh: layer.high,
        layerLow: layer.low
      }
    })
    volume.unavailableMs = unavailableMs
    return volume
  }

  get arena(): Arena {
    return this.#context.io.arena
  }

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.#context.locks.run(this.record.id, work)
  }

  /** Opens it for one client, alone; for writing unless it or the client says otherwise. */
  async openAlone(options: OpenOptions): Promise<OpenVolume> {
    const { readOnly, takeover, own, background, yields = false } = options
    await this.#requireKey()
    const reads = readOnly === true || (this.record.readOnly && own !== true)
    if (!reads || this.#context.gate.isShared) await this.ensureWriter(takeover ?? false, yields)
    if (this.opens.size === 0 && own !== true) this.#context.history.served(this.record)
    const how = { isOwn: own === true, isBackground: background === true, yields }
    return this.#openPath(this.volume, { readOnly: reads, ...how })
  }

  /** Opens what the volume was, alone. */
  async openSnapshotAlone(
    { name, layer, sizeBytes }: SnapshotRecord,
    { takeover, own }: OpenOptions
  ): Promise<OpenVolume> {
    await this.#requireKey()
    if (this.#context.gate.isShared) await this.ensureWriter(takeover ?? false)
    const nameOf = (): string => `${this.volume.name}@${name}`
    const volume = this.#pathTo(nameOf(), sizeBytes, layer)
    volume.admission.shareLimits(this.volume.admission)
    const how = { readOnly: true, isOwn: own === true, snapshotLayer: layer, nameOf }
    return this.#openPath(volume, how)
  }

  #openPath(
    volume: BlockVolume,
    how: Omit<ConstructorParameters<typeof OpenVolume>[1], 'onClosed'>
  ): OpenVolume {
    const onClosed = (): void => {
      this.opens.delete(device)
      this.#offer()
      if (this.opens.size === 0) this.#letGo()
    }
    const device: OpenVolume = new OpenVolume(volume, { ...how, onClosed })
    this.opens.add(device)
    this.#offer()
    return device
  }

  #offer(): void {
    const isOffered = this.opens.size > 0 && [...this.opens].every(({ yields }) => yields)
    this.#context.gate.offer(this.record, isOffered)
  }

  /** Carries `request` out; resolves when it is over. Its `error` tells how. */
  run(device: OpenVolume, request: VolumeRequest, beyondEnd: boolean): Promise<void> {
    const { io } = this.#context
    return new Promise((resolve) => {
      request.onDone = () => resolve()
      if (beyondEnd) device.submitBeyondEnd(request)
      else device.submit(request)
      io.ringSoon()
    })
  }

  /** @throws StoreError Locked, Unavailable */
  async #requireKey(): Promise<void> {
    const { name, encryption } = this.record
    if (encryption === undefined) return
    const { keyring } = this.#context
    if (keyring !== null) return keyring.require(this.record)
    const text = `volume ${name} is encrypted (${encryption}), and this process has no keys`
    throw new StoreError(ErrorCode.Unavailable, text)
  }

  /** Ends all opens and gives the right to write back, alone. */
  async evictAlone(): Promise<void> {
    if (this.opens.size > 0) {
      this.shutOpens()
      await this.#context.disconnect(this.volume.name)
      await this.closeOpens()
    }
    await this.release()
  }

  /** Alone: nobody has it open then, here or on another gateway. @throws StoreError Busy */
  async leaveAlone(force: boolean): Promise<void> {
    this.requireUnused(force)
    await this.evictAlone()
    if (this.#context.gate.isShared) await this.ensureWriter(force)
  }

  /** @throws StoreError Busy while clients have it open, unless `force` */
  requireUnused(force: boolean): void {
    const users = usersOf(this.opens)
    if (users === '' || force) return
    const text = `volume ${this.volume.name} is in use by ${users}; --force disconnects them`
    throw new StoreError(ErrorCode.Busy, text)
  }

  /** Who has it open; not what goes on by itself. */
  get clients(): number {
    return [...this.opens].filter(({ isBackground }) => !isBackground).length
  }

  // ---- the right to write

  /** Alone. The first time in this process, what lies behind the end is removed. */
  async ensureWriter(takeover: boolean = false, waits: boolean = false): Promise<void> {
    if (this.volume.writable) return
    const onLost = (why: LossReason): void => this.#lost(why)
    const options = { takeover, waits, onLost }
    const writerEpoch = await this.#context.gate.acquire(this.record, options)
    try {
      await this.#followKeys()
      // Whoever had it until now may have changed its size.
      if (this.#context.gate.isShared) await this.refreshAlone()
    } catch (thrown) {
      await this.#context.gate.release(this.record)
      throw thrown
    }
    if (!this.isGone) this.volume.ops.startEpoch(writerEpoch)
    await this.end.trimLeftovers()
  }

  /** Gives the right to serve the volume back, alone, unless somebody opened it meanwhile. */
  async release(): Promise<void> {
    const { gate } = this.#context
    if (!gate.isShared || !this.volume.writable || this.opens.size > 0) return
    await this.end.recordAtCloseAlone()
    this.volume.ops.fence()
    await gate.release(this.record)
  }

  #letGo(): void {
    if (!this.#context.gate.isShared || this.isGone) return
    this.exclusively(() => this.release()).catch((thrown: unknown) => {
      this.#context.trouble(`giving volume ${this.volume.name} back`, thrown)
    })
  }

  /** Clients have to find another gateway, or this one again. */
  #lost(why: LossReason): void {
    if (this.isGone) return
    this.shutOpens()
    if (why !== 'wanted') this.volume.ops.fence()
    const leave = async (): Promise<void> => {
      await this.#context.disconnect(this.volume.name)
      await this.closeOpens()
      await this.exclusively(async () => {
        // What is closed with clients goes by `release`; what was lost has nothing to drain.
        // Clients that came back meanwhile go, too: nobody else has it before.
        if (this.volume.writable) await (why === 'wanted' ? this.evictAlone() : this.release())
        else if (this.opens.size === 0) await this.#context.gate.release(this.record)
      })
    }
    leave().catch((thrown: unknown) => {
      this.#context.trouble(`leaving volume ${this.volume.name}`, thrown)
    })
  }

  /**
   * Takes the writer lease anew, under a higher writerEpoch: the lease ended, after a long pause
   * for instance, or the sequence numbers run low. If another writer has it, writing stops.
   */
  retakeWriter(): void {
    if (this.isGone || !this.volume.writable) return
    this.#retake().catch((thrown: unknown) => {
      const lost = thrown instanceof StoreError && lostCodes.includes(thrown.code)
      if (lost) this.volume.ops.fence()
      else setTimeout(() => this.retakeWriter(), RETRY_MS).unref()
      this.#context.trouble(`taking the writer lease of ${this.volume.name} again`, thrown)
    })
  }

  /**
   * Alone. From its return on nothing is written under a writer epoch below `least`, nor is
   * something on its way that was begun before.
   */
  async raiseEpochAlone(least: number): Promise<void> {
    await this.ensureWriter()
    if (this.volume.ops.writerEpoch < least) await this.#retake()
    const { volume } = this
    if (volume.ops.writerEpoch < least) {
      const text = `volume ${volume.name}: its writer lease was lost meanwhile`
      throw new StoreError(ErrorCode.Closed, text)
    }
    await volume.quiesce(SNAPSHOT_HOLD_MS)
    volume.resume()
    await this.copyAlone(async () => {})
    if (volume.io.store.hasDetached?.(volume.ops.identity) !== true) return
    const text = `volume ${volume.name}: writes that clients gave up wait for members that are away`
    throw new StoreError(ErrorCode.Unavailable, text)
  }

  /** Runs what reads and writes a layer past clients, one after the other. */
  copyAlone(copy: () => Promise<void>): Promise<void> {
    const done = this.#copies.then(copy)
    this.#copies = done.catch(() => {})
    return done
  }

  async #retake(): Promise<void> {
    const writerEpoch = await this.#context.gate.retake(this.record)
    await this.#followKeys()
    if (this.isGone || !this.volume.writable) return
    this.volume.ops.startEpoch(writerEpoch)
    this.#context.gate.noteEpoch(this.record, writerEpoch)
  }

  /**
   * Between taking a writerEpoch and writing under it: another peer may have begun a rekey, and a
   * data key is for all epochs above those that were given out when it was made.
   */
  async #followKeys(): Promise<void> {
    if (this.record.encryption !== undefined) await this.#context.keyring?.follow(this.record)
  }

  // ---- changes

  /** Alone. The record was changed, by another process perhaps: it takes effect here. */
  async refreshAlone(): Promise<void> {
    const record = await this.#context.directory.find(this.record.id)
    if (record === null || this.isGone) return
    const { volume } = this
    this.record = record
    this.#followRecord()
    // Who writes may be ahead of the record; the end of what is served goes back by `resize` alone.
    if (!volume.writable || record.sizeBytes > volume.sizeBytes) volume.sizeBytes = record.sizeBytes
    if (!volume.writable) volume.ops.openLayer(parseId64(record.headLayer))
    if (record.readOnly) for (const open of this.opens) open.freeze()
    this.#context.gate.noteChange(record)
  }

  #followRecord(): void {
    const { volume, record } = this
    volume.name = record.name
    volume.unavailableMs = record.unavailableMs ?? null
    const { limits = NO_LIMITS } = record
    const { iops, iopsBurst, bandwidth } = this.#limits
    const isSame =
      iops === limits.iops && iopsBurst === limits.iopsBurst && bandwidth === limits.bandwidth
    if (isSame) return
    this.#limits = limits
    volume.admission.limit(limits, this.#context.io.clock.monotonicMs())
  }

  /** Alone. @throws StoreError InvalidArgument */
  async changeAlone(change: SettingsChange): Promise<void> {
    this.checkThere()
    await this.update((record) => settingsOf(record, change))
    await this.refreshAlone()
  }

  /**
   * Everything acknowledged before is on stable storage, of this volume, or of all.
   * @throws StoreError
   */
  async flush(what: string, isOfAll: boolean = false): Promise<void> {
    const { store } = this.#context.io
    const isApart = store.flushesApart === true && !isOfAll
    const whose = isApart ? this.volume.ops.identity : undefined
    const error = await new Promise<number>((resolve) => {
      store.flush(resolve, whose)
      this.#context.io.ringSoon()
    })
    if (error === 0) return
    const text = `volume ${this.volume.name}: flush ${what} failed: ${errorCodeName(error)}`
    throw new StoreError(error as ErrorCode, text)
  }

  /** Alone. @throws StoreError */
  async update(change: (record: VolumeRecord) => VolumeChange): Promise<void> {
    this.record = await this.#context.directory.update(this.record.id, change)
  }

  // ---- the end

  /** Refuses requests from now on, and resolves when those in flight are over. */
  async closeOpens(): Promise<void> {
    await Promise.all([...this.opens].map((open) => open.close()))
  }

  shutOpens(): void {
    for (const open of this.opens) open.shut()
  }

  /** The volume was deleted. */
  abandon(): void {
    this.isGone = true
    this.volume.ops.fence()
    this.#context.gate.release(this.record).catch((thrown: unknown) => {
      this.#context.trouble(`leaving deleted volume ${this.volume.name}`, thrown)
    })
  }

  /** @throws StoreError NotFound */
  checkThere(): void {
    if (!this.isGone) return
    throw new StoreError(ErrorCode.NotFound, `volume ${this.volume.name} was deleted`)
  }
}
