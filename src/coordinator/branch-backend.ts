/** The admin API's view of volumes that begin on snapshots. */
import type { BranchBackend } from '../admin/branch-routes.ts'
import type { Child, CloneBody, VolumeBase } from '../admin/branch-schemas.ts'
import type { Volume } from '../admin/schemas.ts'
import type { Volumes } from '../volume/volumes.ts'

export class PeerBranchBackend implements BranchBackend {
  readonly #volumes: Volumes
  readonly #volume: (name: string) => Promise<Volume>

  constructor(volumes: Volumes, volume: (name: string) => Promise<Volume>) {
    this.#volumes = volumes
    this.#volume = volume
  }

  async restore(volume: string, snapshot: string, force: boolean): Promise<Volume> {
    await this.#volumes.snapshots.restore(volume, snapshot, { force })
    await this.#volumes.tell(volume, 'restored', { snapshot })
    return this.#volume(volume)
  }

  async clone(volume: string, snapshot: string, request: CloneBody): Promise<Volume> {
    await this.#volumes.clones.clone(volume, snapshot, request)
    return this.#volume(request.name)
  }

  children(volume: string, snapshot: string | null): Promise<readonly Child[]> {
    return this.#volumes.clones.children(volume, snapshot)
  }

  base(volume: string): Promise<VolumeBase> {
    return this.#volumes.baseOf(volume)
  }

  async flatten(volume: string): Promise<VolumeBase> {
    await this.#volumes.flattener.start(volume)
    return this.#volumes.baseOf(volume)
  }
}
