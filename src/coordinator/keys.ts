/** The admin API's view of the keys of encrypted volumes. */
import type { KeyBackend } from '../admin/key-routes.ts'
import type {
  BackupKey,
  CredentialBody,
  ExportedKeys,
  KeySlotAnswer,
  KeySlotList,
  NewSlotBody,
  SlotChangeBody,
  UnlockBody
} from '../admin/key-schemas.ts'
import type { KeySlot } from '../seal/key-slots.ts'
import { takeSecret, wipe } from '../seal/secret.ts'
import type { EncryptedVolumes } from '../volume/encrypted-volumes.ts'
import type { Credential, NewSlot } from '../volume/volume-keyring.ts'
import { exportedOf, importedOf } from './exported-keys.ts'

export class KeysBackend implements KeyBackend {
  readonly #encrypted: EncryptedVolumes

  constructor(encrypted: EncryptedVolumes) {
    this.#encrypted = encrypted
  }

  async unlockVolume(name: string, { slot, ...body }: UnlockBody): Promise<KeySlotAnswer> {
    return withSecrets([credentialOf(body)], async ([credential]) =>
      answerOf(await this.#encrypted.unlock(name, credential!, slot ?? null))
    )
  }

  lockVolume(name: string): Promise<void> {
    return this.#encrypted.lock(name)
  }

  async keySlots(name: string): Promise<KeySlotList> {
    const { unlocked, slots } = await this.#encrypted.slots(name)
    const rekey = await this.#encrypted.rekeyProgress(name)
    return { unlocked, rekey, slots: slots.map(answerOf) }
  }

  async addKeySlot(name: string, body: SlotChangeBody): Promise<KeySlotAnswer> {
    return this.#change(body, (old, next) => this.#encrypted.addSlot(name, old, next))
  }

  async rotateKeySlot(name: string, body: SlotChangeBody): Promise<KeySlotAnswer> {
    return this.#change(body, (old, next) => this.#encrypted.rotateSlot(name, old, next))
  }

  revokeKeySlot(name: string, id: number): Promise<void> {
    return this.#encrypted.revokeSlot(name, id)
  }

  rekeyVolume(name: string): Promise<void> {
    return this.#encrypted.rekey(name)
  }

  async exportKeys(name: string): Promise<ExportedKeys> {
    return exportedOf(await this.#encrypted.exportKeys(name))
  }

  async importKeys(name: string, keys: ExportedKeys): Promise<void> {
    return this.#encrypted.importKeys(name, importedOf(keys))
  }

  async backupKey(name: string, salt: string): Promise<BackupKey> {
    const { key, family, slots } = await this.#encrypted.backupKey(name, Buffer.from(salt, 'hex'))
    try {
      return { key: key.toString('base64'), family, slots: slots.map((slot) => ({ ...slot })) }
    } finally {
      wipe(key)
    }
  }

  #change(
    { credential, slot }: SlotChangeBody,
    run: (credential: Credential, slot: NewSlot) => Promise<KeySlot>
  ): Promise<KeySlotAnswer> {
    const old = credentialOf(credential)
    const next = newSlotOf(slot)
    return withSecrets([old, next], async () => answerOf(await run(old, next)))
  }
}

const credentialOf = ({ kind, secret }: CredentialBody): Credential => ({
  kind,
  secret: takeSecret(Buffer.from(secret, 'base64'))
})

export const newSlotOf = ({ label, ...body }: NewSlotBody): NewSlot => ({
  ...credentialOf(body),
  label
})

/** Wipes what was given when `work` is over. */
export async function withSecrets<T>(
  given: readonly Credential[],
  work: (given: readonly Credential[]) => Promise<T>
): Promise<T> {
  try {
    return await work(given)
  } finally {
    for (const { secret } of given) wipe(secret)
  }
}

function answerOf({ id, kind, label, createdAt, kdf }: KeySlot): KeySlotAnswer {
  const text =
    kdf.name === 'argon2id'
      ? `argon2id, ${kdf.opsLimit} passes over ${kdf.memoryBytes / 2 ** 20} MiB`
      : kdf.name
  return { id, kind, label, createdAt, kdf: text }
}
