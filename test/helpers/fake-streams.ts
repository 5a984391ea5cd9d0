/** A StreamBackend that tells the same of every volume, in two answers. */
import type { Import } from '../../src/admin/life-schemas.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { StreamBackend } from '../../src/admin/stream-routes.ts'
import type { Diff } from '../../src/admin/stream-schemas.ts'

export class FakeStreams implements StreamBackend {
  async diff(_name: string, _from: string, _to: string | undefined, start: number): Promise<Diff> {
    const sizeBytes = 1048576
    if (start > 0) {
      const extents = [{ offset: start, length: 8192, kind: 'zeroes' as const }]
      return { sizeBytes, extents, nextBytes: null }
    }
    const extents = [{ offset: 4096, length: 4096, kind: 'data' as const }]
    return { sizeBytes, extents, nextBytes: 65536 }
  }

  beginIncrement = absent
  increment = absent
  writeIncrement = absent
  finishIncrement = absent
}

async function absent(name: string): Promise<Import> {
  throw new StoreError(ErrorCode.NotFound, `no increment of volume ${name} is under way`)
}
