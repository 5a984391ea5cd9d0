import type { VolumeRecord } from '../cluster/records.ts'
import type { Writers } from '../cluster/writers.ts'
import type { LossReason } from '../replication/replicated-writers.ts'

export interface AcquireOptions {
  /** Another gateway that has the volume is asked to let go, and loses it when it does not. */
  readonly takeover?: boolean
  /** The volume has to be given up: its clients are dropped, and `release` is called. */
  readonly onLost: (why: LossReason) => void
}

/** How the right to write a volume is taken and given back; ReplicatedWriters, or `LocalWriters`. */
export interface VolumeWriters {
  /** Is it kept only while the volume is open, and needed for reads too? */
  readonly isShared: boolean
  /** Returns the writerEpoch. @throws StoreError Busy when another peer has it, NotFound */
  acquire(volume: VolumeRecord, options: AcquireOptions): Promise<number>
  /** Takes it anew under a higher writerEpoch while the volume is served. @throws StoreError */
  retake(volume: VolumeRecord): Promise<number>
  /** Nothing is asked of the volume any more. */
  release(volume: VolumeRecord): Promise<void>
}

/** Of a peer that is alone: nobody else could want what it has. */
export class LocalWriters implements VolumeWriters {
  readonly isShared = false
  readonly #writers: Writers

  constructor(writers: Writers) {
    this.#writers = writers
  }

  acquire(volume: VolumeRecord): Promise<number> {
    return this.#writers.acquire(volume)
  }

  retake(volume: VolumeRecord): Promise<number> {
    return this.#writers.acquire(volume)
  }

  async release(): Promise<void> {
    // Kept while the process lives: it ends with the session.
  }
}
