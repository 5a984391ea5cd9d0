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

export interface Timers {
  /** Runs `work` once, about `ms` milliseconds later, unless the returned function is called. */
  after(ms: number, work: () => void): () => void
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now()
}

export const systemRandom: Random = {
  u32: () => globalThis.crypto.getRandomValues(new Uint32Array(1))[0] ?? 0
}

/** They do not keep the process alive. */
export const systemTimers: Timers = {
  after: (ms, work) => {
    const timer = setTimeout(work, ms)
    timer.unref()
    return () => clearTimeout(timer)
  }
}
