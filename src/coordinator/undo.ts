/** How what was started is stopped. */
import { systemTimers } from '../core/clock.ts'

/** What has been started, to be stopped in the opposite order. */
export class Undo {
  readonly #steps: (() => Promise<void> | void)[] = []

  add(step: () => Promise<void> | void): void {
    this.#steps.push(step)
  }

  /** Runs every step, even after one failed; the first failure is thrown at the end. */
  async run(): Promise<void> {
    const failures: unknown[] = []
    for (;;) {
      const step = this.#steps.pop()
      if (step === undefined) break
      try {
        await step()
      } catch (thrown) {
        failures.push(thrown)
      }
    }
    if (failures.length > 0) throw failures[0]
  }
}

/**
 * Clients are gone so long after they were cut off: what they asked for is answered with an error
 * only then, because who is not answered asks another gateway, and who gets an error does not.
 */
export const CUT_OFF_MS = 1000

/**
 * Stops something, which waits for requests. Those may wait for members that do not come, without
 * limit: after `limitMs` `giveUp` has to end them.
 */
export async function endure(
  stop: () => Promise<void>,
  limitMs: number,
  giveUp: () => void
): Promise<void> {
  const cancel = systemTimers.start(limitMs, giveUp)
  try {
    await stop()
  } finally {
    cancel()
  }
}
