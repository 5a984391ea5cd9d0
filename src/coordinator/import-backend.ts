/** The admin API's view of imports. */
import type { ImportBackend } from '../admin/import-routes.ts'
import type { Import, ImportFinish } from '../admin/life-schemas.ts'
import type { VolumeCreate } from '../admin/schemas.ts'
import type { BackendParts } from './backend.ts'
import { Imports } from './imports.ts'
import { withNewVolume } from './new-volumes.ts'

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

  begin(volume: VolumeCreate): Promise<Import> {
    return withNewVolume(volume, this.#parts.peers, (options) => this.#imports.begin(options))
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
