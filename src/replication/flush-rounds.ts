import { ErrorCode } from '../core/errors.ts'
import { FLUSH_ROUNDS_MAX } from '../core/limits.ts'
import type { Boot } from './boots.ts'
import type { FamilyIo } from './family-io.ts'

type Done = (error: number) => void
/** Whose writes a flush is for; null: those of all. */
type Whose = FamilyIo | null

/** What flushes need to know of the store. */
export interface FlushHost {
  boots(): Iterable<Boot>
  families(): Iterable<FamilyIo>
  /** R26: may clients of the family still be told that something is durable? */
  mayAnswer(family: FamilyIo): boolean
  /** `boot` could not make its writes durable. */
  onFlushFailed(boot: Boot, error: number): void
}

class Round {
  readonly number: number
  readonly whose: Whose
  readonly done: Done
  /** Boots that have not answered, or not well. */
  readonly waiting: Set<Boot> = new Set()

  constructor(number: number, whose: Whose, done: Done) {
    this.number = number
    this.whose = whose
    this.done = done
  }
}

/**
 * Flushes, R11 and R26. A write is noted with the round in which it was acknowledged; round n is
 * over when every boot that acknowledged one up to n has flushed since, or is in none of the groups
 * any more that have unflushed writes of the round's family. What a boot flushes is flushed for all
 * rounds that began before it was asked; what one family waits for keeps no other waiting for long.
 */
export class FlushRounds {
  /** The round that the next flush makes durable: what is acknowledged now belongs to it. */
  current = 1
  readonly #host: FlushHost
  readonly #running: Set<Round> = new Set()

  constructor(host: FlushHost) {
    this.#host = host
  }

  get isIdle(): boolean {
    return this.#running.size === 0
  }

  flush(whose: Whose, done: Done): void {
    const round = new Round(this.current++, whose, done)
    this.#running.add(round)
    for (const boot of this.#host.boots()) {
      if (boot.dirtyRound <= boot.cleanRound) continue
      if (boot.member !== null || this.#owes(boot, whose)) round.waiting.add(boot)
    }
    for (const boot of round.waiting) this.#ask(boot)
    // Never from inside `flush`.
    if (round.waiting.size === 0) queueMicrotask(() => this.#endIfOver(round))
  }

  /** Does a flush wait for `boot`? */
  waitsFor(boot: Boot): boolean {
    for (const round of this.#running) if (round.waiting.has(boot)) return true
    return false
  }

  /** There is a link to `boot` again: what it has not flushed is asked for again. */
  onUp(boot: Boot): void {
    if (this.waitsFor(boot)) this.#ask(boot)
  }

  /** Members left groups, groups were settled, links came back: looks which rounds are over now. */
  check(): void {
    for (const round of [...this.#running]) {
      for (const boot of round.waiting) {
        // One that is asked still may have left all the groups, or serve others only.
        if (!this.#owes(boot, round.whose)) round.waiting.delete(boot)
        else if (boot.flushAsked < round.number) this.#ask(boot)
      }
      this.#endIfOver(round)
    }
  }

  /** No member can do it for `family`: `error` is the answer. */
  fail(boot: Boot, family: FamilyIo, error: number): void {
    for (const round of [...this.#running]) {
      const isMeant = round.whose === null || round.whose === family
      if (isMeant && round.waiting.has(boot)) this.#end(round, error)
    }
  }

  /** The family is served no more: nobody knows what becomes of what was not flushed. */
  close(family: FamilyIo): void {
    for (const round of [...this.#running]) {
      if (round.whose === family) this.#end(round, ErrorCode.Closed)
    }
  }

  /** Asks for all rounds that have begun; those that begin later share the next time. */
  #ask(boot: Boot): void {
    if (boot.member === null || boot.flushing >= FLUSH_ROUNDS_MAX) return
    const asked = this.current - 1
    boot.flushAsked = asked
    boot.flushing++
    boot.member.flush((error) => {
      boot.flushing--
      if (error === ErrorCode.Ok) boot.cleanRound = Math.max(boot.cleanRound, asked)
      else {
        boot.flushAsked = 0
        if (this.waitsFor(boot)) this.#host.onFlushFailed(boot, error)
      }
      this.#answered(boot)
    })
  }

  #answered(boot: Boot): void {
    let isBehind = false
    for (const round of [...this.#running]) {
      if (round.number <= boot.cleanRound) round.waiting.delete(boot)
      else if (round.waiting.has(boot)) isBehind ||= round.number > boot.flushAsked
      this.#endIfOver(round)
    }
    // What failed is asked for again by a tick.
    if (isBehind && boot.flushAsked > 0) this.#ask(boot)
  }

  #endIfOver(round: Round): void {
    if (round.waiting.size > 0 || !this.#running.has(round)) return
    for (const { holdsFlushes } of this.#those(round.whose)) if (holdsFlushes) return
    if (round.whose !== null && !this.#host.mayAnswer(round.whose)) return
    for (const family of this.#those(round.whose)) family.noteFlushed(round.number)
    this.#end(round, ErrorCode.Ok)
  }

  #those(whose: Whose): Iterable<FamilyIo> {
    return whose === null ? this.#host.families() : [whose]
  }

  #owes(boot: Boot, whose: Whose): boolean {
    for (const family of this.#those(whose)) if (family.isOwedBy(boot)) return true
    return false
  }

  #end(round: Round, error: number): void {
    if (this.#running.delete(round)) round.done(error)
  }
}
