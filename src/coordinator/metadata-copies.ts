/**
 * The copy of the metadata that every peer keeps in its data directory, for the day when etcd is
 * lost with all its members: `D/metadata-copy`, taken every METADATA_COPY_MS when something
 * changed, with what changed soon after that, and `D/metadata-copy.old`, a day older, for what was
 * noticed late. Both are backups as `torus metadata restore` takes them.
 */
import { renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Cluster } from '../cluster/cluster.ts'
import type { KnownGroup } from '../cluster/groups.ts'
import { readBackup } from '../cluster/metadata-copy.ts'
import { encodeRecord } from '../cluster/records.ts'
import { replaceFile } from '../core/directories.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  METADATA_COPY_BYTES_MAX,
  METADATA_COPY_MS,
  METADATA_COPY_OLD_MS,
  METADATA_NEWS_BYTES,
  METADATA_NEWS_MS
} from '../core/limits.ts'
import type { LogOutput } from '../core/log.ts'
import { type Follower, type Following, follow } from '../metadata/follow.ts'
import { encodeBackup, type MetadataBackup } from '../metadata/backup-format.ts'

export const COPY_FILE = 'metadata-copy'

/** What changed since the copy was read; `value` null: it was deleted. */
interface News {
  readonly modRevision: number
  readonly value: Buffer | null
}

export class MetadataCopies {
  readonly #cluster: Cluster
  readonly #path: string
  readonly #output: LogOutput
  #timer: NodeJS.Timeout | null = null
  #written = ''
  #running: Promise<void> = Promise.resolve()
  /** As last read, and groups that changed since. */
  #base: MetadataBackup | null = null
  readonly #news = new Map<string, News>()
  readonly #following: Following[] = []
  #newsTimer: NodeJS.Timeout | null = null

  constructor(cluster: Cluster, dataDir: string, output: LogOutput) {
    this.#cluster = cluster
    this.#path = join(dataDir, COPY_FILE)
    this.#output = output
  }

  /** Takes one now, and goes on. */
  start(): void {
    if (this.#following.length === 0) this.#follow()
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
    for (const following of this.#following) following.stop()
    if (this.#newsTimer !== null) {
      clearTimeout(this.#newsTimer)
      this.#writeNews()
    }
    await this.#running
  }

  /**
   * A group changed. Its record is the one that a restore must not have an old state of (R31), and
   * this peer hears of it anyway: so it is in the copy soon, at no cost to the store.
   */
  noteGroup(pool: number, group: number, { record, modRevision }: KnownGroup): void {
    const key = this.#cluster.keys.group(pool, group)
    this.#note(key, { modRevision, value: encodeRecord('group', record) })
  }

  /** What changes seldom, and is missed when it is lost. */
  #follow(): void {
    const { store, keys, timers } = this.#cluster
    const follower: Follower = {
      onPut: ({ key, value, modRevision }) => this.#note(key, { modRevision, value }),
      onDelete: (key) => this.#note(key, { modRevision: 0, value: null }),
      onTrouble: () => {}
    }
    const ofVolumes = [keys.volumes, keys.names, keys.families, keys.deletions]
    // A volume without its slots is lost, and one without its base reads other bytes.
    const ofBlocks = [keys.volumeKeys(''), keys.allSnapshots, keys.allBases, keys.clientSession('')]
    const ofCluster = [keys.pools, keys.poolNumber(''), keys.settings, keys.peers, keys.tokens]
    for (const prefix of [...ofVolumes, ...ofBlocks, ...ofCluster]) {
      this.#following.push(follow(store, prefix, follower, timers))
    }
  }

  #note(whole: string, news: News): void {
    const { root } = this.#cluster.keys
    if (news.value !== null && news.modRevision <= (this.#base?.revision ?? 0)) return
    this.#news.set(whole.slice(root.length), news)
    if (this.#newsTimer !== null) return
    const ms = METADATA_NEWS_MS * Math.max(1, this.#written.length / METADATA_NEWS_BYTES)
    this.#newsTimer = setTimeout(() => this.#writeNews(), ms)
    this.#newsTimer.unref()
  }

  #writeNews(): void {
    this.#newsTimer = null
    this.#running = this.#running
      .then(() => this.#keepNews())
      .catch((thrown: unknown) => {
        if (!(thrown instanceof StoreError)) throw thrown
        this.#output.log.warn({ reason: thrown.message }, 'no copy of the metadata was taken')
      })
  }

  async #keepNews(): Promise<void> {
    // Keys that are gone because the whole store was lost must stay in the copy.
    if (this.#base !== null && (await this.#cluster.isSame())) this.#keep(this.#base)
  }

  async #take(): Promise<void> {
    const { store, keys, clock } = this.#cluster
    const before = [...this.#news].filter(([, { value }]) => value === null)
    this.#base = await readBackup(store, keys, clock.wallMs())
    for (const [key, news] of before) if (this.#news.get(key) === news) this.#news.delete(key)
    this.#keep(this.#base)
  }

  #keep(base: MetadataBackup): void {
    const createdMs = this.#cluster.clock.wallMs()
    const backup = { ...this.#withNews(base), createdMs }
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

  #withNews(base: MetadataBackup): MetadataBackup {
    const entries = new Map(base.entries.map(({ key, value }) => [key, value]))
    let { revision } = base
    for (const [key, { modRevision, value }] of this.#news) {
      if (value === null) entries.delete(key)
      else if (modRevision <= base.revision) this.#news.delete(key)
      else {
        entries.set(key, value)
        revision = Math.max(revision, modRevision)
      }
    }
    const sorted = [...entries].sort(([a], [b]) => (a < b ? -1 : 1))
    return { ...base, revision, entries: sorted.map(([key, value]) => ({ key, value })) }
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
