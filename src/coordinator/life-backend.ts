/** The admin API's view of the life of volumes. */
import type { LifeBackend } from '../admin/life-routes.ts'
import type { VolumeEvent } from '../admin/life-schemas.ts'
import type { Volumes } from '../volume/volumes.ts'

export class PeerLifeBackend implements LifeBackend {
  readonly #volumes: Volumes

  constructor(volumes: Volumes) {
    this.#volumes = volumes
  }

  events(name: string): Promise<readonly VolumeEvent[]> {
    return this.#volumes.events(name)
  }
}
