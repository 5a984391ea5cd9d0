/**
 * One backup: the stream of a snapshot, or of what changed since the snapshot of the last backup,
 * becomes pieces, pages and a manifest. Until the manifest is there nothing refers to any of it.
 */
import { hostname } from 'node:os'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BackupKeys, ObjectRef } from './objects.ts'
import { PAGE_BYTES, Page, PIECE_BYTES } from './page.ts'
import type { Backup, Manifest, Repository } from './repository.ts'
import type { StreamPart } from './stream-format.ts'
import { Uploads } from './uploads.ts'

/** A lock says so often that its run goes on. */
const REFRESH_MS = 60_000

type About = Pick<Manifest, 'run' | 'volume' | 'snapshot' | 'createdAt' | 'sizeBytes'> & {
  readonly keySlots: Manifest['keys']
}

/** Shows others that a run goes on, from before it looks at any backup until after it has one. */
export class RunLock {
  readonly #repository: Repository
  readonly #lock: { readonly run: string; readonly what: string; readonly host: string }
  readonly #timer: NodeJS.Timeout
  #key = ''
  #refreshing: Promise<unknown> = Promise.resolve()

  private constructor(repository: Repository, run: string, what: string) {
    this.#repository = repository
    this.#lock = { run, what, host: hostname() }
    this.#timer = setInterval(() => {
      this.#refreshing = this.check().catch(() => {})
    }, REFRESH_MS).unref()
  }

  static async put(repository: Repository, run: string, what: string): Promise<RunLock> {
    const lock = new RunLock(repository, run, what)
    try {
      lock.#key = await repository.putLock(lock.#lock)
      return lock
    } catch (thrown) {
      clearInterval(lock.#timer)
      throw thrown
    }
  }

  /** Puts it once more. @throws StoreError Closed when somebody took the run for dead */
  async check(): Promise<void> {
    const { run } = this.#lock
    if (await this.#repository.isDead(run)) {
      const text = `this run (${run}) was silent for so long that a prune took it for dead`
      throw new StoreError(ErrorCode.Closed, `${text}: run the backup again`)
    }
    await this.#repository.putLock(this.#lock)
  }

  async release(): Promise<void> {
    clearInterval(this.#timer)
    await this.#refreshing
    await this.#repository.store.delete(this.#key)
  }
}

export class BackupRun {
  readonly #repository: Repository
  readonly #keys: BackupKeys | null
  readonly #uploads: Uploads
  readonly #about: About
  readonly #base: Backup | null
  readonly #pages: (ObjectRef | null)[]
  #page: { readonly index: number; readonly page: Page } | null = null
  /** The piece that is being put together. */
  #piece = -1
  #bytes: Buffer = Buffer.alloc(0)
  #readBytes = 0

  constructor(
    repository: Repository,
    about: About,
    { keys, base }: { readonly keys: BackupKeys | null; readonly base: Backup | null }
  ) {
    this.#repository = repository
    this.#keys = keys
    this.#about = about
    this.#base = base
    this.#uploads = new Uploads(repository.store, about.run, keys)
    const count = Math.ceil(about.sizeBytes / PAGE_BYTES)
    this.#pages = Array.from({ length: count }, (_, at) => base?.manifest.pages[at] ?? null)
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

  /** Puts what is left, and the manifest. Its name. */
  async end(lock: RunLock): Promise<{ name: string; manifest: Manifest }> {
    await this.#endPiece()
    await this.#endPage()
    await this.#uploads.settled()
    const { keySlots, ...about } = this.#about
    const manifest: Manifest = {
      ...{ torusBackup: 1, ...about, base: this.#base?.name ?? null, pages: this.#pages },
      ...{ readBytes: this.#readBytes, storedBytes: this.#uploads.storedBytes, keys: keySlots }
    }
    await lock.check()
    const name = await this.#repository.addBackup(manifest, this.#keys)
    try {
      // Who took this run for dead may have deleted what it put; see prune.ts.
      await lock.check()
    } catch (thrown) {
      await this.#repository.forget({ name, text: JSON.stringify(manifest) })
      throw thrown
    }
    return { name, manifest }
  }

  async #pieceAt(offset: number): Promise<Buffer> {
    const piece = Math.floor(offset / PIECE_BYTES)
    if (piece === this.#piece) return this.#bytes
    await this.#endPiece()
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
    const before = this.#pages[index] ?? null
    const page = new Page()
    if (before !== null) {
      const known = await this.#repository.page(before, this.#keys)
      known.bytes.copy(page.bytes)
      this.#uploads.know(before)
      for (const { ref } of page.refs()) this.#uploads.know(ref)
    }
    this.#page = { index, page }
    return page
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
