import type { VolumeKeysRecord, VolumeRecord } from '../cluster/records.ts'
import type { VolumeKeyring } from './volume-keyring.ts'

/**
 * Runs `create`, which may ask `make` for keys of one family after the other until a volume is
 * there. The keys of its family stay unlocked; those of the others are forgotten.
 */
export async function withNewKeys(
  keyring: VolumeKeyring,
  make: (family: string) => Promise<VolumeKeysRecord>,
  create: (keys: (family: string) => Promise<VolumeKeysRecord>) => Promise<VolumeRecord>
): Promise<VolumeRecord> {
  const families: string[] = []
  let made: VolumeRecord | null = null
  try {
    made = await create((family) => {
      families.push(family)
      return make(family)
    })
    return made
  } finally {
    for (const family of families) if (family !== made?.family) keyring.lock(family)
  }
}
