import type { VolumeKeysRecord, VolumeRecord } from '../cluster/records.ts'
import type { VolumeKeys } from '../cluster/volume-keys.ts'
import type { Clock } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { FailedAttempts } from '../core/failed-attempts.ts'
import {
  backupKeyOf,
  type KeySlot,
  makeKey,
  makeSlot,
  openSlot,
  type PasswordHash,
  type SecretKind,
  sealGeneration,
  secretWords,
  VOLUME_SLOTS_MAX
} from '../seal/key-slots.ts'
import type { KeyRing } from '../seal/keyring.ts'
import type { FamilyKeys } from '../replication/sealed-store.ts'
import { secretBuffer, wipe } from '../seal/secret.ts'
import { Locks } from './locks.ts'
import { UnlockedKeys } from './unlocked-keys.ts'

/** What opens a slot, or will. The owner wipes `secret`. */
export interface Credential {
  readonly kind: SecretKind
  readonly secret: Buffer
}

export interface NewSlot extends Credential {
  readonly label: string
}

interface KeyringParts {
  readonly records: VolumeKeys
  readonly ring: KeyRing
  readonly hash: PasswordHash
  readonly clock: Clock
  nowText(): string
}

/** A volume that is encrypted, as its record names it. */
type Named = Pick<VolumeRecord, 'name' | 'family'>

/**
 * The encrypted volumes that are unlocked in this process: master keys here, data keys in the
 * KeyRing. Nothing of it outlives the process.
 */
export class VolumeKeyring {
  readonly #parts: KeyringParts
  readonly #attempts: FailedAttempts
  readonly #turns = new Locks()
  readonly #unlocked: UnlockedKeys
  /** Families that an operator locked here: nothing unattended unlocks them. */
  readonly #lockedByHand = new Set<string>()
  /** Of volumes that are locked: tries what this process was given to unlock them with. */
  unlockUnattended: (volume: Named) => Promise<void> = async () => {}
  /** A volume that can be served has blocks under an older data key. */
  onUnfinishedRekey: (volume: Named) => void = () => {}

  constructor(parts: KeyringParts) {
    this.#parts = parts
    this.#attempts = new FailedAttempts(parts.clock)
    this.#unlocked = new UnlockedKeys(parts.records, parts.ring)
  }

  isUnlocked(family: string): boolean {
    return this.#unlocked.has(family)
  }

  staysLocked(family: string): boolean {
    return this.#lockedByHand.has(family)
  }

  /** Also for what unlocks volumes unattended, until somebody unlocks it. */
  lockByHand(family: string): void {
    this.#lockedByHand.add(family)
    this.lock(family)
  }

  /** What stores of sealed blocks ask. */
  get families(): FamilyKeys {
    return this.#unlocked
  }

  /**
   * Keys for a clone of `source`: the same master key, and a data key of its own. What it reads of
   * others is under theirs. It is unlocked from then on. @throws StoreError Locked
   */
  async clone(source: Named, clone: Named): Promise<VolumeKeysRecord> {
    await this.require(source)
    const known = await this.#parts.records.get(source.family)
    const sourceMaster = this.#unlocked.masterOf(source.family)
    if (sourceMaster === undefined) throw lockedError(source.name)
    const data = makeKey()
    try {
      const first = { generation: 1, fromEpoch: 0 }
      const record: VolumeKeysRecord = {
        v: 1,
        family: clone.family,
        nextSlot: known.nextSlot,
        slots: known.slots.map((slot) => ({ ...slot, family: slot.family ?? source.family })),
        generations: [sealGeneration(clone.family, first, sourceMaster, data)],
        readsFrom: [source.family, ...(known.readsFrom ?? [])],
        rekey: null
      }
      const master = secretBuffer(sourceMaster.length)
      sourceMaster.copy(master)
      await this.#unlocked.hold(record, master)
      return record
    } finally {
      wipe(data)
    }
  }

  /** Keys for a new volume, which one slot opens. It is unlocked from then on. */
  async make(volume: Named, slot: NewSlot): Promise<VolumeKeysRecord> {
    const { family } = volume
    const master = makeKey()
    const data = makeKey()
    try {
      const first = await this.#slot(family, 1, master, slot)
      const generation = sealGeneration(family, { generation: 1, fromEpoch: 0 }, master, data)
      const record: VolumeKeysRecord = {
        v: 1,
        family,
        nextSlot: 2,
        slots: [first],
        generations: [generation],
        rekey: null
      }
      await this.#unlocked.hold(record, master)
      return record
    } finally {
      wipe(data)
    }
  }

  /**
   * `who` tells whose failed attempts make the next one wait: a source that never fits must not
   * keep others from trying theirs.
   * @throws StoreError Forbidden when nothing opens, which counts as a failed attempt; Busy while
   * the next attempt has to wait
   */
  async unlock(
    volume: Named,
    credential: Credential,
    slot: number | null,
    who: string = ''
  ): Promise<KeySlot> {
    const record = await this.#parts.records.get(volume.family)
    const opened = await this.#open(volume.name, record, credential, slot, who)
    if (this.isUnlocked(volume.family)) wipe(opened.master)
    else await this.#unlocked.hold(record, opened.master)
    this.#lockedByHand.delete(volume.family)
    if (record.rekey !== null) this.onUnfinishedRekey(volume)
    return opened.slot
  }

  /** Its clients are gone: nothing is in flight. */
  lock(family: string): void {
    this.#unlocked.drop(family)
  }

  /**
   * Before a volume is served: what other gateways changed about its data keys is taken over.
   * @throws StoreError Locked with the command that unlocks it
   */
  async require(volume: Named): Promise<void> {
    if (!this.isUnlocked(volume.family)) await this.unlockUnattended(volume)
    if (!this.isUnlocked(volume.family)) throw lockedError(volume.name)
    const record = await this.follow(volume)
    if (record !== null && record.rekey !== null) this.onUnfinishedRekey(volume)
  }

  /** Takes over what others changed about the data keys of a volume, if it is unlocked. */
  follow({ family }: Pick<Named, 'family'>): Promise<VolumeKeysRecord | null> {
    return this.#unlocked.fetchAll(family)
  }

  /**
   * For backups in one store, those of `root`. In secret memory, the caller's to wipe.
   * @throws StoreError Locked
   */
  backupKey({ name, family }: Named, root: string, salt: Buffer): Buffer {
    const master = this.#unlocked.masterOf(family)
    if (master === undefined) throw lockedError(name)
    return backupKeyOf(root, salt, master)
  }

  // ---- slots

  /** @throws StoreError Forbidden, Busy, LimitReached, InvalidArgument */
  async addSlot(volume: Named, credential: Credential, slot: NewSlot): Promise<KeySlot> {
    const record = await this.#parts.records.get(volume.family)
    const { master } = await this.#open(volume.name, record, credential, null)
    try {
      return await this.#putSlot(volume, master, slot, null)
    } finally {
      wipe(master)
    }
  }

  /** The slot that `credential` opens makes place for another. */
  async rotateSlot(volume: Named, credential: Credential, slot: NewSlot): Promise<KeySlot> {
    const record = await this.#parts.records.get(volume.family)
    const opened = await this.#open(volume.name, record, credential, null)
    try {
      return await this.#putSlot(volume, opened.master, slot, opened.slot.id)
    } finally {
      wipe(opened.master)
    }
  }

  /** @throws StoreError NotFound, InvalidArgument for the last one */
  async revokeSlot({ name, family }: Named, id: number): Promise<void> {
    await this.#parts.records.update(family, ({ slots }) => {
      if (!slots.some((slot) => slot.id === id)) throw noSlot(name, id, slots)
      if (slots.length === 1) {
        const text = `key slot ${id} is the last of volume ${name}: without it nothing opens it`
        throw new StoreError(ErrorCode.InvalidArgument, `${text}. Add another one first`)
      }
      return { slots: slots.filter((slot) => slot.id !== id) }
    })
  }

  // ---- rekey

  /** A new data key for all that is written under later writer epochs than now. */
  async startRekey({ name, family }: Named): Promise<VolumeKeysRecord> {
    const master = this.#unlocked.masterOf(family)
    if (master === undefined) throw lockedError(name)
    const data = makeKey()
    try {
      const record = await this.#parts.records.startGeneration(family, (known, fromEpoch) => {
        if (known.rekey !== null) {
          throw new StoreError(ErrorCode.Busy, `volume ${name} is being rekeyed already`)
        }
        const generation = known.generations.at(-1)!.generation + 1
        const next = sealGeneration(family, { generation, fromEpoch }, master, data)
        const rekey = { nextChunk: 0, startedAt: this.#parts.nowText() }
        return { generations: [...known.generations, next], rekey }
      })
      this.#unlocked.follow(family, record)
      return record
    } finally {
      wipe(data)
    }
  }

  /** Of the rekey that made `generation`: nothing happens if another one goes on. */
  async noteRekey(family: string, generation: number, nextChunk: number): Promise<void> {
    await this.#parts.records.update(family, ({ rekey, generations }) =>
      rekey === null || generations.at(-1)!.generation !== generation
        ? {}
        : { rekey: { ...rekey, nextChunk } }
    )
  }

  /** No block is under a data key older than `generation` any more, durably. */
  async endRekey(family: string, generation: number): Promise<void> {
    const record = await this.#parts.records.update(family, ({ generations }) =>
      generations.at(-1)!.generation === generation
        ? { generations: generations.slice(-1), rekey: null }
        : {}
    )
    this.#unlocked.follow(family, record)
  }

  /** At shutdown. */
  close(): void {
    this.#unlocked.close()
  }

  #slot(family: string, id: number, master: Buffer, slot: NewSlot): Promise<KeySlot> {
    const { kind, label, secret } = slot
    const spec = { id, kind, label, createdAt: this.#parts.nowText() }
    return makeSlot(family, spec, master, secret, this.#parts.hash)
  }

  async #putSlot(
    { name, family }: Named,
    master: Buffer,
    slot: NewSlot,
    instead: number | null
  ): Promise<KeySlot> {
    const { nextSlot } = await this.#parts.records.get(family)
    const made = await this.#slot(family, nextSlot, master, slot)
    await this.#parts.records.update(family, (record) => {
      if (record.nextSlot !== nextSlot) {
        const text = `the key slots of volume ${name} changed meanwhile: try again`
        throw new StoreError(ErrorCode.Conflict, text)
      }
      const kept = record.slots.filter(({ id }) => id !== instead)
      if (kept.length >= VOLUME_SLOTS_MAX) {
        const text = `volume ${name} has ${kept.length} key slots, the limit: revoke one first`
        throw new StoreError(ErrorCode.LimitReached, text)
      }
      return { slots: [...kept, made], nextSlot: nextSlot + 1 }
    })
    return made
  }

  /** In turn: of many attempts that come at once the first that fails makes the others wait. */
  #open(
    name: string,
    record: VolumeKeysRecord,
    credential: Credential,
    id: number | null,
    who: string = ''
  ): Promise<{ slot: KeySlot; master: Buffer }> {
    const attempt = `${record.family}${who}`
    return this.#turns.run(attempt, async () => {
      this.#attempts.check(attempt, `volume ${name}`)
      const { slots } = record
      if (id !== null && !slots.some((slot) => slot.id === id)) throw noSlot(name, id, slots)
      const { kind, secret } = credential
      const tried = slots.filter((slot) => (id === null ? usesOf(slot, kind) : slot.id === id))
      for (const slot of tried) {
        const master = await openSlot(record.family, slot, secret, this.#parts.hash)
        if (master === null) continue
        this.#attempts.succeeded(attempt)
        return { slot, master }
      }
      this.#attempts.failed(attempt)
      const text = `no key slot of volume ${name} opens with this ${secretWords[kind]}`
      throw new StoreError(ErrorCode.Forbidden, text)
    })
  }
}

/** A key file may hold what a command gives, and the other way round. */
const usesOf = (slot: KeySlot, kind: SecretKind): boolean =>
  (slot.kind === 'passphrase') === (kind === 'passphrase')

const lockedError = (name: string): StoreError =>
  new StoreError(
    ErrorCode.Locked,
    `volume ${name} is locked on this peer: "torus volume unlock ${name}" unlocks it`
  )

function noSlot(name: string, id: number, slots: readonly KeySlot[]): StoreError {
  const ids = slots.map((slot) => slot.id).join(', ')
  return new StoreError(ErrorCode.NotFound, `volume ${name} has no key slot ${id}, but ${ids}`)
}
