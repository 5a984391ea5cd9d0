/**
 * Gives clones what they read from their bases, in the background, while they are served: then they
 * stand on no other volume. The record says up to where that is durable; whoever serves the clone
 * next goes on from there.
 */
import { BranchDirectory } from '../cluster/branches.ts'
import type { Cluster } from '../cluster/cluster.ts'
import { lowestRead } from '../cluster/layer-lines.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { CHUNK_BYTES } from '../core/limits.ts'
import { BaseCopy } from './base-copy.ts'
import { restFor } from './layer-io.ts'
import type { ManagedVolume } from './managed-volume.ts'
import type { OpenedVolume } from './volume-opener.ts'
import type { VolumeHistory } from './volume-history.ts'

/** Between syncs that let the record say how far it is. */
const CHUNKS_PER_NOTE = 64
/** Another gateway has the volume, or a member is away: looked at again then. */
const RETRY_MS = 30_000
/** Somebody had it closed, to shrink or restore it for instance. */
const CLOSED_RETRY_MS = 1000

/** At the end of the process. */
const CLOSE_MS = 5000

/** How far it is. */
export interface FlattenProgress {
  readonly startedAt: string
  readonly doneBytes: number
  readonly totalBytes: number
  /** On this peer. */
  readonly running: boolean
}

export interface FlattenerParts {
  readonly cluster: Cluster
  readonly history: VolumeHistory
  readonly find: (id: string) => Promise<VolumeRecord | null>
  readonly open: (name: string) => Promise<OpenedVolume>
  readonly trouble: (what: string, thrown: unknown) => void
}

interface Running {
  isAsked: boolean
  ended: Promise<void>
}

export class Flattener {
  readonly #parts: FlattenerParts
  readonly #branches: BranchDirectory
  /** By volume id. */
  readonly #running = new Map<string, Running>()
  #closed = false

  constructor(parts: FlattenerParts) {
    this.#parts = parts
    this.#branches = new BranchDirectory(parts.cluster)
  }

  /**
   * Begins, or goes on; it is begun when this resolves. Who serves the volume does it, so this
   * process becomes the gateway if it is not.
   * @throws StoreError NotFound, Busy, InvalidArgument for what is no clone, Unavailable, Locked
   */
  async start(name: string): Promise<VolumeRecord> {
    this.#parts.cluster.features.require('branches', 'flattening a volume')
    const opened = await this.#parts.open(name)
    try {
      const record = await this.#begin(opened.managed)
      this.goOn(record)
      return record
    } finally {
      await opened.device.close()
    }
  }

  /** Goes on with what an earlier run, or another gateway, left; in the background. */
  goOn({ id, flatten }: VolumeRecord): void {
    if (flatten === undefined || this.#closed) return
    const running = this.#running.get(id)
    if (running !== undefined) {
      running.isAsked = true
      return
    }
    const state: Running = { isAsked: false, ended: Promise.resolve() }
    this.#running.set(id, state)
    state.ended = this.#run(id, state).finally(() => this.#running.delete(id))
  }

  /** null: none goes on. */
  progress({ id, base, flatten }: VolumeRecord): FlattenProgress | null {
    if (flatten === undefined || base === undefined) return null
    const { startedAt, nextChunk } = flatten
    const doneBytes = Math.min(nextChunk * CHUNK_BYTES, base.endBytes)
    return { startedAt, doneBytes, totalBytes: base.endBytes, running: this.#running.has(id) }
  }

  /** What is out ends; the record says how far it is. */
  async close(): Promise<void> {
    this.#closed = true
    const all = Promise.all([...this.#running.values()].map(({ ended }) => ended))
    // A copy may wait for members that are away; it ends with the store then.
    await Promise.race([all, pause(CLOSE_MS, () => false)])
  }

  #begin(managed: ManagedVolume): Promise<VolumeRecord> {
    return managed.exclusively(() => managed.head.startFlattenAlone(this.#branches))
  }

  async #run(id: string, state: Running): Promise<void> {
    while (!this.#closed) {
      const record = await this.#parts.find(id).catch(() => null)
      if (record?.flatten === undefined) return
      try {
        const { managed, device } = await this.#parts.open(record.name)
        try {
          return await this.#flatten(managed)
        } finally {
          await device.close()
        }
      } catch (thrown) {
        const { code } = storeErrorOf(thrown)
        if (code === ErrorCode.NotFound || code === ErrorCode.Locked) return
        const isClosed = code === ErrorCode.Closed
        // Another gateway serves it, and goes on.
        if (code !== ErrorCode.Busy && !isClosed) {
          this.#parts.trouble(`flattening ${record.name}`, thrown)
        }
        state.isAsked = false
        const retryMs = isClosed ? CLOSED_RETRY_MS : RETRY_MS
        await pause(retryMs, () => this.#closed || state.isAsked)
      }
    }
  }

  async #flatten(managed: ManagedVolume): Promise<void> {
    const { base, flatten } = await this.#begin(managed)
    if (base === undefined || flatten === undefined) return
    const { record } = managed
    const read = lowestRead(record, base.root, await this.#branches.readLayers(record))
    const copy = read === null ? null : new BaseCopy(managed, { root: base.root, read })
    const chunks = Math.ceil(base.endBytes / CHUNK_BYTES)
    let blocks = 0
    for (let chunk = flatten.nextChunk; chunk < chunks && copy !== null; ) {
      const end = Math.min(chunk + CHUNKS_PER_NOTE, chunks)
      for (; chunk < end; chunk++) {
        if (this.#closed) return
        blocks += await copy.copyChunk(chunk, () => restFor(managed))
      }
      await managed.flush('of a copy')
      const writerEpoch = this.#epochOf(managed)
      await managed.exclusively(async () => {
        managed.record = await this.#branches.noteFlattened(record.id, writerEpoch, chunk)
      })
    }
    const writerEpoch = this.#epochOf(managed)
    await managed.exclusively(async () => {
      managed.record = await this.#branches.endFlatten(record.id, writerEpoch)
    })
    await this.#parts.history.tell(record, 'flattened', { blocks })
  }

  /** @throws StoreError Closed */
  #epochOf({ volume }: ManagedVolume): number {
    const { writerEpoch } = volume.ops
    if (writerEpoch > 0) return writerEpoch
    throw new StoreError(ErrorCode.Closed, `volume ${volume.name}: its writer lease was lost`)
  }
}

async function pause(ms: number, stopped: () => boolean): Promise<void> {
  for (let waited = 0; waited < ms && !stopped(); waited += 100) {
    await new Promise((resolve) => setTimeout(resolve, 100).unref())
  }
}
