/**
 * The transmission phase of one connection.
 *
 *   Receiver -> CommandReader -> VolumeRequest -> BlockDevice.submit, one ring per batch
 *   finished() -> Answers, ReadReplies, StatusWalks -> GatherSender: one socket write per batch
 *
 * What cannot go on now stops the reading of this socket (`block`). It is tried again at the end
 * of a batch in which this client's own requests moved, or in its turn when shared memory was
 * given back (`proceed`).
 */
import type { Clock } from '../core/clock.ts'
import { ErrorCode } from '../core/errors.ts'
import type { GatherSender } from '../core/gather-sender.ts'
import { LIMIT_WAIT_MS_MAX, SHARED_TURN } from '../core/limits.ts'
import type { BatchMember } from '../core/tick-batch.ts'
import type { BlockDevice, ClientInfo, DeviceAdmission } from '../volume/block-device.ts'
import { Answers, ReadyList } from './answers.ts'
import type { Batch } from './batch.ts'
import { type Budget, NO_SHARE, type Spender } from './budget.ts'
import { CommandReader } from './command-reader.ts'
import type { MetaContext } from './meta-contexts.ts'
import type { NbdMetrics } from './metrics.ts'
import { PayloadReceiver } from './payload-receiver.ts'
import { NBD_CMD_READ, NBD_CMD_WRITE } from './protocol.ts'
import { ReadReplies } from './read-replies.ts'
import type { Consumer, Receiver } from './receiver.ts'
import type { ReplyMode } from './replies.ts'
import type { NbdRequest } from './request.ts'
import type { Share } from './shares.ts'
import { StatusReplies } from './status-replies.ts'

export interface TransmissionParts {
  readonly device: BlockDevice
  readonly mode: ReplyMode
  readonly contexts: readonly MetaContext[]
  readonly receiver: Receiver
  readonly sender: GatherSender
  readonly budget: Budget
  readonly batch: Batch
  readonly metrics: NbdMetrics
  readonly clock: Clock
  readonly info: ClientInfo
  /** Everything accepted was answered, and no more is accepted. */
  readonly onDrained: () => void
  /** The client broke the protocol, or an answer cannot be completed: close at once. */
  readonly onBroken: (reason: string) => void
}

export class Transmission implements Consumer, Spender, BatchMember {
  inBatch = false
  readonly device: BlockDevice
  readonly mode: ReplyMode
  readonly budget: Budget
  readonly batch: Batch
  readonly sender: GatherSender
  readonly receiver: Receiver
  readonly payload: PayloadReceiver
  readonly reads: ReadReplies
  readonly status: StatusReplies
  readonly answers: Answers
  readonly pageShare: Share
  readonly requestShare: Share
  /** Commands accepted and not finished. */
  inFlight = 0
  /** open: commands are taken. draining: answers are finished. closed: the socket is gone. */
  state: 'open' | 'draining' | 'closed' = 'open'
  private readonly parts: TransmissionParts
  private readonly admission: DeviceAdmission | null
  private readonly commands: CommandReader
  private readonly ready = new ReadyList()
  private blocked = false
  private isCut = false
  private inLine = false
  /** `goOn` will be called. */
  private paused = false
  private timer: NodeJS.Timeout | undefined
  private steps = 0
  private onQuiet: (() => void) | null = null

  constructor(parts: TransmissionParts) {
    this.parts = parts
    this.device = parts.device
    this.admission = parts.device.admission ?? null
    this.mode = parts.mode
    this.budget = parts.budget
    this.batch = parts.batch
    this.sender = parts.sender
    this.receiver = parts.receiver
    this.pageShare = parts.budget.pageShares.join()
    this.requestShare = parts.budget.requestShares.join()
    this.payload = new PayloadReceiver(this)
    this.reads = new ReadReplies(this)
    this.status = new StatusReplies(this, parts.contexts)
    this.answers = new Answers(parts.mode, parts)
    this.commands = new CommandReader(this, parts.contexts.length > 0)
  }

  // Receiving

  consume(): boolean {
    if (this.state !== 'open') {
      this.receiver.start = this.receiver.end
      return true
    }
    this.blocked = false
    this.steps += this.commands.takeAll(this.parts.clock.monotonicMs())
    this.batch.ring()
    return !this.blocked
  }

  bytesWanted(): number {
    return this.commands.bytesWanted
  }

  directTarget(): Buffer | null {
    return this.state === 'open' ? this.payload.target() : null
  }

  directArrived(count: number): boolean {
    return this.payload.arrived(count)
  }

  proceed(): boolean {
    this.inLine = false
    const before = this.steps
    if (this.state === 'open' && this.consume()) this.receiver.resume()
    return this.steps !== before
  }

  /** Stops reading until something this client waits for moves. `shared`: it stands in line. */
  block(shared: boolean): false {
    this.blocked = true
    if (shared && !this.inLine) {
      this.inLine = true
      this.budget.wait(this)
    }
    return false
  }

  /** Blocks by the answer of `acquirePages`. */
  blockForPages(answer: number): false {
    return this.block(answer !== NO_SHARE)
  }

  /**
   * May the next command begin, after `taken` of this turn? False: it is tried again when the
   * volume's limits let it, when one of this client's is done, or when others had their turn.
   */
  mayBegin(nowMs: number, taken: number): boolean {
    const { admission } = this
    if (admission === null) return true
    if (admission.isLimited) {
      const waitMs = admission.waitMs(nowMs)
      if (waitMs > 0) return this.pause(Math.min(waitMs, LIMIT_WAIT_MS_MAX))
    }
    if (!admission.isShared(nowMs)) return true
    if (this.inFlight > 0 && admission.isFull) return this.block(false)
    return taken < SHARED_TURN || this.pause(0)
  }

  /** A command was taken. */
  began(command: number, length: number): void {
    const { admission } = this
    if (admission === null || !admission.isLimited) return
    admission.spend(command === NBD_CMD_READ || command === NBD_CMD_WRITE ? length : 0)
  }

  /** Stops reading for so long; 0: until everybody else had a turn. */
  private pause(ms: number): false {
    this.blocked = true
    if (!this.paused) {
      this.paused = true
      if (ms > 0) this.timer = setTimeout(this.goOn, Math.ceil(ms))
      else setImmediate(this.goOn)
    }
    return false
  }

  private readonly goOn = (): void => {
    this.paused = false
    if (this.blocked && !this.inLine && this.state === 'open' && this.consume()) {
      this.receiver.resume()
    }
    this.batch.add(this)
  }

  accepted(): void {
    this.inFlight++
    this.parts.info.inFlight = this.inFlight
  }

  // Memory and the volume

  acquirePages(pages: number): number {
    return this.budget.acquirePages(this, pages)
  }

  releasePages(request: NbdRequest): void {
    if (request.pageCount > 0) this.budget.releasePages(this, request)
  }

  submit(request: NbdRequest): void {
    this.device.submit(request)
    this.batch.noteSubmitted()
  }

  /** The command is over: answered, or nobody is there to be answered. */
  retire(request: NbdRequest): void {
    this.releasePages(request)
    this.budget.releaseRequest(this, request)
    this.inFlight--
    this.parts.info.inFlight = this.inFlight
    this.batch.add(this)
    if (this.inFlight === 0 && this.onQuiet !== null) this.leave(this.onQuiet)
  }

  // Answering

  /** The volume is done with a request. */
  finished(request: NbdRequest): void {
    this.batch.add(this)
    if (request.error === ErrorCode.Closed) this.cut()
    if (request.command === NBD_CMD_READ) this.reads.finished(request)
    else if (request.owner !== null) this.status.finished(request)
    else if (request.parent !== null) this.payload.finished(request)
    else this.answer(request)
  }

  /** A slice of `request.pages` is out of the socket. */
  sent(request: NbdRequest): void {
    request.slicesOut--
    this.sender.sliceWritten()
    if (request.appended && request.slicesOut === 0) this.reads.recycle(request)
  }

  /** Answers now, or when there is room and its turn has come. */
  answer(request: NbdRequest): void {
    if (this.state === 'closed') this.abandon(request)
    else if (!this.ready.empty || !this.deliver(request)) this.ready.push(request)
  }

  /** Puts an answer into the output; false: not now. */
  private readonly deliver = (request: NbdRequest): boolean => {
    if (this.reads.outputOwned) return false
    if (request.command === NBD_CMD_READ) return this.reads.deliver(request)
    if (request.owner !== null) return this.status.deliver(request)
    if (!this.answers.plain(request)) return false
    this.retire(request)
    return true
  }

  private readonly abandon = (request: NbdRequest): true => {
    if (request.command === NBD_CMD_READ) this.reads.abandon(request)
    else if (request.owner !== null) this.status.abandon(request)
    else this.retire(request)
    return true
  }

  /** Bytes left the socket. */
  outputMoved(): void {
    const waits = this.blocked || !this.ready.empty || this.reads.outputOwned
    if (waits || this.state !== 'open') this.batch.add(this)
  }

  endOfBatch(): void {
    if (this.state === 'closed') return
    this.reads.advance()
    while (this.ready.shift(this.deliver)) {}
    if (this.blocked && !this.inLine && !this.paused && this.state === 'open') {
      if (this.consume()) this.receiver.resume()
    }
    this.sender.flush()
    if (this.commands.refusing && this.inFlight === 0) this.drain()
    this.checkDrained()
  }

  // The end

  /** New commands are answered with NBD_ESHUTDOWN; ends when the others are answered. */
  refuse(): void {
    this.commands.refusing = true
    this.batch.add(this)
  }

  /** Takes no more commands, and finishes those that were taken. */
  drain(): void {
    if (this.state !== 'open') return
    this.state = 'draining'
    this.leaveLine()
    this.batch.add(this)
  }

  /** The socket is gone. Resolves when the volume holds nothing of this client any more. */
  close(): Promise<void> {
    this.state = 'closed'
    this.leaveLine()
    this.payload.abort()
    this.sender.close()
    while (this.ready.shift(this.abandon)) {}
    this.reads.abandonOwner()
    return new Promise((resolve) => {
      if (this.inFlight === 0) this.leave(resolve)
      else this.onQuiet = resolve
    })
  }

  /**
   * The volume is served by another gateway now, or bytes that were not flushed may be gone. An
   * error would reach the client's filesystem; one that loses its connection asks again elsewhere.
   */
  private cut(): void {
    if (this.state === 'closed' || this.isCut) return
    this.isCut = true
    this.state = 'draining'
    this.leaveLine()
    this.parts.onBroken('the volume is no longer served here')
  }

  broken(reason: string): void {
    this.state = 'draining'
    this.leaveLine()
    this.parts.metrics.protocolErrors++
    this.parts.onBroken(reason)
  }

  private leaveLine(): void {
    this.inLine = false
    clearTimeout(this.timer)
    this.budget.line.leave(this)
  }

  private leave(resolve: () => void): void {
    this.budget.pageShares.leave(this.pageShare)
    this.budget.requestShares.leave(this.requestShare)
    resolve()
  }

  private checkDrained(): void {
    if (this.state !== 'draining' || !this.sender.idle) return
    // A payload that was cut off is never finished; `close` drops it.
    if (this.inFlight === (this.payload.active ? 1 : 0)) this.parts.onDrained()
  }
}
