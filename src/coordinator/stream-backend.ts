/** The admin API's view of what changed in volumes. */
import type { Import, Increment } from '../admin/life-schemas.ts'
import type { StreamBackend } from '../admin/stream-routes.ts'
import type { Diff } from '../admin/stream-schemas.ts'
import { baseOf, changesOf } from '../volume/changes.ts'
import type { Volumes } from '../volume/volumes.ts'
import { Increments } from './increments.ts'

/** Told at a time. */
const EXTENTS_MAX = 10_000

export class PeerStreamBackend implements StreamBackend {
  readonly #volumes: Volumes
  readonly #increments: Increments
  readonly #extentsMax: number

  constructor(volumes: Volumes, extentsMax = EXTENTS_MAX) {
    this.#volumes = volumes
    this.#increments = new Increments(volumes)
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
      const base = await baseOf(this.#volumes.snapshots, file, older)
      const extents: Diff['extents'] = []
      for await (const extent of changesOf(file, base, start)) {
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

  beginIncrement(name: string, increment: Increment): Promise<Import> {
    return this.#increments.begin(name, increment)
  }

  increment(name: string): Promise<Import> {
    return this.#increments.show(name)
  }

  writeIncrement(name: string, piece: Buffer, untilBytes: number): Promise<Import> {
    return this.#increments.write(name, piece, untilBytes)
  }

  finishIncrement(name: string, digest: string): Promise<Import> {
    return this.#increments.finish(name, digest)
  }
}
