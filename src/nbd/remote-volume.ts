/**
 * A volume behind NBD servers of which one serves it at a time: what `torus attach --gateway A,B`
 * puts between the kernel and the gateways. Clients of it never lose their connection: while no
 * gateway serves, their requests wait, and go on with whichever does next.
 *
 *   NbdServer ─► RemoteVolume ─► RequestLog ─► RemoteLink ─► gateway A, or B, or A again
 *
 * What was written and not flushed is kept, and written again at the next server: a gateway that
 * dies takes nothing along, and neither does a single server that loses power. Only while nobody
 * else wrote, says the server (PROTOCOL.md, R35): else all that is asked from then on fails.
 */
import { randomBytes } from 'node:crypto'
import type { Arena } from '../core/arena.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { BlockDevice, DeviceSource } from '../volume/block-device.ts'
import { RequestFlag, RequestKind, StatusExtent, type VolumeRequest } from '../volume/request.ts'
import * as p from './protocol.ts'
import { greets, RemoteLink, type RemoteListener, type RemoteLinkOptions } from './remote-link.ts'
import { EntryState, type LogEntry, RequestLog } from './request-log.ts'

export interface RemoteVolumeOptions {
  readonly volume: string
  /** Servers that may serve it, the preferred one first. */
  readonly gateways: readonly Pick<RemoteLinkOptions, 'endpoint' | 'tls'>[]
  readonly arena: Arena
  readonly readOnly?: boolean
  readonly log?: (level: 'info' | 'warn', message: string) => void
  /** For tests. */
  readonly stallMs?: number
  readonly unflushedBytesMax?: number
}

/** Between rounds over all gateways. */
const ROUND_MS = 250
/** For the handshake with one: it may have to take the volume over first. */
const HANDSHAKE_MS = 20_000
/** A server that says nothing for so long while it is asked something is looked after… */
const STALL_MS = 5000
/** …by asking for its greeting, which a server that only waits for others gives at once. */
const GREETING_MS = 3000
const LOOK_MS = 500
/** Kept for the next server; more is flushed, and new writes wait for that. */
const UNFLUSHED_BYTES_MAX = 64 * 1024 * 1024
/** One request of NBD has 32 bits for its length. */
const PIECE_BYTES = 2 ** 30

export class RemoteVolume implements DeviceSource, RemoteListener {
  readonly arena: Arena
  opens = 0
  readonly #options: RemoteVolumeOptions
  readonly #log = new RequestLog()
  readonly #reads = new Map<number, { readonly bytes: Buffer; readonly length: number }>()
  readonly #deferred: VolumeRequest[] = []
  #link: RemoteLink | null = null
  /** Writes sent again and not answered; above 0 nothing else is sent. */
  #again = 0
  /** Writes wait because too much is kept for the next server. */
  #held: LogEntry[] = []
  #isFlushing = false
  /** A write that was answered could not be written again: the next flush has to say so. */
  #damage = 0
  #gateway = 0
  #looking: NodeJS.Timeout | null = null
  #isProbing = false
  #closed = false
  readonly #sessionId = randomBytes(8).toString('hex')
  #hasBegun = false
  /** Somebody else wrote: what is asked fails. */
  #isOver = false
  sizeBytes = 0
  #flags = 0

  constructor(options: RemoteVolumeOptions) {
    this.#options = options
    this.arena = options.arena
  }

  /** @throws StoreError why none of the gateways serves it, after `withinMs` */
  async connect(withinMs: number): Promise<void> {
    const endMs = performance.now() + withinMs
    for (;;) {
      const failure = await this.#tryAll()
      if (failure === null) break
      if (performance.now() > endMs) throw failure
      await pause(ROUND_MS)
    }
    this.#looking = setInterval(() => this.#look(), LOOK_MS)
  }

  /** Writes out what was not flushed, and leaves. Nothing is asked any more. */
  async close(): Promise<void> {
    if (this.#link !== null && this.#log.unflushedBytes > 0) {
      await new Promise<void>((resolve) => this.#flush(() => resolve()))
    }
    this.#closed = true
    if (this.#looking !== null) clearInterval(this.#looking)
    this.#link?.close()
  }

  // ---- DeviceSource

  get readOnly(): boolean {
    return this.#options.readOnly === true || (this.#flags & p.NBD_FLAG_READ_ONLY) !== 0
  }

  async list(): ReturnType<DeviceSource['list']> {
    const { volume: name } = this.#options
    const { sizeBytes, readOnly } = this
    return [{ name, sizeBytes, readOnly, description: '' }]
  }

  async open(name: string, { readOnly = false }: { readOnly?: boolean }): Promise<BlockDevice> {
    if (name !== this.#options.volume) {
      throw new StoreError(ErrorCode.NotFound, `there is no volume ${name} here`)
    }
    this.opens++
    return new RemoteOpen(this, name, readOnly || this.readOnly)
  }

  ring(): void {}

  // ---- requests

  submit(request: VolumeRequest): void {
    const { kind, offset, length } = request
    request.error = 0
    if (this.#isOver) this.#defer(request, ErrorCode.Unavailable)
    else if (offset + length > this.sizeBytes && kind !== RequestKind.Flush) {
      this.#defer(request, ErrorCode.OutOfRange)
    } else if (kind === RequestKind.Cache) this.#defer(request, 0)
    else if (kind === RequestKind.BlockStatus) {
      request.extents = [length, StatusExtent.Data]
      this.#defer(request, 0)
    } else if (kind === RequestKind.Flush) {
      request.pending = 1
      this.#ask(request, p.NBD_CMD_FLUSH, 0, 0)
    } else {
      const command = commandOf(kind)
      request.pending = Math.ceil(length / PIECE_BYTES)
      for (let at = 0; at < length; at += PIECE_BYTES) {
        this.#ask(request, command, offset + at, Math.min(PIECE_BYTES, length - at))
      }
    }
  }

  #defer(request: VolumeRequest, error: number): void {
    request.error = error
    if (this.#deferred.push(request) > 1) return
    queueMicrotask(() => {
      for (const each of this.#deferred.splice(0)) finish(each)
    })
  }

  #ask(request: VolumeRequest, command: number, offset: number, length: number): void {
    const onEnd = (error: number): void => {
      if (error !== 0 && request.error === 0) request.error = codeOf(error)
      if (--request.pending === 0) finish(request)
    }
    const inPage = offset % BLOCK_BYTES
    const at = request.pages + inPage
    const isWrite = command === p.NBD_CMD_WRITE
    // A copy: it is kept for longer than the client waits.
    const payload = isWrite ? Buffer.from(this.arena.bytes.subarray(at, at + length)) : null
    const asked = { command, flags: flagsOf(request), offset, length, payload }
    const entry = this.#log.add(asked, onEnd)
    if (command === p.NBD_CMD_READ) {
      this.#reads.set(entry.cookie, { bytes: this.arena.bytes.subarray(at, at + length), length })
    }
    if (this.#link === null || this.#again > 0) return
    const { unflushedBytesMax: max = UNFLUSHED_BYTES_MAX } = this.#options
    if (this.#held.length > 0 || (entry.isChange && this.#log.unflushedBytes > max)) {
      this.#held.push(entry)
      this.#flush()
    } else this.#send(entry)
  }

  #send(entry: LogEntry): void {
    if (entry.state === EntryState.Waiting) entry.state = EntryState.Sent
    this.#link?.send(entry)
  }

  /** Makes room in the log. */
  #flush(onEnd: ((error: number) => void) | null = null): void {
    if (this.#isFlushing && onEnd === null) return
    this.#isFlushing ||= onEnd === null
    const asked = { command: p.NBD_CMD_FLUSH, flags: 0, offset: 0, length: 0, payload: null }
    const entry = this.#log.add(asked, onEnd)
    if (this.#link !== null && this.#again === 0) this.#send(entry)
  }

  // ---- answers

  readTarget(cookie: number): { readonly bytes: Buffer; readonly length: number } | null {
    if (this.#log.find(cookie) === null) return null
    return this.#reads.get(cookie) ?? NOTHING
  }

  onReply(cookie: number, error: number): void {
    const entry = this.#log.find(cookie)
    if (entry === null) return
    if (error === p.NBD_ESHUTDOWN) {
      this.#link?.lose('it is shutting down')
      return
    }
    this.#reads.delete(cookie)
    const { onEnd, state } = entry
    this.#log.answered(entry, error === 0)
    entry.onEnd = null
    if (state === EntryState.Again) this.#answeredAgain(entry, error)
    else if (entry.command === p.NBD_CMD_FLUSH) this.#flushed(onEnd, error)
    else onEnd?.(error)
  }

  #answeredAgain(entry: LogEntry, error: number): void {
    if (error !== 0) {
      this.#damage = error
      const where = `${entry.length} bytes at ${entry.offset}`
      this.#say('warn', `${where}, written before, could not be written again: NBD error ${error}`)
    }
    if (--this.#again === 0) this.#goOn()
  }

  #flushed(onEnd: ((error: number) => void) | null, error: number): void {
    if (onEnd === null) {
      this.#isFlushing = false
      for (const entry of this.#held.splice(0)) this.#send(entry)
      return
    }
    onEnd(error === 0 ? this.#damage : error)
    this.#damage = 0
  }

  // ---- gateways

  onLost(reason: string): void {
    const { name } = this.#link!
    this.#link = null
    this.#held = []
    if (this.#closed) return
    this.#say('warn', `${this.#options.volume}: ${name} is lost (${reason}): looking for another`)
    void this.#reconnect()
  }

  async #reconnect(): Promise<void> {
    const startMs = performance.now()
    while (!this.#closed) {
      const failure = await this.#tryAll()
      if (this.#isOver || failure?.code === ErrorCode.StaleEpoch) {
        if (!this.#isOver) this.#giveUp(failure!.message)
        return
      }
      if (failure === null) {
        const tookMs = Math.round(performance.now() - startMs)
        this.#say('info', `${this.#options.volume}: goes on at ${this.#link!.name}, ${tookMs} ms`)
        return
      }
      await pause(ROUND_MS)
    }
  }

  /** Null when one of them serves now; else why the last did not. */
  async #tryAll(): Promise<StoreError | null> {
    const { gateways, volume, readOnly } = this.#options
    let failure: StoreError | null = null
    for (let turn = 0; turn < gateways.length; turn++) {
      const { endpoint, tls } = gateways[this.#gateway]!
      // One that does not even greet must not cost the time of a takeover.
      const isThere = await greets(endpoint, GREETING_MS)
      try {
        if (!isThere) throw new StoreError(ErrorCode.Unavailable, unanswered(endpoint))
        const options = { endpoint, tls, exportName: volume, timeoutMs: HANDSHAKE_MS }
        const session = readOnly === true ? null : { id: this.#sessionId, goesOn: this.#hasBegun }
        this.#begin(await RemoteLink.connect({ ...options, session }))
        return null
      } catch (thrown) {
        if (!(thrown instanceof StoreError)) throw thrown
        failure = thrown
        if (thrown.code === ErrorCode.StaleEpoch) return failure
      }
      this.#gateway = (this.#gateway + 1) % gateways.length
    }
    return failure
  }

  #begin(link: RemoteLink): void {
    this.#link = link
    this.sizeBytes = link.sizeBytes
    this.#flags = link.flags
    link.listen(this)
    this.#hasBegun = true
    const again = this.#log.replay()
    if (again.length > 0 && !link.knowsSessions) {
      this.#link = null
      link.close()
      this.#giveUp(`${link.name} cannot tell whether another client wrote since`)
      return
    }
    this.#again = again.length
    for (const entry of again) this.#send(entry)
    if (again.length === 0) this.#goOn()
  }

  /** To write again now could undo what somebody else wrote. */
  #giveUp(why: string): void {
    this.#isOver = true
    this.#again = 0
    this.#held = []
    const { unflushedBytes } = this.#log
    const { volume } = this.#options
    const lost = `${unflushedBytes} bytes that were not flushed are lost, and all requests fail`
    this.#say('warn', `${volume}: ${why}: ${lost} until it is attached anew`)
    this.#reads.clear()
    for (const { onEnd } of this.#log.abandon()) onEnd?.(p.NBD_EIO)
  }

  #goOn(): void {
    for (const entry of this.#log.waiting()) this.#send(entry)
  }

  /** A server that was asked and says nothing may be stopped, or unreachable. */
  #look(): void {
    const link = this.#link
    const { stallMs = STALL_MS } = this.#options
    if (link === null || this.#isProbing || this.#log.size === 0) return
    const isAsked = this.#again > 0 || this.#isFlushing || this.#log.isAsked
    if (!isAsked || performance.now() - link.heardMs < stallMs) return
    this.#isProbing = true
    void greets(this.#options.gateways[this.#gateway]!.endpoint, GREETING_MS).then((answers) => {
      this.#isProbing = false
      if (answers) link.heardMs = performance.now()
      else if (this.#link === link) {
        this.#gateway = (this.#gateway + 1) % this.#options.gateways.length
        link.lose('it does not answer')
      }
    })
  }

  #say(level: 'info' | 'warn', message: string): void {
    this.#options.log?.(level, message)
  }
}

/** One client of it. */
class RemoteOpen implements BlockDevice {
  readonly name: string
  readonly readOnly: boolean
  readonly #volume: RemoteVolume
  #inFlight = 0
  #onIdle: (() => void) | null = null
  #closing: Promise<void> | null = null

  constructor(volume: RemoteVolume, name: string, readOnly: boolean) {
    this.#volume = volume
    this.name = name
    this.readOnly = readOnly
  }

  get sizeBytes(): number {
    return this.#volume.sizeBytes
  }

  submit(request: VolumeRequest): void {
    request.device = this
    this.#inFlight++
    this.#volume.submit(request)
  }

  ended(): void {
    this.#inFlight--
    if (this.#inFlight === 0) this.#onIdle?.()
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve
      })
    }
    this.#volume.opens--
  }
}

function finish(request: VolumeRequest): void {
  const open = request.device as RemoteOpen
  request.onDone(request)
  open.ended()
}

const NOTHING = { bytes: Buffer.alloc(0), length: 0 }

function commandOf(kind: number): number {
  if (kind === RequestKind.Read) return p.NBD_CMD_READ
  if (kind === RequestKind.Write) return p.NBD_CMD_WRITE
  return kind === RequestKind.Trim ? p.NBD_CMD_TRIM : p.NBD_CMD_WRITE_ZEROES
}

const flagsOf = ({ flags, kind }: VolumeRequest): number =>
  ((flags & RequestFlag.Fua) !== 0 && kind !== RequestKind.Read ? p.NBD_CMD_FLAG_FUA : 0) |
  ((flags & RequestFlag.NoHole) !== 0 ? p.NBD_CMD_FLAG_NO_HOLE : 0)

/** What an NBD error was before it became one, as far as clients of this can tell. */
function codeOf(error: number): number {
  if (error === p.NBD_EPERM) return ErrorCode.ReadOnly
  if (error === p.NBD_EINVAL) return ErrorCode.OutOfRange
  return error === p.NBD_ENOSPC ? ErrorCode.OutOfSpace : ErrorCode.Unavailable
}

function unanswered(endpoint: RemoteLinkOptions['endpoint']): string {
  const at = 'path' in endpoint ? endpoint.path : `${endpoint.host}:${endpoint.port}`
  return `no NBD server answers at ${at}`
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
