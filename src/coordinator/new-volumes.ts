/** Volumes to be made, from how the admin API tells them. */
import type { VolumeCreate } from '../admin/schemas.ts'
import { DEFAULT_POOL } from '../cluster/pools.ts'
import { withoutUndefined } from '../core/without-undefined.ts'
import type { CreateOptions } from '../volume/volume-options.ts'
import type { BackendParts } from './backend.ts'
import { newSlotOf, withSecrets } from './keys.ts'

/** The secret in it is gone when `make` is done. @throws StoreError NotFound, of its pool */
export async function withNewVolume<T>(
  { pool = DEFAULT_POOL, encrypt, access, ...rest }: VolumeCreate,
  peers: Pick<BackendParts['peers'], 'pool'>,
  make: (options: CreateOptions) => Promise<T>
): Promise<T> {
  if (pool !== DEFAULT_POOL) await peers.pool(pool)
  const slot = encrypt === undefined ? null : newSlotOf(encrypt)
  const options = {
    ...rest,
    ...(pool === DEFAULT_POOL ? {} : { pool }),
    ...(access === undefined ? {} : { access: withoutUndefined(access) }),
    ...(slot === null ? {} : { encrypt: slot })
  }
  return withSecrets(slot === null ? [] : [slot], () => make(options))
}
