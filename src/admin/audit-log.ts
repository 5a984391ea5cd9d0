/**
 * Who did what to which volume, when: JSON lines in `audit/audit.log` of the data directory, which
 * is only appended to. A full file becomes `audit.log.1`, that `audit.log.2`, and so on; the oldest
 * goes. Entries are taken at once and written behind the requests: nobody waits for the disk. What
 * the disk does not take is counted, told in the log, and named by the next entry that is written.
 */
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../core/clock.ts'
import { makeDirectory } from '../core/directories.ts'
import {
  AUDIT_FILE_BYTES_MAX,
  AUDIT_FILES_MAX,
  AUDIT_SYNC_MS,
  AUDIT_WAITING_MAX
} from '../core/limits.ts'
import type { Log } from '../core/log.ts'
import type { AuditEntry } from './audit-schemas.ts'

/** What the caller tells; number and time are added. */
export type AuditEvent = Omit<AuditEntry, 'n' | 'time'>

export interface AuditQuery {
  /** The newest so many. */
  readonly last: number
  /** Only entries with a higher number. */
  readonly after: number
  readonly volume: string | null
}

export interface AuditCounts {
  readonly written: number
  readonly lost: number
}

interface AuditLimits {
  readonly fileBytes: number
  readonly files: number
}

const FILE_NAME = 'audit.log'
/** Read in one go, from the end of a file to its start. */
const READ_BYTES = 64 * 1024

export class AuditLog {
  readonly #path: string
  readonly #clock: Clock
  readonly #log: Log
  readonly #limits: AuditLimits
  #file: FileHandle
  #fileBytes: number
  #next: number
  #waiting: AuditEntry[] = []
  #writing: Promise<void> | null = null
  #syncTimer: NodeJS.Timeout | null = null
  #lostUntold = 0
  #failing = false
  #written = 0
  #lost = 0

  private constructor(
    path: string,
    file: FileHandle,
    fileBytes: number,
    lastNumber: number,
    given: { readonly clock: Clock; readonly log: Log; readonly limits: AuditLimits }
  ) {
    this.#path = path
    this.#file = file
    this.#fileBytes = fileBytes
    this.#next = lastNumber + 1
    this.#clock = given.clock
    this.#log = given.log
    this.#limits = given.limits
  }

  /** @throws the system's error */
  static async open(given: {
    readonly directory: string
    readonly clock: Clock
    readonly log: Log
    readonly limits?: AuditLimits
  }): Promise<AuditLog> {
    const { directory, clock, log } = given
    const limits = given.limits ?? { fileBytes: AUDIT_FILE_BYTES_MAX, files: AUDIT_FILES_MAX }
    makeDirectory(directory)
    const path = join(directory, FILE_NAME)
    let lastNumber = 0
    for await (const entry of entriesBackwards(path, limits.files)) {
      lastNumber = entry.n
      break
    }
    const file = await open(path, 'a', 0o600)
    const { size } = await file.stat()
    // A line that a crash cut off ends here, so that the next one is whole.
    if (size > 0 && !(await endsWithNewline(path, size))) await file.appendFile('\n')
    return new AuditLog(path, file, size, lastNumber, { clock, log, limits })
  }

  /** Never waits and never fails. */
  record(event: AuditEvent): void {
    if (this.#waiting.length >= AUDIT_WAITING_MAX) {
      this.#lose(1)
      return
    }
    const time = new Date(this.#clock.wallMs()).toISOString()
    this.#waiting.push({ n: this.#next++, time, ...event })
    this.#writing ??= this.#writeAll()
  }

  counts(): AuditCounts {
    return { written: this.#written, lost: this.#lost }
  }

  /** The newest entries that fit, oldest first. */
  async read({ last, after, volume }: AuditQuery): Promise<AuditEntry[]> {
    await this.#writing
    const found: AuditEntry[] = []
    let before = Number.POSITIVE_INFINITY
    for await (const entry of entriesBackwards(this.#path, this.#limits.files)) {
      if (entry.n <= after || found.length >= last) break
      // A file that was renamed meanwhile is read twice.
      if (entry.n >= before) continue
      before = entry.n
      if (volume === null || isAbout(entry, volume)) found.push(entry)
    }
    return found.reverse()
  }

  /** Everything recorded is on disk then. */
  async close(): Promise<void> {
    await this.#writing
    if (this.#syncTimer !== null) clearTimeout(this.#syncTimer)
    this.#syncTimer = null
    await this.#sync()
    await this.#file.close()
  }

  async #writeAll(): Promise<void> {
    // Those of the same turn go together.
    await null
    while (this.#waiting.length > 0) {
      const entries = this.#waiting
      this.#waiting = []
      const lostBefore = this.#lostUntold
      const first = lostBefore === 0 ? entries[0]! : { ...entries[0]!, lostBefore }
      const lines = [first, ...entries.slice(1)].map((entry) => `${JSON.stringify(entry)}\n`)
      try {
        await this.#append(Buffer.from(lines.join('')))
        this.#written += entries.length
        this.#lostUntold -= lostBefore
        this.#failing = false
      } catch (error) {
        this.#lose(entries.length)
        if (!this.#failing) this.#log.error({ err: error }, 'the audit log cannot be written')
        this.#failing = true
      }
    }
    this.#writing = null
  }

  async #append(bytes: Buffer): Promise<void> {
    if (this.#fileBytes > 0 && this.#fileBytes + bytes.length > this.#limits.fileBytes) {
      await this.#rotate()
    }
    this.#fileBytes += bytes.length
    await this.#file.appendFile(bytes)
    this.#syncTimer ??= setTimeout(() => {
      this.#syncTimer = null
      void this.#sync()
    }, AUDIT_SYNC_MS).unref()
  }

  async #rotate(): Promise<void> {
    const { files } = this.#limits
    await this.#file.datasync()
    await rm(`${this.#path}.${files}`, { force: true })
    for (let at = files - 1; at >= 0; at--) {
      await rename(nameOf(this.#path, at), nameOf(this.#path, at + 1)).catch(ignoreAbsent)
    }
    const old = this.#file
    this.#file = await open(this.#path, 'a', 0o600)
    this.#fileBytes = 0
    await old.close()
  }

  async #sync(): Promise<void> {
    try {
      await this.#file.datasync()
    } catch (error) {
      // A rotation closed it, after syncing it.
      if ((error as NodeJS.ErrnoException).code === 'EBADF') return
      this.#log.error({ err: error }, 'the audit log cannot be synced')
    }
  }

  #lose(count: number): void {
    this.#lost += count
    this.#lostUntold += count
  }
}

/** Details that name another volume, or several. */
const otherOf: Readonly<Record<string, string>> = {
  cloneSnapshot: 'clone',
  renameVolume: 'newName',
  createToken: 'volume',
  emptyTrash: 'names'
}

/** It, or a snapshot of it, was asked for, or came of that. */
function isAbout({ volume = '', action, details }: AuditEntry, wanted: string): boolean {
  if (volume.split('@', 1)[0] === wanted) return true
  const other = details?.[otherOf[action] ?? '']
  return Array.isArray(other) ? other.includes(wanted) : other === wanted
}

/** 0 is the file that is written. */
const nameOf = (path: string, at: number): string => (at === 0 ? path : `${path}.${at}`)

function ignoreAbsent(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}

async function endsWithNewline(path: string, size: number): Promise<boolean> {
  const file = await open(path, 'r')
  try {
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, size - 1)
    return buffer[0] === 0x0a
  } finally {
    await file.close()
  }
}

/** From the newest on, in pieces: the main thread has other work between them. */
async function* entriesBackwards(path: string, files: number): AsyncGenerator<AuditEntry> {
  for (let at = 0; at <= files; at++) {
    for await (const line of linesBackwards(nameOf(path, at))) {
      const entry = entryOf(line)
      if (entry !== null) yield entry
    }
  }
}

function entryOf(line: string): AuditEntry | null {
  try {
    const entry = JSON.parse(line) as AuditEntry
    return typeof entry.n === 'number' ? entry : null
  } catch {
    // Cut off by a crash.
    return null
  }
}

async function* linesBackwards(path: string): AsyncGenerator<string> {
  const info = await stat(path).catch(ignoreAbsent)
  if (info === undefined) return
  const file = await open(path, 'r')
  try {
    let rest = Buffer.alloc(0)
    for (let end = info.size; end > 0; ) {
      const start = Math.max(0, end - READ_BYTES)
      const { buffer, bytesRead } = await file.read(
        Buffer.alloc(end - start),
        0,
        end - start,
        start
      )
      end = start
      const piece = Buffer.concat([buffer.subarray(0, bytesRead), rest])
      // What stands before the first newline began in the piece before.
      const cut = start === 0 ? 0 : piece.indexOf(0x0a) + 1
      const isWhole = start === 0 || cut > 0
      rest = isWhole ? piece.subarray(0, cut) : piece
      if (!isWhole) continue
      const lines = piece.subarray(cut).toString('utf8').split('\n')
      for (const line of lines.reverse()) if (line !== '') yield line
    }
  } finally {
    await file.close()
  }
}
