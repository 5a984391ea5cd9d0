/** The admin API's view of what volumes take. */
import type { SpaceBackend } from '../admin/space-routes.ts'
import type { VolumeSpaceAnswer } from '../admin/space-schemas.ts'
import { StoreError } from '../core/errors.ts'
import type { SpaceFigures, VolumeSpace } from '../volume/volume-space.ts'

/** A count that takes longer goes on, and who asked gets what the one before it found. */
const WAIT_MS = 5000
const KNOWN_MAX = 256

interface Known {
  readonly figures: SpaceFigures
  readonly countedAt: string
}

export interface SpaceBackendParts {
  readonly space: VolumeSpace
  /** Copies of each block that there should be. */
  readonly copiesOf: (volume: string) => Promise<number>
  readonly nowText: () => string
}

export class PeerSpaceBackend implements SpaceBackend {
  readonly #parts: SpaceBackendParts
  readonly #counting = new Map<string, Promise<void>>()
  /** By name, those counted last at the end. */
  readonly #known = new Map<string, Known>()

  constructor(parts: SpaceBackendParts) {
    this.#parts = parts
  }

  async space(volume: string): Promise<VolumeSpaceAnswer> {
    const copies = await this.#parts.copiesOf(volume)
    const counting = this.#counting.get(volume) ?? this.#begin(volume)
    let timer: NodeJS.Timeout | null = null
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), WAIT_MS)
    })
    let why: string | null = null
    try {
      if ((await Promise.race([counting, late])) === 'late') why = 'it is being counted'
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      why = thrown.message
    } finally {
      if (timer !== null) clearTimeout(timer)
    }
    const known = this.#known.get(volume)
    const { figures, countedAt } = known ?? { figures: null, countedAt: null }
    return { volume, copies, countedAt, why, figures: figures === null ? null : shown(figures) }
  }

  #begin(volume: string): Promise<void> {
    const counting = this.#parts.space
      .count(volume)
      .then((figures) => {
        this.#known.delete(volume)
        this.#known.set(volume, { figures, countedAt: this.#parts.nowText() })
        const [oldest] = this.#known.keys()
        if (this.#known.size > KNOWN_MAX) this.#known.delete(oldest!)
      })
      .finally(() => this.#counting.delete(volume))
    this.#counting.set(volume, counting)
    // Who asked may be gone.
    counting.catch(() => {})
    return counting
  }
}

const shown = ({ snapshots, ...figures }: SpaceFigures): VolumeSpaceAnswer['figures'] => ({
  ...figures,
  snapshots: snapshots.map((each) => ({
    ...each,
    sharedBytes: each.allocatedBytes - each.exclusiveBytes
  }))
})
