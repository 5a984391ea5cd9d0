import type { Timers } from './clock.ts'

/**
 * Work that would take the main thread for too long, as a generator that yields about every
 * millisecond. It counts what it does rather than the time, so that it does the same every time.
 */
export type Steps<T> = Generator<void, T, void>

/** In one go. */
export function allSteps<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
  }
}

/** Other things get their turn in between: what is looked at must not change by that. */
export async function sliced<T>(steps: Steps<T>, timers: Timers): Promise<T> {
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
    await new Promise<void>((resolve) => timers.start(0, resolve))
  }
}
