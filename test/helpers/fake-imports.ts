/** An ImportBackend without imports. */
import type { ImportBackend } from '../../src/admin/import-routes.ts'
import type { Import } from '../../src/admin/life-schemas.ts'
import type { VolumeCreate } from '../../src/admin/schemas.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'

export class FakeImports implements ImportBackend {
  async list(): Promise<readonly Import[]> {
    return []
  }

  async begin({ name, sizeBytes }: VolumeCreate): Promise<Import> {
    const progress = { doneBytes: 0, verifiedBytes: 0, error: null, makes: null }
    return { id: '0123456789abcdef', name, sizeBytes, state: 'receiving', ...progress }
  }

  show = absent
  write = absent
  finish = absent

  async abandon(id: string): Promise<void> {
    await absent(id)
  }
}

async function absent(id: string): Promise<Import> {
  throw new StoreError(ErrorCode.NotFound, `there is no import "${id}"`)
}
