/**
 * Puts the blocks of an encrypted volume under a new data key while it is served.
 *
 * What is written under writer epochs from `fromEpoch` on is sealed with the new key. So a rekey
 * takes a new writer epoch, waits until nothing is on its way that was begun under an older one,
 * and then writes everything again that is data, chunk by chunk, in all layers that are read
 * (layer-rekey.ts): no read sees anything but the newest write. What comes into a chunk afterwards,
 * by clients, in new layers or by flattening, is of the new epoch. The record says up to where that
 * is durable; whoever serves the volume next goes on from there. When all is done the old key is
 * forgotten.
 *
 * Only the blocks of the family are meant: a clone has data keys of its own for what was written to
 * it, and reads what it stands on with those of that family, whatever they are at the time
 * (volume-keyring.ts). Clones of before they had keys of their own keep the old key in their record
 * until they are rekeyed themselves.
 */
import { BranchDirectory } from '../cluster/branches.ts'
import type { Features } from '../cluster/features.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { VolumeKeys } from '../cluster/volume-keys.ts'
import type { Clock } from '../core/clock.ts'
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import { CHUNK_BYTES } from '../core/limits.ts'
import type { EncryptionParts } from './encrypted-volumes.ts'
import { LayerRekey } from './layer-rekey.ts'
import type { ManagedVolume } from './managed-volume.ts'
import { VolumeFile } from './volume-file.ts'
import type { VolumeKeyring } from './volume-keyring.ts'
import type { Volumes } from './volumes.ts'

/** Between syncs that let the record say how far it is: what a restart does once more at most. */
const CHUNKS_PER_NOTE = 64
const NOTE_MS = 10_000
/** Another gateway has the volume, or a member is away: looked at again then. */
const RETRY_MS = 30_000
/** Somebody had it closed, to shrink or restore it for instance. */
const CLOSED_RETRY_MS = 1000

type Named = Pick<VolumeRecord, 'name' | 'family'>

/** One that goes on here. */
interface Run {
  isAsked: boolean
  /** All before it is under the new key, if not yet durably. */
  nextChunk: number
}

/** How far a rekey is. */
export interface RekeyProgress {
  readonly startedAt: string
  readonly doneBytes: number
  readonly totalBytes: number
  /** On this peer. */
  readonly running: boolean
}

export class Rekeyer {
  readonly #volumes: Volumes
  readonly #keyring: VolumeKeyring
  readonly #records: VolumeKeys
  readonly #branches: BranchDirectory
  readonly #features: Features
  readonly #clock: Clock
  readonly #trouble: (what: string, thrown: unknown) => void
  readonly #running = new Map<string, Run & { readonly ended: Promise<void> }>()
  #closed = false

  constructor(parts: EncryptionParts) {
    this.#volumes = parts.volumes
    this.#keyring = parts.keyring
    this.#records = new VolumeKeys(parts.cluster)
    this.#branches = new BranchDirectory(parts.cluster)
    this.#features = parts.cluster.features
    this.#clock = parts.cluster.clock
    this.#trouble = parts.trouble
  }

  /** @throws StoreError Locked, Busy when one goes on already, or for the feature level */
  async start(volume: VolumeRecord): Promise<void> {
    const { length } = await this.#volumes.snapshots.list(volume.name)
    if (length > 0 || volume.base !== undefined || volume.branches !== undefined) {
      // A version that does not know of it may be the gateway next, and would forget the old key.
      this.#features.require('branches', `rekeying volume ${volume.name} with its snapshots`)
    }
    await this.#keyring.startRekey(volume)
    this.goOn(volume)
  }

  /** Goes on with what an earlier run, or another gateway, left. */
  goOn(volume: Named): void {
    const { family } = volume
    const running = this.#running.get(family)
    if (running !== undefined) running.isAsked = true
    if (this.#closed || running !== undefined) return
    const state = { isAsked: false, nextChunk: 0, ended: Promise.resolve() }
    const ended = this.#run(volume, state).finally(() => {
      this.#running.delete(family)
    })
    this.#running.set(family, Object.assign(state, { ended }))
  }

  async progress({ family, sizeBytes }: VolumeRecord): Promise<RekeyProgress | null> {
    const { rekey } = await this.#records.get(family)
    if (rekey === null) return null
    const here = this.#running.get(family)
    const nextChunk = Math.max(rekey.nextChunk, here?.nextChunk ?? 0)
    const doneBytes = Math.min(nextChunk * CHUNK_BYTES, sizeBytes)
    const { startedAt } = rekey
    return { startedAt, doneBytes, totalBytes: sizeBytes, running: here !== undefined }
  }

  /** What is out ends; the record says how far it is. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#running.values()].map(({ ended }) => ended))
  }

  async #run(volume: Named, state: Run): Promise<void> {
    const stopped = (): boolean => this.#closed
    while (!stopped()) {
      try {
        const { managed, device } = await this.#volumes.openOwn(volume.name)
        const file = new VolumeFile(managed, device)
        try {
          return await this.#rewrite(managed, file, state)
        } finally {
          await file.close()
        }
      } catch (thrown) {
        const code = codeOf(thrown)
        if (code === ErrorCode.NotFound || code === ErrorCode.Locked) return
        const isClosed = code === ErrorCode.Closed
        // Another gateway serves it, and goes on.
        if (code !== ErrorCode.Busy && !isClosed) {
          this.#trouble(`rekeying volume ${volume.name}`, thrown)
        }
        // Not by this attempt, but by the next client: it may get the volume now.
        state.isAsked = false
        const retryMs = isClosed ? CLOSED_RETRY_MS : RETRY_MS
        await pause(retryMs, () => stopped() || state.isAsked)
      }
    }
  }

  async #rewrite(managed: ManagedVolume, file: VolumeFile, run: Run): Promise<void> {
    const { family, id } = managed.record
    const record = await this.#records.get(family)
    if (record.rekey === null) return
    const { generation, fromEpoch } = record.generations.at(-1)!
    await managed.exclusively(() => managed.raiseEpochAlone(fromEpoch))
    const layers = new LayerRekey(managed, file, this.#branches)
    let chunks = await this.#chunksOf(id, file)
    run.nextChunk = record.rekey.nextChunk
    for (let chunk = run.nextChunk; chunk < chunks; ) {
      const end = Math.min(chunk + CHUNKS_PER_NOTE, chunks)
      const noteMs = this.#clock.monotonicMs() + NOTE_MS
      layers.forgetViews()
      while (chunk < end && this.#clock.monotonicMs() < noteMs) {
        if (this.#closed) return
        await layers.rewriteChunk(chunk)
        run.nextChunk = ++chunk
      }
      await file.flush()
      await this.#keyring.noteRekey(family, generation, chunk)
      chunks = await this.#chunksOf(id, file)
    }
    await file.flush()
    await this.#keyring.endRekey(family, generation)
  }

  /** Behind them is nothing that anybody sees. A volume that grows has the new key there. */
  async #chunksOf(id: string, { sizeBytes }: VolumeFile): Promise<number> {
    const snapshots = await this.#volumes.snapshots.directory.list(id)
    const sizes = snapshots.map((snapshot) => snapshot.sizeBytes)
    return Math.ceil(Math.max(sizeBytes, ...sizes) / CHUNK_BYTES)
  }
}

const codeOf = (thrown: unknown): number => storeErrorOf(thrown).code

async function pause(ms: number, stopped: () => boolean): Promise<void> {
  for (let waited = 0; waited < ms && !stopped(); waited += 100) {
    await new Promise((resolve) => setTimeout(resolve, 100).unref())
  }
}
