/** A LifeBackend that tells one event of every volume. */
import type { LifeBackend } from '../../src/admin/life-routes.ts'
import type { VolumeEvent } from '../../src/admin/life-schemas.ts'

const AT = '2026-01-31T12:00:00.000Z'

export class FakeLife implements LifeBackend {
  async events(): Promise<readonly VolumeEvent[]> {
    const details = { from: 4096, to: 8192, force: true }
    return [{ at: AT, kind: 'resized', peer: 'a'.repeat(32), details, count: 2, lastAt: AT }]
  }
}
