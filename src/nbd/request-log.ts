import { NBD_CMD_FLUSH, NBD_CMD_READ } from './protocol.ts'

/** How an entry stands with the server that it was sent to last. */
export const EntryState = {
  /** Not sent. */
  Waiting: 0,
  Sent: 1,
  /** A write that was answered, and that no flush covered. */
  Acked: 2,
  /** The same, sent again to another server and not answered there. */
  Again: 3
} as const

export class LogEntry {
  readonly cookie: number
  readonly command: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  readonly payload: Buffer | null
  /** Whom to tell; null: nobody any more, or nobody ever asked. */
  onEnd: ((error: number) => void) | null
  state: number = EntryState.Waiting
  /** Of a write: how many were answered before it. Of a flush: up to which it covers them. */
  order = 0

  constructor(
    cookie: number,
    request: {
      readonly command: number
      readonly flags: number
      readonly offset: number
      readonly length: number
      readonly payload: Buffer | null
    },
    onEnd: ((error: number) => void) | null
  ) {
    this.cookie = cookie
    this.command = request.command
    this.flags = request.flags
    this.offset = request.offset
    this.length = request.length
    this.payload = request.payload
    this.onEnd = onEnd
  }

  get isChange(): boolean {
    return this.command !== NBD_CMD_READ && this.command !== NBD_CMD_FLUSH
  }
}

/**
 * What a client asked of a volume and what is not over: requests without an answer, and writes
 * that were answered but that no flush covered, for the server may lose them when it dies. Another
 * server is given all of it again in the order in which it came.
 *
 * Two phases: writes that had been answered first, and when they are answered again, the rest. A
 * flush among that covers them then, as it did in the eyes of the client.
 */
export class RequestLog {
  /** By cookie, in the order of submission. */
  readonly #entries = new Map<number, LogEntry>()
  #nextCookie = 1
  #answered = 0
  /** Of payload, and a little for each entry, of writes that were answered and not flushed. */
  unflushedBytes = 0

  get size(): number {
    return this.#entries.size
  }

  /** Is anybody waiting for an answer? */
  get isAsked(): boolean {
    for (const { onEnd } of this.#entries.values()) if (onEnd !== null) return true
    return false
  }

  add(
    request: ConstructorParameters<typeof LogEntry>[1],
    onEnd: ((error: number) => void) | null
  ): LogEntry {
    do this.#nextCookie = (this.#nextCookie + 1) >>> 0
    while (this.#entries.has(this.#nextCookie))
    const entry = new LogEntry(this.#nextCookie, request, onEnd)
    if (entry.command === NBD_CMD_FLUSH) entry.order = this.#answered
    this.#entries.set(entry.cookie, entry)
    return entry
  }

  find(cookie: number): LogEntry | null {
    return this.#entries.get(cookie) ?? null
  }

  /** An answer came. A write stays until a flush covers it; all else goes. */
  answered(entry: LogEntry, isGood: boolean): void {
    if (!isGood || !entry.isChange) this.#drop(entry)
    if (isGood && entry.isChange) {
      if (entry.onEnd !== null) {
        entry.order = this.#answered++
        this.unflushedBytes += weightOf(entry)
      }
      entry.state = EntryState.Acked
    }
    if (!isGood || entry.command !== NBD_CMD_FLUSH) return
    for (const each of this.#entries.values()) {
      if (each.state === EntryState.Acked && each.order < entry.order) this.#drop(each)
    }
  }

  /** The server is gone: what has to be sent first to the next one. */
  replay(): LogEntry[] {
    const again: LogEntry[] = []
    for (const entry of this.#entries.values()) {
      if (entry.state >= EntryState.Acked) {
        entry.state = EntryState.Again
        again.push(entry)
      } else entry.state = EntryState.Waiting
    }
    return again
  }

  /** Nothing of it is to be sent any more. */
  abandon(): LogEntry[] {
    const all = [...this.#entries.values()]
    this.#entries.clear()
    this.unflushedBytes = 0
    return all
  }

  /** What is to be sent when that is answered, in order. */
  waiting(): LogEntry[] {
    return [...this.#entries.values()].filter(({ state }) => state === EntryState.Waiting)
  }

  #drop(entry: LogEntry): void {
    if (entry.state >= EntryState.Acked) this.unflushedBytes -= weightOf(entry)
    this.#entries.delete(entry.cookie)
  }
}

/** An entry without payload costs something too. */
const weightOf = ({ payload }: LogEntry): number => 256 + (payload?.length ?? 0)
