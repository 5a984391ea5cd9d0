/** A SpaceBackend that tells the same of every snapshot. */
import type { SpaceBackend } from '../../src/admin/space-routes.ts'
import type { VolumeSpaceAnswer } from '../../src/admin/space-schemas.ts'
import type { FakeSnapshots } from './fake-snapshots.ts'

export class FakeSpaces implements SpaceBackend {
  why: string | null = null
  readonly #snapshots: FakeSnapshots

  constructor(snapshots: FakeSnapshots) {
    this.#snapshots = snapshots
  }

  async space(volume: string): Promise<VolumeSpaceAnswer> {
    const view = { allocatedBytes: 12288, exclusiveBytes: 4096 }
    const snapshots = (await this.#snapshots.list(volume)).map(({ name, id }) => ({
      ...{ name, id, ...view },
      sharedBytes: 8192
    }))
    const figures = { ...view, usedBytes: 20480, snapshotBytes: 8192, pendingBytes: 0, snapshots }
    const countedAt = '2026-01-31T12:00:00.000Z'
    return { volume, copies: 3, countedAt, why: this.why, figures }
  }
}
