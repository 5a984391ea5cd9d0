/** Reads V8's .cpuprofile files, one per thread, and tells where the time of a job went. */
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'

interface ProfileNode {
  id: number
  callFrame: { functionName: string; url: string; lineNumber: number }
}
interface CpuProfile {
  nodes: ProfileNode[]
  /** Microseconds on the monotonic clock. */
  startTime: number
  samples: number[]
  timeDeltas: number[]
}

export interface FunctionTime {
  readonly name: string
  readonly us: number
}

export interface ThreadProfile {
  readonly file: string
  /** Milliseconds the thread was sampled in the window. */
  readonly sampledUs: number
  /** Most time first. Time asleep is `(idle)`. */
  readonly functions: readonly FunctionTime[]
}

/** Own time of each function of each thread within [startUs, endUs). */
export function profilesIn(directory: string, startUs: number, endUs: number): ThreadProfile[] {
  return readdirSync(directory)
    .filter((name) => name.endsWith('.cpuprofile'))
    .sort()
    .map((name) => threadProfile(join(directory, name), startUs, endUs))
    .filter(({ sampledUs }) => sampledUs > 0)
}

function threadProfile(file: string, startUs: number, endUs: number): ThreadProfile {
  const profile = JSON.parse(readFileSync(file, 'utf8')) as CpuProfile
  const names = new Map(profile.nodes.map((node) => [node.id, nameOf(node)]))
  const times = new Map<string, number>()
  let now = profile.startTime
  let sampledUs = 0
  profile.samples.forEach((id, at) => {
    now += profile.timeDeltas[at] ?? 0
    if (now < startUs || now >= endUs) return
    // A sample stands for the time until the next one.
    const us = Math.max(0, profile.timeDeltas[at + 1] ?? 0)
    const name = names.get(id) ?? '?'
    times.set(name, (times.get(name) ?? 0) + us)
    sampledUs += us
  })
  const functions = [...times].map(([name, us]) => ({ name, us })).sort((a, b) => b.us - a.us)
  return { file: basename(file), sampledUs, functions }
}

/** Node calls the file CPU.date.time.process.thread.number, the main thread being 0. */
function threadName(file: string): string {
  const thread = Number(file.split('.')[4])
  return thread === 0 ? 'main thread' : `worker ${thread}`
}

function nameOf({ callFrame }: ProfileNode): string {
  const { functionName, url, lineNumber } = callFrame
  const name = functionName === '' ? '(anonymous)' : functionName
  return url === '' ? name : `${name} ${basename(url)}:${lineNumber + 1}`
}

/** The `count` functions of a thread that took most time, as lines of text. */
export function topFunctions(profile: ThreadProfile, count: number, operations: number): string {
  const lines = profile.functions.slice(0, count).map(({ name, us }) => {
    const share = ((us / profile.sampledUs) * 100).toFixed(1).padStart(5)
    return `  ${share} %  ${(us / Math.max(1, operations)).toFixed(2).padStart(7)} µs/op  ${name}`
  })
  return `${threadName(profile.file)}\n${lines.join('\n')}`
}
