/**
 * The copy of the metadata that every peer keeps in its data directory, for the day when etcd is
 * lost with all its members: `D/metadata-copy`, taken every METADATA_COPY_MS when something
 * changed, and `D/metadata-copy.old`, a day older, for what was noticed late. Both are backups as
 * `torus metadata restore` takes them.
 */
import { renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import { readBackup } from '../cluster/metadata-copy.ts'
import { replaceFile } from '../core/directories.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { METADATA_COPY_BYTES_MAX, METADATA_COPY_MS, METADATA_COPY_OLD_MS } from '../core/limits.ts'
import type { LogOutput } from '../core/log.ts'
import { encodeBackup, type MetadataBackup } from '../metadata/backup-format.ts'

const COPY_FILE = 'metadata-copy'

export class MetadataCopies {
  readonly #cluster: Cluster
  readonly #path: string
  readonly #output: LogOutput
  #timer: NodeJS.Timeout | null = null
  #written = ''
  #running: Promise<void> = Promise.resolve()

  constructor(cluster: Cluster, dataDir: string, output: LogOutput) {
    this.#cluster = cluster
    this.#path = join(dataDir, COPY_FILE)
    this.#output = output
  }

  /** Takes one now, and goes on. */
  start(): void {
    this.#running = this.#take().catch((thrown: unknown) => {
      if (!(thrown instanceof StoreError)) throw thrown
      // Tried again; that the metadata does not answer is told elsewhere.
      const level = thrown.code === ErrorCode.Unavailable ? 'debug' : 'warn'
      this.#output.log[level]({ reason: thrown.message }, 'no copy of the metadata was taken')
    })
    this.#timer = setTimeout(() => this.start(), METADATA_COPY_MS)
    this.#timer.unref()
  }

  async stop(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer)
    await this.#running
  }

  async #take(): Promise<void> {
    const { store, keys, clock } = this.#cluster
    const backup = await readBackup(store, keys, clock.wallMs())
    const bytes = backup.entries.reduce((sum, entry) => sum + entry.value.length, 0)
    if (bytes > METADATA_COPY_BYTES_MAX) {
      const text = `the metadata has ${bytes} bytes, a copy ${METADATA_COPY_BYTES_MAX} at most`
      throw new StoreError(ErrorCode.LimitReached, text)
    }
    const parts = [...encodeBackup(backup)]
    // The header, which has revision and time, changes also when nothing else did.
    const content = Buffer.concat(parts.slice(1)).toString('latin1')
    if (content === this.#written) return
    this.#write(parts, backup)
    this.#written = content
  }

  #write(parts: readonly Buffer[], { createdMs }: MetadataBackup): void {
    const old = `${this.#path}.old`
    try {
      if (ageOf(this.#path, createdMs) !== null) {
        const age = ageOf(old, createdMs)
        if (age === null || age > METADATA_COPY_OLD_MS) renameSync(this.#path, old)
      }
      replaceFile(this.#path, parts)
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause)
      throw new StoreError(ErrorCode.DiskFailure, `${this.#path}: ${message}`, { cause })
    }
  }
}

/** Milliseconds since it was written; null when there is none. */
function ageOf(path: string, nowMs: number): number | null {
  try {
    return nowMs - statSync(path).mtimeMs
  } catch {
    return null
  }
}
