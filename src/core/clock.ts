/** Time and randomness reach the code as interfaces, so that a cluster runs in a simulator. */
export interface Clock {
  /** Milliseconds that never go back, fractions included. Origin is arbitrary. */
  monotonicMs(): number
  /** Milliseconds since 1970. May jump. */
  wallMs(): number
}

export interface Random {
  /** Uniform integer in [0, 2^32). */
  u32(): number
}

/** Timers, so that waiting too can be simulated. A started timer keeps no process alive. */
export interface Timers {
  /** Calls `run` once, in about `delayMs`. Returns a function that prevents it. */
  start(delayMs: number, run: () => void): () => void
}

export const systemTimers: Timers = {
  start: (delayMs, run) => {
    const timer = setTimeout(run, delayMs)
    timer.unref()
    return () => clearTimeout(timer)
  }
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now()
}

export const systemRandom: Random = {
  u32: () => globalThis.crypto.getRandomValues(new Uint32Array(1))[0] ?? 0
}
