/** What opens the backups of encrypted volumes: a secret that is given, or a peer that has it. */
import { openBackup } from '../backup/backup-secrets.ts'
import { BackupKeys } from '../backup/objects.ts'
import type { Manifest } from '../backup/manifest.ts'
import type { Repository } from '../backup/repository.ts'
import { wipe } from '../seal/secret.ts'
import type { Context } from './context.ts'
import { CommandError } from './errors.ts'
import { hasSecretOption, type SecretOptions, secretOf } from './secrets.ts'

export class BackupKeyring {
  readonly #context: Context
  readonly #repository: Repository
  readonly #options: SecretOptions
  /** By family. */
  readonly #known = new Map<string, BackupKeys>()

  constructor(context: Context, repository: Repository, options: SecretOptions) {
    this.#context = context
    this.#repository = repository
    this.#options = options
  }

  /** Of a volume that is here and unlocked. */
  async ofVolume(volume: string): Promise<{ keys: BackupKeys; keySlots: Manifest['keys'] }> {
    const { key, family, slots } = await this.#context.api.backupKey(volume, this.#repository.id)
    const keys = new BackupKeys(Buffer.from(key, 'base64'))
    this.#known.set(family, keys)
    return { keys, keySlots: { family, slots } as unknown as Manifest['keys'] }
  }

  /** Null: it is not encrypted. @throws CommandError Locked, StoreError Forbidden */
  async of(manifest: Manifest): Promise<BackupKeys | null> {
    const family = manifest.keys?.family
    if (family === undefined) return null
    const known = this.#known.get(family)
    if (known !== undefined) return known
    const keys = await this.#open(manifest)
    this.#known.set(family, keys)
    return keys
  }

  /** As `of`; null, too, where nothing leads to the key. */
  async ifKnown(manifest: Manifest): Promise<BackupKeys | null> {
    return this.of(manifest).catch((thrown: unknown) => {
      if (thrown instanceof CommandError && thrown.code === 'Locked') return null
      throw thrown
    })
  }

  close(): void {
    for (const keys of this.#known.values()) keys.close()
  }

  async #open(manifest: Manifest): Promise<BackupKeys> {
    if (hasSecretOption(this.#options)) return this.#openWith(manifest)
    try {
      const { keys, keySlots } = await this.ofVolume(manifest.volume)
      if (keySlots?.family === manifest.keys?.family) return keys
    } catch (thrown) {
      if (!(thrown instanceof CommandError)) throw thrown
    }
    const text = `backup of volume ${manifest.volume} is encrypted, and no peer here has its key`
    const advice = 'give --passphrase-file, --key-file or --key-command'
    throw new CommandError('Locked', `${text}: ${advice}`)
  }

  async #openWith(manifest: Manifest): Promise<BackupKeys> {
    const what = `passphrase of volume ${manifest.volume}`
    const { kind, secret: text } = await secretOf(this.#options, { what })
    const { newPasswordHasher } = await import('../coordinator/password-hashing.ts')
    const hash = newPasswordHasher()
    const secret = Buffer.from(text, 'base64')
    try {
      return await openBackup(manifest, this.#repository.id, { kind, secret }, hash)
    } finally {
      wipe(secret)
      await hash.close()
    }
  }
}
