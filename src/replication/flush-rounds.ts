import { ErrorCode } from '../core/errors.ts'
import { FLUSH_ROUNDS_MAX } from '../core/limits.ts'
import type { Boot } from './boots.ts'

type Done = (error: number) => void

/** What flushes need to know of the store. */
export interface FlushHost {
  boots(): Iterable<Boot>
  /** Is `boot` a member of a group with acknowledged writes that no flush covered? */
  owes(boot: Boot): boolean
  /** May a flush not end yet, for another reason than a boot that has not flushed? */
  isHeld(): boolean
  /** `boot` could not make its writes durable. */
  onFlushFailed(boot: Boot, error: number): void
  /** Every acknowledged write up to `round` is durable. */
  onFlushed(round: number): void
}

class Round {
  readonly number: number
  readonly done: Done[]
  /** Boots that have not answered, or not well. */
  readonly waiting: Set<Boot> = new Set()
  /** Those of them that were asked and have not answered. */
  readonly asked: Set<Boot> = new Set()

  constructor(number: number, done: Done[]) {
    this.number = number
    this.done = done
  }
}

/**
 * Flushes, R11. A write is noted with the round in which it was acknowledged; round n is over when
 * every boot that acknowledged one up to n has flushed since, or is in none of the groups any more
 * that have unflushed writes.
 */
export class FlushRounds {
  /** The round that the next flush makes durable: what is acknowledged now belongs to it. */
  current = 1
  readonly #host: FlushHost
  readonly #running: Set<Round> = new Set()
  #next: Done[] = []

  constructor(host: FlushHost) {
    this.#host = host
  }

  get isIdle(): boolean {
    return this.#running.size === 0
  }

  flush(done: Done): void {
    this.#next.push(done)
    if (this.#running.size < FLUSH_ROUNDS_MAX) this.#start()
  }

  /** Does a flush wait for `boot`? */
  waitsFor(boot: Boot): boolean {
    for (const round of this.#running) if (round.waiting.has(boot)) return true
    return false
  }

  /** There is a link to `boot` again: what it has not flushed is asked for again. */
  onUp(boot: Boot): void {
    for (const round of this.#running) {
      if (round.waiting.has(boot) && !round.asked.has(boot)) this.#ask(round, boot)
    }
  }

  /** Members left groups, or links came back: looks which rounds are over now. */
  check(): void {
    for (const round of [...this.#running]) {
      for (const boot of round.waiting) {
        if (round.asked.has(boot)) continue
        if (!this.#host.owes(boot)) round.waiting.delete(boot)
        else if (boot.member !== null) this.#ask(round, boot)
      }
      // One that is asked still may have left all the groups.
      for (const boot of round.asked) {
        if (!this.#host.owes(boot)) round.waiting.delete(boot)
      }
      this.#endIfOver(round)
    }
  }

  /** No member can do it: `error` is the answer. */
  fail(boot: Boot, error: number): void {
    for (const round of [...this.#running]) {
      if (!round.waiting.has(boot)) continue
      this.#running.delete(round)
      for (const done of round.done) done(error)
    }
    if (this.#next.length > 0 && this.#running.size < FLUSH_ROUNDS_MAX) this.#start()
  }

  #start(): void {
    const round = new Round(this.current++, this.#next)
    this.#next = []
    this.#running.add(round)
    for (const boot of this.#host.boots()) {
      if (boot.dirtyRound > boot.cleanRound) round.waiting.add(boot)
    }
    for (const boot of [...round.waiting]) {
      if (boot.member !== null) this.#ask(round, boot)
      else if (!this.#host.owes(boot)) round.waiting.delete(boot)
    }
    // Never from inside `flush`.
    if (round.waiting.size === 0) queueMicrotask(() => this.#endIfOver(round))
  }

  #ask(round: Round, boot: Boot): void {
    round.asked.add(boot)
    boot.member!.flush((error) => {
      round.asked.delete(boot)
      if (error === ErrorCode.Ok) {
        boot.cleanRound = Math.max(boot.cleanRound, round.number)
        round.waiting.delete(boot)
      } else if (round.waiting.has(boot)) {
        this.#host.onFlushFailed(boot, error)
      }
      this.#endIfOver(round)
    })
  }

  #endIfOver(round: Round): void {
    if (round.waiting.size > 0 || this.#host.isHeld() || !this.#running.delete(round)) return
    this.#host.onFlushed(round.number)
    for (const done of round.done) done(ErrorCode.Ok)
    if (this.#next.length > 0 && this.#running.size < FLUSH_ROUNDS_MAX) this.#start()
  }
}
