import type { VolumeRecord } from '../cluster/records.ts'
import type { Writers } from '../cluster/writers.ts'

/**
 * Why a volume has to be given up that is served here: another gateway has it, or asks for it; or
 * writes that no flush followed may be lost, as on a disk that lost power.
 */
export type LossReason = 'fenced' | 'wanted' | 'powerLoss'

/** The right to serve a volume, and what has to be done before and after. */
export interface WriterGate {
  /** Others may serve the volume: reads need the right too, and it is given back when unused. */
  readonly isShared: boolean
  /**
   * Returns the writerEpoch under which the volume may be written from now on. With `waits` a peer
   * that offers the volume keeps it.
   * @throws StoreError Busy when another peer has it and not `takeover`, NotFound
   */
  acquire(
    volume: VolumeRecord,
    options: {
      readonly takeover: boolean
      readonly waits: boolean
      readonly onLost: (why: LossReason) => void
    }
  ): Promise<number>
  /** The same for one that is being served. @throws StoreError Busy, Closed when it is lost */
  retake(volume: VolumeRecord): Promise<number>
  /** What `retake` returned is in use: nothing more is written under an older writerEpoch. */
  noteEpoch(volume: VolumeRecord, writerEpoch: number): void
  /** Whether it goes to whoever asks: nobody here needs it, what has it open goes on there. */
  offer(volume: VolumeRecord, isOffered: boolean): void
  /** The record of a volume that may be served here is another now. */
  noteChange(volume: VolumeRecord): void
  /** Nothing is asked of the volume any more. */
  release(volume: VolumeRecord): Promise<void>
}

/** Volumes of a process that has its metadata for itself: the right is kept while it lives. */
export class LocalWriters implements WriterGate {
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

  noteEpoch(): void {}

  offer(): void {}

  noteChange(): void {}

  async release(): Promise<void> {}
}
