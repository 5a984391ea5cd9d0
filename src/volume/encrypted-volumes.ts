import type { Cluster } from '../cluster/cluster.ts'
import type { VolumeKeysRecord } from '../cluster/records.ts'
import { VolumeKeys } from '../cluster/volume-keys.ts'
import { checkWhole, type KeySlot } from '../seal/key-slots.ts'
import { Rekeyer, type RekeyProgress } from './rekeyer.ts'
import type { Credential, NewSlot, VolumeKeyring } from './volume-keyring.ts'
import type { Volumes } from './volumes.ts'

export interface EncryptionParts {
  readonly volumes: Volumes
  readonly keyring: VolumeKeyring
  readonly cluster: Cluster
  /** Something failed that nobody waits for. */
  readonly trouble: (what: string, thrown: unknown) => void
}

/** What operators do to the keys of encrypted volumes, by name. */
export class EncryptedVolumes {
  readonly #volumes: Volumes
  readonly #keyring: VolumeKeyring
  readonly #records: VolumeKeys
  readonly #rekeyer: Rekeyer

  constructor(parts: EncryptionParts) {
    this.#volumes = parts.volumes
    this.#keyring = parts.keyring
    this.#records = new VolumeKeys(parts.cluster)
    this.#rekeyer = new Rekeyer(parts)
    parts.keyring.onUnfinishedRekey = (volume) => this.#rekeyer.goOn(volume)
  }

  /** Returns the slot that opened. @throws StoreError NotFound, Forbidden, Busy */
  unlock(name: string, credential: Credential, slot: number | null): Promise<KeySlot> {
    return this.#volumes.withEncrypted(name, (volume) =>
      this.#keyring.unlock(volume, credential, slot)
    )
  }

  /** Disconnects its clients. @throws StoreError NotFound */
  lock(name: string): Promise<void> {
    return this.#volumes.lock(name)
  }

  slots(name: string): Promise<{ unlocked: boolean; slots: readonly KeySlot[] }> {
    return this.#volumes.withEncrypted(name, async ({ family }) => {
      const { slots } = await this.#records.get(family)
      return { unlocked: this.#keyring.isUnlocked(family), slots }
    })
  }

  /** `credential` shows that the caller may open the volume. */
  addSlot(name: string, credential: Credential, slot: NewSlot): Promise<KeySlot> {
    return this.#volumes.withEncrypted(name, (volume) =>
      this.#keyring.addSlot(volume, credential, slot)
    )
  }

  /** Puts `slot` in place of the one that `credential` opens. */
  rotateSlot(name: string, credential: Credential, slot: NewSlot): Promise<KeySlot> {
    return this.#volumes.withEncrypted(name, (volume) =>
      this.#keyring.rotateSlot(volume, credential, slot)
    )
  }

  revokeSlot(name: string, id: number): Promise<void> {
    return this.#volumes.withEncrypted(name, (volume) => this.#keyring.revokeSlot(volume, id))
  }

  /**
   * Puts all blocks under a new data key, in the background. Who writes them does that, so this
   * process has to be the gateway, or become it.
   * @throws StoreError Locked, Busy
   */
  async rekey(name: string): Promise<void> {
    const file = await this.#volumes.openFile(name)
    try {
      await this.#volumes.withEncrypted(name, (volume) => this.#rekeyer.start(volume))
    } finally {
      await file.close()
    }
  }

  /** null: none goes on. */
  rekeyProgress(name: string): Promise<RekeyProgress | null> {
    return this.#volumes.withEncrypted(name, (volume) => this.#rekeyer.progress(volume))
  }

  /**
   * What its backups in the store of that salt are sealed with, which the caller wipes, and the
   * slots whose secrets lead there. A clone has the master key of what it was made of, and the same
   * key of backups: they share what is equal. @throws StoreError NotFound, Locked
   */
  backupKey(
    name: string,
    salt: Buffer
  ): Promise<{ key: Buffer; family: string; slots: readonly KeySlot[] }> {
    return this.#volumes.withEncrypted(name, async (volume) => {
      await this.#keyring.require(volume)
      const { family: own, slots, readsFrom = [] } = await this.#records.get(volume.family)
      const family = readsFrom.at(-1) ?? own
      const named = slots.map((slot) => ({ ...slot, family: slot.family ?? own }))
      return { key: this.#keyring.backupKey(volume, family, salt), family, slots: named }
    })
  }

  close(): Promise<void> {
    return this.#rekeyer.close()
  }

  /** Slots and sealed data keys: enough, with a secret, to open what the peers hold. */
  exportKeys(name: string): Promise<VolumeKeysRecord> {
    return this.#volumes.withEncrypted(name, ({ family }) => this.#records.get(family))
  }

  /** @throws StoreError InvalidArgument for the keys of another volume, or what is cut off */
  async importKeys(name: string, keys: VolumeKeysRecord): Promise<void> {
    checkWhole(keys.slots, keys.generations)
    return this.#volumes.withEncrypted(name, ({ family }) => this.#records.restore(family, keys))
  }
}
