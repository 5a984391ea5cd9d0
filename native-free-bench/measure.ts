/** Times one prepared piece of work: warmed up, then sampled until the time is over. */
import type { Prepared } from './kernel.ts'

export interface Timing {
  readonly minNs: number
  readonly medianNs: number
  readonly p99Ns: number
  readonly samples: number
  /** Runs timed together as one sample, so that the clock's own cost does not count. */
  readonly runsPerSample: number
}

const SAMPLE_NS_MIN = 20_000n
const SAMPLES_MAX = 20_000
/** V8 optimises what ran often and for long enough. */
const WARM_UP_SHARE = 0.3

function timeRuns(work: Prepared, runs: number): bigint {
  const started = process.hrtime.bigint()
  for (let run = 0; run < runs; run++) work.run()
  return process.hrtime.bigint() - started
}

function warmUp(work: Prepared, milliseconds: number): number {
  const until = performance.now() + milliseconds
  let runs = 1
  do {
    if (timeRuns(work, runs) < SAMPLE_NS_MIN) runs *= 2
  } while (performance.now() < until)
  return runs
}

export function measure(work: Prepared, milliseconds: number): Timing {
  const runsPerSample = warmUp(work, milliseconds * WARM_UP_SHARE)
  const until = performance.now() + milliseconds * (1 - WARM_UP_SHARE)
  const samples: number[] = []
  do {
    samples.push(Number(timeRuns(work, runsPerSample)) / runsPerSample)
  } while (samples.length < SAMPLES_MAX && performance.now() < until)
  samples.sort((a, b) => a - b)
  const at = (share: number): number =>
    samples[Math.min(samples.length - 1, Math.floor(samples.length * share))]!
  return {
    minNs: samples[0]!,
    medianNs: at(0.5),
    p99Ns: at(0.99),
    samples: samples.length,
    runsPerSample
  }
}
