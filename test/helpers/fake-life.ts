/** A LifeBackend that tells one event of every volume. */
import { Readable } from 'node:stream'
import type { LifeBackend } from '../../src/admin/life-routes.ts'
import type { Emptied, Trashed, VolumeEvent } from '../../src/admin/life-schemas.ts'
import type { Volume } from '../../src/admin/schemas.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'

const AT = '2026-01-31T12:00:00.000Z'

const RESIZED: VolumeEvent = {
  ...{ at: AT, kind: 'resized', peer: 'a'.repeat(32), count: 2, lastAt: AT },
  details: { from: 4096, to: 8192, force: true }
}

export class FakeLife implements LifeBackend {
  readonly volumes: (Volume & { id: string })[] = []

  told: readonly VolumeEvent[] = [RESIZED]

  async events(): Promise<readonly VolumeEvent[]> {
    return this.told
  }

  async export(): Promise<Readable> {
    return Readable.from([Buffer.from('TORUSVOL')], { objectMode: false })
  }

  async trash(): Promise<readonly Trashed[]> {
    const times = { deletedAt: AT, until: '2026-02-01T12:00:00.000Z', protectedSnapshots: 0 }
    return this.volumes.map(({ id, name, sizeBytes, pool, encryption, usedBytes }) => {
      return { id, name, sizeBytes, pool, encryption, usedBytes, ...times }
    })
  }

  async restoreVolume(entry: string, name?: string): Promise<Volume> {
    const { id: _, ...volume } = this.#take(entry)
    return { ...volume, name: name ?? volume.name }
  }

  async emptyTrash(_force: boolean, entry?: string): Promise<Emptied> {
    const gone = entry === undefined ? this.volumes.splice(0) : [this.#take(entry)]
    return { volumes: gone.length, kept: 0, names: gone.map(({ name }) => name) }
  }

  #take(entry: string): Volume & { id: string } {
    const at = this.volumes.findIndex(({ id, name }) => id === entry || name === entry)
    const [found] = at < 0 ? [] : this.volumes.splice(at, 1)
    if (found !== undefined) return found
    throw new StoreError(ErrorCode.NotFound, `there is no volume "${entry}" in the trash`)
  }
}
