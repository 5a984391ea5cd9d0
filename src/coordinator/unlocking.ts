/** Keys of encrypted volumes in a running peer, and what unlocks them unattended. */
import type { AuditLog } from '../admin/audit-log.ts'
import type { Cluster } from '../cluster/cluster.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { VolumeDirectory } from '../cluster/volume-directory.ts'
import { VolumeKeys } from '../cluster/volume-keys.ts'
import { ErrorCode, errorCodeName, StoreError, storeErrorOf } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Config, UnlockSource } from '../core/options.ts'
import type { PasswordHasher } from '../handoff/password-hasher.ts'
import type { SecretKind } from '../seal/key-slots.ts'
import type { KeyRing } from '../seal/keyring.ts'
import { wipe } from '../seal/secret.ts'
import { readSecret } from '../seal/secret-source.ts'
import { EncryptedVolumes } from '../volume/encrypted-volumes.ts'
import { VolumeKeyring } from '../volume/volume-keyring.ts'
import type { Volumes } from '../volume/volumes.ts'
import { KeysBackend } from './keys.ts'

/** Between looks for encrypted volumes that were made elsewhere: a takeover finds the key ready. */
const LOOK_MS = 30_000

const slotKindOf: Readonly<Record<UnlockSource['kind'], SecretKind>> = {
  'passphrase-file': 'passphrase',
  'key-file': 'key-file',
  command: 'command'
}

type Named = Pick<VolumeRecord, 'name' | 'family'>

export interface Unlocking {
  readonly keyring: VolumeKeyring
  backend(volumes: Volumes): KeysBackend
  /** Unlocks what it can, and goes on to look. */
  start(): Promise<void>
  /** Ends what goes on in the background: before the volumes are closed. */
  stop(): Promise<void>
  close(): Promise<void>
}

export function prepareUnlocking(given: {
  readonly cluster: Cluster
  readonly ring: KeyRing
  readonly hash: PasswordHasher
  readonly config: Pick<Config, 'unlockWith'>
  readonly log: Log
  readonly audit: Pick<AuditLog, 'record'>
}): Unlocking {
  const { cluster, ring, hash, log, audit } = given
  const sources = given.config.unlockWith
  const records = new VolumeKeys(cluster)
  const { clock } = cluster
  const keyring = new VolumeKeyring({
    records,
    ring,
    hash,
    clock,
    nowText: () => cluster.nowText()
  })
  const unattended = new Unattended(keyring, sources, { log, audit })
  keyring.unlockUnattended = (volume) => unattended.unlock(volume)
  const directory = new VolumeDirectory(cluster)
  let encrypted: EncryptedVolumes | null = null
  let timer: NodeJS.Timeout | undefined
  const look = async (): Promise<void> => {
    if (sources.length === 0) return
    try {
      const encrypted = (await directory.list()).filter((volume) => volume.encryption !== undefined)
      for (const volume of encrypted) await unattended.unlock(volume)
    } catch (thrown) {
      log.warn({ err: storeErrorOf(thrown) }, 'looking for volumes to unlock failed')
    }
    timer = setTimeout(() => void look(), LOOK_MS).unref()
  }
  return {
    keyring,
    backend: (volumes) => {
      const trouble = (what: string, err: unknown): void => log.warn({ err }, what)
      encrypted = new EncryptedVolumes({ volumes, keyring, cluster, trouble })
      return new KeysBackend(encrypted)
    },
    stop: async () => {
      clearTimeout(timer)
      await encrypted?.close()
    },
    start: look,
    close: async () => {
      keyring.close()
      await hash.close()
    }
  }
}

/** Tries the sources of a volume. One that failed is told once, until it fails otherwise. */
class Unattended {
  readonly #keyring: VolumeKeyring
  readonly #sources: readonly UnlockSource[]
  readonly #log: Log
  readonly #audit: Pick<AuditLog, 'record'>
  readonly #told = new Map<string, string>()

  constructor(
    keyring: VolumeKeyring,
    sources: readonly UnlockSource[],
    { log, audit }: { readonly log: Log; readonly audit: Pick<AuditLog, 'record'> }
  ) {
    this.#keyring = keyring
    this.#sources = sources
    this.#log = log
    this.#audit = audit
  }

  async unlock(volume: Named): Promise<void> {
    if (this.#keyring.staysLocked(volume.family)) return
    for (const source of this.#sources) {
      if (this.#keyring.isUnlocked(volume.family)) return
      if (source.volume !== '*' && source.volume !== volume.name) continue
      await this.#try(volume, source)
    }
  }

  async #try(volume: Named, source: UnlockSource): Promise<void> {
    const kind = slotKindOf[source.kind]
    const who = ` ${source.kind}:${source.from}`
    const told = volume.family + who
    try {
      const secret = await readSecret(kind, source.from)
      try {
        await this.#keyring.unlock(volume, { kind, secret }, null, who)
      } finally {
        wipe(secret)
      }
      for (const key of this.#told.keys()) {
        if (key.startsWith(volume.family)) this.#told.delete(key)
      }
      this.#log.info({ volume: volume.name, source: source.kind }, 'encrypted volume unlocked')
      this.#tell(volume, source, 'ok')
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      // It waits for what was told.
      if (thrown.code === ErrorCode.Busy) return
      if (this.#told.get(told) === thrown.message) return
      this.#told.set(told, thrown.message)
      this.#log.warn({ err: thrown, volume: volume.name }, 'encrypted volume stays locked')
      this.#tell(volume, source, errorCodeName(thrown.code))
    }
  }

  #tell({ name }: Named, { kind }: UnlockSource, outcome: string): void {
    const who = { kind: 'peer' } as const
    const details = { source: kind }
    this.#audit.record({ who, address: '', action: 'unlock', volume: name, details, outcome })
  }
}
