/** The admin API's view of imports. */
import type { ImportBackend } from '../admin/import-routes.ts'
import type { Import, ImportFinish } from '../admin/life-schemas.ts'
import type { VolumeCreate } from '../admin/schemas.ts'
import { DEFAULT_POOL } from '../cluster/pools.ts'
import type { BackendParts } from './backend.ts'
import { Imports } from './imports.ts'
import { newSlotOf, withSecrets } from './keys.ts'

export class PeerImportBackend implements ImportBackend {
  readonly #parts: Pick<BackendParts, 'volumes' | 'cluster' | 'peers'>
  readonly #imports: Imports

  constructor(parts: Pick<BackendParts, 'volumes' | 'cluster' | 'peers'>) {
    this.#parts = parts
    this.#imports = new Imports(parts.volumes, parts.cluster)
  }

  list(): Promise<readonly Import[]> {
    return this.#imports.list()
  }

  async begin({ pool = DEFAULT_POOL, encrypt, ...rest }: VolumeCreate): Promise<Import> {
    if (pool !== DEFAULT_POOL) await this.#parts.peers.pool(pool)
    const place = pool === DEFAULT_POOL ? rest : { ...rest, pool }
    const slot = encrypt === undefined ? null : newSlotOf(encrypt)
    return withSecrets(slot === null ? [] : [slot], () =>
      this.#imports.begin(slot === null ? place : { ...place, encrypt: slot })
    )
  }

  show(id: string): Promise<Import> {
    return this.#imports.show(id)
  }

  write(id: string, piece: Buffer, untilBytes: number): Promise<Import> {
    return this.#imports.write(id, piece, untilBytes)
  }

  finish(id: string, expected: ImportFinish): Promise<Import> {
    return this.#imports.finish(id, expected)
  }

  abandon(id: string): Promise<void> {
    return this.#imports.abandon(id)
  }
}
