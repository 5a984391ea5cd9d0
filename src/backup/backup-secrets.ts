/** From the secret of a key slot to the keys of a backup: no cluster is needed for it. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  backupKeyOf,
  openSlot,
  type PasswordHash,
  type SecretKind,
  secretWords
} from '../seal/key-slots.ts'
import { wipe } from '../seal/secret.ts'
import { BackupKeys } from './objects.ts'
import type { Manifest } from './manifest.ts'

/** @throws StoreError Forbidden */
export async function openBackup(
  { volume, keys }: Manifest,
  salt: string,
  { kind, secret }: { readonly kind: SecretKind; readonly secret: Buffer },
  hash: PasswordHash
): Promise<BackupKeys> {
  const isPassphrase = kind === 'passphrase'
  for (const slot of keys?.slots ?? []) {
    if ((slot.kind === 'passphrase') !== isPassphrase) continue
    const master = await openSlot(keys!.family, slot, secret, hash)
    if (master === null) continue
    try {
      return new BackupKeys(backupKeyOf(keys!.family, Buffer.from(salt, 'hex'), master))
    } finally {
      wipe(master)
    }
  }
  const text = `no key slot in the backup of volume ${volume} opens with this ${secretWords[kind]}`
  throw new StoreError(ErrorCode.Forbidden, text)
}
