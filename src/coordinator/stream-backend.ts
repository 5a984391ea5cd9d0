/** The admin API's view of what changed in volumes. */
import type { StreamBackend } from '../admin/stream-routes.ts'
import type { Diff } from '../admin/stream-schemas.ts'
import { baseOf, changesOf } from '../volume/changes.ts'
import type { Volumes } from '../volume/volumes.ts'

/** Told at a time. */
const EXTENTS_MAX = 10_000

export class PeerStreamBackend implements StreamBackend {
  readonly #volumes: Volumes
  readonly #extentsMax: number

  constructor(volumes: Volumes, extentsMax = EXTENTS_MAX) {
    this.#volumes = volumes
    this.#extentsMax = extentsMax
  }

  async diff(
    name: string,
    from: string,
    snapshot: string | undefined,
    start: number
  ): Promise<Diff> {
    const older = await this.#volumes.snapshots.show(name, from)
    const which = snapshot === undefined ? name : `${name}@${snapshot}`
    const file = await this.#volumes.openFile(which, { readOnly: true, own: true })
    try {
      const { sizeBytes } = file
      const extents: Diff['extents'] = []
      for await (const extent of changesOf(file, baseOf(file, older), start)) {
        if (extents.length === this.#extentsMax) {
          return { sizeBytes, extents, nextBytes: extent.offset }
        }
        extents.push(extent)
      }
      return { sizeBytes, extents, nextBytes: null }
    } finally {
      await file.close()
    }
  }
}
