import { fdatasync } from 'node:fs'
import { assert } from '../core/assert.ts'
import { ErrorCode } from '../core/errors.ts'
import {
  APPENDED,
  DESCRIPTOR,
  markSyncFailed,
  REQUESTED,
  ROW_WORDS,
  ROWS,
  RowState,
  STATE,
  SYNC_BOARD_WORDS,
  SYNCED,
  SYNCED_HERE,
  syncFailure
} from './sync-board.ts'

export type Fdatasync = (descriptor: number, done: (error: Error | null) => void) => void
export type FlushDone = (error: number) => void

/**
 * Group commit for one shard, on the main thread: a round runs fdatasync in the thread pool for
 * every file with unsynced appends and answers all flushes that came before it began. A flush that
 * comes during a round waits for the next one, as its writes may have missed this one.
 *
 * While the shard's worker is being replaced no round starts. Recovery syncs what it found, and the
 * flushes that waited are answered by the first round after it.
 */
export class SyncRounds {
  private readonly words: Int32Array
  private readonly sync: Fdatasync
  private readonly onSync: (durationMs: number, failed: boolean) => void
  private waiting: FlushDone[] = []
  private answering: FlushDone[] = []
  /** fdatasync calls of this round that have not returned. */
  private running = 0
  private inRound = false
  private held = true
  /** A row could not be pinned in this round. */
  private retry = false
  /** The worker asked for this round. */
  private requested = false
  private toldFailure = false
  /** Called when a round is over that the worker asked for, or that failed. */
  onRequested: () => void = () => {}
  private whenQuiet: (() => void) | null = null
  syncs = 0
  syncFailures = 0

  constructor(
    shared: SharedArrayBuffer,
    options: {
      /** For tests: the system call. */
      readonly sync?: Fdatasync | undefined
      readonly onSync?: ((durationMs: number, failed: boolean) => void) | undefined
    } = {}
  ) {
    this.words = new Int32Array(shared)
    this.sync = options.sync ?? fdatasync
    this.onSync = options.onSync ?? (() => {})
  }

  /** errno name of the first sync that failed, '' while none did. Sticky. */
  get failure(): string {
    return syncFailure(this.words)
  }

  /** Whether a flush has anything to wait for. */
  get isClean(): boolean {
    return !this.held && this.failure === '' && !this.anyUnsynced()
  }

  get isRunning(): boolean {
    return this.inRound
  }

  /** Counts a sync, of a round or one that the worker was asked for. */
  note(durationMs: number, failed: boolean): void {
    this.syncs++
    if (failed) this.syncFailures++
    this.onSync(durationMs, failed)
  }

  /** Calls `done` later, never from inside, once all that is on the board now is durable. */
  flush(done: FlushDone): void {
    this.waiting.push(done)
    if (!this.inRound && !this.held) this.startRound()
  }

  /** The worker may have asked for a sync. */
  poll(): void {
    if (this.inRound || this.held || Atomics.load(this.words, REQUESTED) === 0) return
    this.startRound()
  }

  /** No round starts from now on; calls `quiet` when none is running. */
  hold(quiet: () => void): void {
    this.held = true
    if (this.inRound) this.whenQuiet = quiet
    else queueMicrotask(quiet)
  }

  /** Forgets all files, for the next worker; only while held and quiet. Failures stay. */
  clear(): void {
    assert(this.held && !this.inRound, 'no sync of the last worker is running')
    Atomics.store(this.words, REQUESTED, 0)
    for (let word = ROWS; word < SYNC_BOARD_WORDS; word++) Atomics.store(this.words, word, 0)
  }

  /** A worker serves: recovery has synced what earlier ones appended. */
  resume(): void {
    assert(this.held && !this.inRound, 'rounds resume once they are held and quiet')
    this.held = false
    if (this.waiting.length > 0) this.startRound()
  }

  /** Answers every waiting flush with `error`; there will be no worker any more. */
  abandon(error: number): void {
    const abandoned = this.waiting
    this.waiting = []
    for (const done of abandoned) done(error)
  }

  private startRound(): void {
    this.inRound = true
    // A microtask, so that all flushes of one batch of requests share this round.
    queueMicrotask(this.beginRound)
  }

  private readonly beginRound = (): void => {
    assert(this.inRound && this.running === 0, 'one round runs at a time')
    if (Atomics.exchange(this.words, REQUESTED, 0) === 1) this.requested = true
    const joined = this.waiting
    this.waiting = []
    if (this.answering.length === 0) this.answering = joined
    else for (const done of joined) this.answering.push(done)
    this.running = 1
    // A row that the worker syncs itself right now cannot be pinned: look again soon.
    const allStarted = this.failure !== '' || this.startSyncs()
    if (!allStarted) {
      this.running++
      setTimeout(this.syncReturned, BUSY_ROW_RETRY_MS)
      this.retry = true
    }
    this.syncReturned()
  }

  private readonly syncReturned = (): void => {
    if (--this.running > 0) return
    if (this.retry && this.failure === '' && !this.held) {
      this.retry = false
      this.beginRound()
      return
    }
    this.endRound()
  }

  private endRound(): void {
    const missed = this.retry
    this.retry = false
    const answered = this.answering
    this.answering = []
    this.inRound = false
    if (missed && this.failure === '') {
      // The worker went away while it synced a row: recovery answers these.
      this.waiting = answered.concat(this.waiting)
    } else {
      const error = this.failure === '' ? ErrorCode.Ok : ErrorCode.ShardFailed
      for (const done of answered) done(error)
    }
    if (this.held) {
      this.whenQuiet?.()
      this.whenQuiet = null
      return
    }
    // A failure is the worker's to record, so that it outlives the process: at once.
    if (this.requested || (this.failure !== '' && !this.toldFailure)) this.onRequested()
    this.toldFailure = this.failure !== ''
    this.requested = false
    if (this.inRound) return
    if (this.waiting.length > 0) this.startRound()
    else this.poll()
  }

  /** Starts a sync of every unsynced file; false when one of them could not be pinned. */
  private startSyncs(): boolean {
    let all = true
    for (let at = ROWS; at < SYNC_BOARD_WORDS; at += ROW_WORDS) {
      if (Atomics.load(this.words, at + STATE) === RowState.Free || !this.isUnsynced(at)) continue
      if (!this.startSync(at)) all = false
    }
    return all
  }

  private startSync(at: number): boolean {
    const { words } = this
    const state = at + STATE
    const before = Atomics.compareExchange(words, state, RowState.Idle, RowState.Syncing)
    if (before === RowState.Free) return true
    if (before !== RowState.Idle) return false
    // From here the row stays this file's. Appends that come later are for the next round.
    const appended = Atomics.load(words, at + APPENDED)
    const startedMs = performance.now()
    this.running++
    this.sync(Atomics.load(words, at + DESCRIPTOR), (error) => {
      if (error === null) Atomics.store(words, at + SYNCED, appended)
      else markSyncFailed(words, error)
      Atomics.store(words, state, RowState.Idle)
      Atomics.notify(words, state)
      this.note(performance.now() - startedMs, error !== null)
      this.syncReturned()
    })
    return true
  }

  private anyUnsynced(): boolean {
    for (let at = ROWS; at < SYNC_BOARD_WORDS; at += ROW_WORDS) {
      if (Atomics.load(this.words, at + STATE) !== RowState.Free && this.isUnsynced(at)) return true
    }
    return false
  }

  private isUnsynced(at: number): boolean {
    const appended = Atomics.load(this.words, at + APPENDED)
    return (
      appended !== Atomics.load(this.words, at + SYNCED) &&
      appended !== Atomics.load(this.words, at + SYNCED_HERE)
    )
  }
}

/** A worker syncs a file itself only when its board is full, or for a checkpoint. */
const BUSY_ROW_RETRY_MS = 1
