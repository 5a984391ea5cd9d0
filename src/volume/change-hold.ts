import { type Timers, systemTimers } from '../core/clock.ts'
import type { VolumeRequest } from './request.ts'

/** Counts the changes of a volume that are on their way, and can hold those that come. */
export class ChangeHold {
  readonly #begin: (request: VolumeRequest, beyondEnd: boolean) => void
  readonly #timers: Timers
  #running = 0
  /** null: nothing is held. */
  #held: { readonly request: VolumeRequest; readonly beyondEnd: boolean }[] | null = null
  #onQuiet: (() => void) | null = null

  /** `begin` starts a change that was held; it counts as running. */
  constructor(
    begin: (request: VolumeRequest, beyondEnd: boolean) => void,
    timers: Timers = systemTimers
  ) {
    this.#begin = begin
    this.#timers = timers
  }

  /** May the change start now? Otherwise it is held. */
  admits(request: VolumeRequest, beyondEnd: boolean): boolean {
    if (this.#held !== null) {
      this.#held.push({ request, beyondEnd })
      return false
    }
    this.#running++
    return true
  }

  /** A change that was begun is over. */
  ended(): void {
    this.#running--
    if (this.#running === 0) this.#onQuiet?.()
  }

  /** True when nothing is on its way any more; false after `waitMs`, and nothing is held then. */
  async hold(waitMs: number): Promise<boolean> {
    this.#held = []
    if (this.#running === 0) return true
    const isQuiet = await new Promise<boolean>((resolve) => {
      const stop = this.#timers.start(waitMs, () => resolve(false))
      this.#onQuiet = () => {
        stop()
        resolve(true)
      }
    })
    this.#onQuiet = null
    if (!isQuiet) this.release()
    return isQuiet
  }

  release(): void {
    const held = this.#held ?? []
    this.#held = null
    this.#running += held.length
    for (const { request, beyondEnd } of held) this.#begin(request, beyondEnd)
  }
}
