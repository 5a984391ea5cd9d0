/**
 * One backup: the stream of a snapshot, or of what changed since the snapshot of the last backup,
 * becomes pieces, pages and a manifest. Until the manifest is there nothing is a backup, but now
 * and then what is there is put down as unfinished, for a later run to go on with.
 */
import type { Manifest, UnfinishedManifest } from './manifest.ts'
import type { BackupKeys, ObjectRef } from './objects.ts'
import { PAGE_BYTES, Page, PIECE_BYTES } from './page.ts'
import type { Backup, Repository, Unfinished } from './repository.ts'
import type { RunLock } from './run-lock.ts'
import type { StreamPart } from './stream-format.ts'
import { Uploads } from './uploads.ts'

/** At most so much work is done twice after a crash. */
const CHECKPOINT_MS = 15_000

type About = Pick<Manifest, 'run' | 'volume' | 'snapshot' | 'createdAt' | 'sizeBytes'> & {
  readonly keySlots: Manifest['keys']
}

export interface RunPlan {
  readonly lock: RunLock
  readonly keys: BackupKeys | null
  /** What it is an increment of. */
  readonly base: Backup | null
  /** What it goes on with: then the base is the same. */
  readonly unfinished?: Unfinished | null
  /** Has pieces that are probably the same, in the same places. */
  readonly like?: Pick<Backup, 'manifest'> | null
  readonly isFull?: boolean
  readonly checkpointMs?: number
}

export class BackupRun {
  readonly #repository: Repository
  readonly #plan: RunPlan
  readonly #uploads: Uploads
  readonly #about: About
  readonly #pages: (ObjectRef | null)[]
  #page: { readonly index: number; readonly page: Page } | null = null
  /** The piece that is being put together. */
  #piece = -1
  #bytes: Buffer = Buffer.alloc(0)
  #readBytes = 0
  #savedMs = performance.now()
  #isSaved: boolean

  constructor(repository: Repository, about: About, plan: RunPlan) {
    const { base, unfinished = null, keys } = plan
    this.#repository = repository
    this.#plan = plan
    this.#about = about
    this.#isSaved = unfinished !== null
    this.#uploads = new Uploads(repository.store, about.run, keys)
    const count = Math.ceil(about.sizeBytes / PAGE_BYTES)
    const { pages = [] } = (unfinished ?? base)?.manifest ?? {}
    this.#pages = Array.from({ length: count }, (_, at) => pages[at] ?? null)
  }

  /**
   * In their order; of an increment all of each piece in which anything changed.
   */
  async take(part: StreamPart): Promise<void> {
    if (part.kind === 'data') {
      this.#readBytes += part.blocks.length
      for (let done = 0; done < part.blocks.length; ) {
        const at = part.offset + done
        const count = Math.min(part.blocks.length - done, PIECE_BYTES - (at % PIECE_BYTES))
        const piece = await this.#pieceAt(at)
        part.blocks.copy(piece, at % PIECE_BYTES, done, done + count)
        done += count
      }
      return
    }
    const end = part.offset + part.length
    for (let at = part.offset; at < end; at += PIECE_BYTES - (at % PIECE_BYTES)) {
      await this.#pieceAt(at)
    }
  }

  /** Puts what is left, and the manifest. */
  async end(): Promise<Backup> {
    const { lock, keys } = this.#plan
    await this.#endPiece()
    await this.#endPage()
    await this.#uploads.settled()
    await lock.check()
    const backup = await this.#repository.addBackup(this.#manifest(this.#pages), keys)
    try {
      // Who took this run for dead may have deleted what it put; see prune.ts.
      await lock.check()
    } catch (thrown) {
      await this.#repository.forget(backup)
      throw thrown
    }
    const { good } = await this.#repository.unfinished(this.#about.volume)
    for (const each of good) {
      if (each.manifest.createdAt <= this.#about.createdAt) await this.#repository.forget(each)
    }
    return backup
  }

  /** The stream broke off: what came is put down, for a later run. Is there anything? */
  async suspend(): Promise<boolean> {
    try {
      if (this.#piece > 0) await this.#save(this.#piece * PIECE_BYTES)
    } catch {
      // What the store fails with was told, or ends with the next run.
    }
    return this.#isSaved
  }

  #manifest(pages: (ObjectRef | null)[]): Manifest {
    const { base, unfinished = null } = this.#plan
    const { keySlots, ...about } = this.#about
    const { readBytes = 0, storedBytes = 0 } = unfinished?.manifest ?? {}
    return {
      ...{ torusBackup: 1, ...about, base: base?.name ?? null, pages, keys: keySlots },
      readBytes: readBytes + this.#readBytes,
      storedBytes: storedBytes + this.#uploads.storedBytes
    }
  }

  /** All before `doneBytes` was taken. @throws StoreError Closed, and what the store fails with */
  async #save(doneBytes: number): Promise<void> {
    const { lock, keys, base, isFull = false } = this.#plan
    const pages = [...this.#pages]
    if (this.#page !== null) {
      const { index, page } = this.#page
      pages[index] = await this.#uploads.put(Buffer.from(page.bytes))
    }
    await this.#uploads.settled()
    const since = base?.manifest.snapshot.id ?? null
    const progress: UnfinishedManifest['progress'] = { doneBytes, since, isFull }
    await lock.check()
    await this.#repository.putUnfinished({ ...this.#manifest(pages), progress }, keys)
    this.#isSaved = true
    await lock.check()
    this.#savedMs = performance.now()
  }

  async #pieceAt(offset: number): Promise<Buffer> {
    const piece = Math.floor(offset / PIECE_BYTES)
    if (piece === this.#piece) return this.#bytes
    await this.#endPiece()
    const { checkpointMs = CHECKPOINT_MS } = this.#plan
    if (piece > 0 && performance.now() - this.#savedMs >= checkpointMs) {
      await this.#save(piece * PIECE_BYTES)
    }
    this.#piece = piece
    // The one before may still be on its way.
    this.#bytes = Buffer.alloc(PIECE_BYTES)
    return this.#bytes
  }

  async #endPiece(): Promise<void> {
    if (this.#piece < 0) return
    const offset = this.#piece * PIECE_BYTES
    const page = await this.#pageAt(Math.floor(offset / PAGE_BYTES))
    const isZero = this.#bytes.equals(ZEROES)
    const inPage = (offset % PAGE_BYTES) / PIECE_BYTES
    page.set(inPage, isZero ? null : await this.#uploads.put(this.#bytes))
    this.#piece = -1
  }

  async #pageAt(index: number): Promise<Page> {
    if (this.#page?.index === index) return this.#page.page
    await this.#endPage()
    const { keys, like = null } = this.#plan
    const before = this.#pages[index] ?? null
    const page = new Page()
    if (before !== null) this.#know(before, await this.#repository.page(before, keys), page)
    const similar = like?.manifest.pages[index] ?? null
    if (similar !== null) {
      // Of one that is damaged nothing is known.
      const found = await this.#repository.page(similar, keys).catch(() => null)
      if (found !== null) this.#know(similar, found)
    }
    this.#page = { index, page }
    return page
  }

  #know(ref: ObjectRef, known: Page, into: Page | null = null): void {
    if (into !== null) known.bytes.copy(into.bytes)
    this.#uploads.know(ref)
    for (const { ref: piece } of known.refs()) this.#uploads.know(piece)
  }

  async #endPage(): Promise<void> {
    if (this.#page === null) return
    const { index, page } = this.#page
    this.#page = null
    const isEmpty = page.refs()[Symbol.iterator]().next().done === true
    this.#pages[index] = isEmpty ? null : await this.#uploads.put(page.bytes)
  }
}

const ZEROES = Buffer.alloc(PIECE_BYTES)
