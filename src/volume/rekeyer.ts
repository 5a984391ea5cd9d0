/**
 * Puts the blocks of an encrypted volume under a new data key while it is served.
 *
 * What is written under writer epochs from `fromEpoch` on is sealed with the new key. So a rekey
 * takes a new writer epoch and then writes everything again that is data, piece by piece, as any
 * writer: no read sees anything but the newest write. The record says up to where that is durable;
 * whoever serves the volume next goes on from there. When all is done the old key is forgotten.
 */
import type { VolumeRecord } from '../cluster/records.ts'
import type { VolumeKeys } from '../cluster/volume-keys.ts'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { BLOCK_BYTES, CHUNK_BYTES } from '../core/limits.ts'
import type { EncryptionParts } from './encrypted-volumes.ts'
import type { VolumeFile } from './volume-file.ts'
import type { VolumeKeyring } from './volume-keyring.ts'
import type { Volumes } from './volumes.ts'

/** Written again at a time, and held from clients so long. */
const PIECE_BYTES = 64 * BLOCK_BYTES
/** Between syncs that let the record say how far it is. */
const CHUNKS_PER_NOTE = 64
/** Another gateway has the volume, or a member is away: looked at again then. */
const RETRY_MS = 30_000

type Named = Pick<VolumeRecord, 'name' | 'family'>

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
  readonly #trouble: (what: string, thrown: unknown) => void
  readonly #running = new Map<string, { isAsked: boolean; readonly ended: Promise<void> }>()
  #closed = false

  constructor(parts: EncryptionParts) {
    this.#volumes = parts.volumes
    this.#keyring = parts.keyring
    this.#records = parts.records
    this.#trouble = parts.trouble
  }

  /** @throws StoreError Locked, Busy when one goes on already, there are snapshots, or a base */
  async start(volume: Named & Pick<VolumeRecord, 'base'>): Promise<void> {
    if (volume.base !== undefined) {
      const text = `volume ${volume.name} is a clone, and reads what is under its present data key`
      throw new StoreError(ErrorCode.Busy, `${text}: flatten it first`)
    }
    const { length } = await this.#volumes.snapshots.list(volume.name)
    if (length > 0) {
      const text = `volume ${volume.name} has ${length} snapshots, which need its present data key`
      throw new StoreError(ErrorCode.Busy, `${text}: delete them first`)
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
    const state = { isAsked: false, ended: Promise.resolve() }
    const ended = this.#run(volume, state).finally(() => {
      this.#running.delete(family)
    })
    this.#running.set(family, Object.assign(state, { ended }))
  }

  async progress({ family, sizeBytes }: VolumeRecord): Promise<RekeyProgress | null> {
    const { rekey } = await this.#records.get(family)
    if (rekey === null) return null
    const doneBytes = Math.min(rekey.nextChunk * CHUNK_BYTES, sizeBytes)
    const running = this.#running.has(family)
    return { startedAt: rekey.startedAt, doneBytes, totalBytes: sizeBytes, running }
  }

  /** What is out ends; the record says how far it is. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#running.values()].map(({ ended }) => ended))
  }

  async #run(volume: Named, state: { isAsked: boolean }): Promise<void> {
    const stopped = (): boolean => this.#closed
    while (!stopped()) {
      try {
        const file = await this.#volumes.openFile(volume.name, { own: true })
        try {
          return await this.#rewrite(volume, file, stopped)
        } finally {
          await file.close()
        }
      } catch (thrown) {
        if (codeOf(thrown) === ErrorCode.NotFound || codeOf(thrown) === ErrorCode.Locked) return
        // Another gateway serves it, and goes on.
        if (codeOf(thrown) !== ErrorCode.Busy) {
          this.#trouble(`rekeying volume ${volume.name}`, thrown)
        }
        // Not by this attempt, but by the next client: it may get the volume now.
        state.isAsked = false
        await pause(RETRY_MS, () => stopped() || state.isAsked)
      }
    }
  }

  async #rewrite({ name, family }: Named, file: VolumeFile, stopped: () => boolean): Promise<void> {
    const record = await this.#records.get(family)
    if (record.rekey === null) return
    const { generation, fromEpoch } = record.generations.at(-1)!
    await this.#volumes.raiseEpoch(name, fromEpoch)
    const chunks = Math.ceil(file.sizeBytes / CHUNK_BYTES)
    for (let chunk = record.rekey.nextChunk; chunk < chunks; ) {
      const end = Math.min(chunk + CHUNKS_PER_NOTE, chunks)
      for (; chunk < end; chunk++) {
        if (stopped()) return
        await rewriteChunk(file, chunk)
      }
      await file.flush()
      await this.#keyring.noteRekey(family, generation, chunk)
    }
    await file.flush()
    await this.#keyring.endRekey(family, generation)
  }
}

async function rewriteChunk(file: VolumeFile, chunk: number): Promise<void> {
  const start = chunk * CHUNK_BYTES
  // A shrink meanwhile took the rest with it.
  const length = Math.min(CHUNK_BYTES, file.sizeBytes - start)
  if (length <= 0) return
  for (const extent of await file.extents(start, length)) {
    if (extent.kind !== 'data') continue
    const end = extent.offset + extent.length
    for (let at = extent.offset; at < end; at += PIECE_BYTES) {
      await file.rewrite(at, Math.min(PIECE_BYTES, end - at))
    }
  }
}

const codeOf = (thrown: unknown): number => storeErrorOf(thrown).code

async function pause(ms: number, stopped: () => boolean): Promise<void> {
  for (let waited = 0; waited < ms && !stopped(); waited += 100) {
    await new Promise((resolve) => setTimeout(resolve, 100).unref())
  }
}
