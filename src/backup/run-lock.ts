/**
 * Locks of runs: they are renewed while a run goes on, and say whose process it is, so that those
 * that died are known: on the same machine at once, elsewhere when they are silent for STALE_MS.
 */
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { isGone, ownProcess } from '../core/own-process.ts'
import type { Lock, NewLock, Repository } from './repository.ts'

const RENEW_MS = 10_000
/** A store may need a while, and a machine be paused for a moment. */
const STALE_MS = 90_000
const LOOK_MS = 2_000

export interface TurnOptions {
  /** Others are taken for dead, whatever they look like. */
  readonly breakLock?: boolean
  /** Nobody knows yet whether it lives: that takes up to STALE_MS. */
  readonly onWaiting?: (other: Lock) => void
  readonly pause?: (ms: number) => Promise<unknown>
}

/** Shows others that a run goes on, from before it looks at any backup until after it has one. */
export class RunLock {
  readonly run: string
  readonly #repository: Repository
  readonly #timer: NodeJS.Timeout
  #lock: NewLock
  #key = ''
  #renewing: Promise<unknown> = Promise.resolve()

  private constructor(repository: Repository, run: string, what: string) {
    this.run = run
    this.#repository = repository
    this.#lock = { run, what, host: hostname(), process: ownProcess(), isBegun: false }
    this.#timer = setInterval(() => {
      this.#renewing = this.check().catch(() => {})
    }, RENEW_MS).unref()
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
    await this.#requireAlive()
    await this.#repository.putLock(this.#lock)
    // Who takes it for dead deletes the lock after that: it must not come back for good.
    await this.#requireAlive()
  }

  async #requireAlive(): Promise<void> {
    if (!(await this.#repository.isDead(this.run))) return
    await this.#repository.store.delete(this.#key)
    const text = `this run (${this.run}) was silent for so long that another took it for dead`
    throw new StoreError(ErrorCode.Closed, `${text}: run the backup again`)
  }

  /**
   * Resolves when no other run does the same. Of two that begin at once one goes on.
   * @throws StoreError Busy when another goes on, Closed, Unavailable
   */
  async takeTurn({ breakLock = false, onWaiting, pause = sleep }: TurnOptions = {}): Promise<void> {
    const seen = new Map<string, number>()
    for (let looks = 0; ; looks++) {
      const own = await this.#own()
      let other: Lock | null = null
      for (const lock of own.others) {
        const before = seen.get(lock.run)
        if (breakLock || isOver(lock, own.lock)) await this.#repository.takeForDead(lock)
        else if (before === undefined || before === lock.modifiedMs) other = lock
        // Both renewed theirs: who waits, too, and comes later in the alphabet, leaves.
        else if (lock.isBegun || lock.run < this.run) throw this.#busy(lock)
        else other = lock
        if (before === undefined) seen.set(lock.run, lock.modifiedMs)
      }
      if (other === null) break
      if (looks === 0) onWaiting?.(other)
      await pause(LOOK_MS)
      await this.check()
    }
    this.#lock = { ...this.#lock, isBegun: true }
    await this.check()
  }

  /** This lock as others see it, and those of the same kind. @throws StoreError Unavailable */
  async #own(): Promise<{ lock: Lock; others: Lock[] }> {
    const { run, what } = this.#lock
    const locks = await this.#repository.locks()
    const lock = locks.find((each) => each.run === run)
    if (lock !== undefined) {
      return { lock, others: locks.filter((each) => each.what === what && each.run !== run) }
    }
    await this.check()
    const { name } = this.#repository.store
    const text = `backup store ${name} does not list what was just put`
    throw new StoreError(ErrorCode.Unavailable, `${text}: it is not consistent enough for backups`)
  }

  #busy({ what, host }: Lock): StoreError {
    const text = `another ${what} goes on, from ${host}`
    const advice = 'try again when it is over, or end it for good with --break-lock'
    return new StoreError(ErrorCode.Busy, `${text}: ${advice}`)
  }

  async release(): Promise<void> {
    clearInterval(this.#timer)
    await this.#renewing
    await this.#repository.store.delete(this.#key)
  }
}

/** Did its run die? `own` was put just now: its time is that of the store's clock. */
export const isOver = (lock: Lock, own: Lock): boolean =>
  own.modifiedMs - lock.modifiedMs > STALE_MS ||
  (lock.process != null && isGone(lock.process, ownProcess()))
