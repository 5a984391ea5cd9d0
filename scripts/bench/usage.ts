/** CPU time and memory of a process and its children, from /proc (Linux). */
import { readdirSync, readFileSync } from 'node:fs'

/** USER_HZ is 100 on every Linux this runs on. */
const TICK_US = 10_000

export interface ThreadUsage {
  readonly id: number
  readonly name: string
  readonly cpuUs: number
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // the process ended meanwhile
  }
}

/** Fields of a `stat` file after the name, which may hold blanks; `[0]` is the state. */
function statFields(text: string): string[] {
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}

/** Living children of `pid`, by the list each of its threads keeps. */
export function childrenOf(pid: number): number[] {
  return threadIds(pid).flatMap((thread) =>
    readText(`/proc/${pid}/task/${thread}/children`).split(' ').filter(Boolean).map(Number)
  )
}

function threadIds(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number)
  } catch {
    return []
  }
}

/** User and system time of `pid`, of children it reaped and of those that live, microseconds. */
export function cpuUs(pid: number): number {
  const fields = statFields(readText(`/proc/${pid}/stat`))
  if (fields.length < 15) return 0
  let ticks = 0
  for (let at = 11; at <= 14; at++) ticks += Number(fields[at])
  return ticks * TICK_US + childrenOf(pid).reduce((sum, child) => sum + cpuUs(child), 0)
}

export function threadUsage(pid: number): ThreadUsage[] {
  return threadIds(pid).map((id) => {
    const text = readText(`/proc/${pid}/task/${id}/stat`)
    const fields = statFields(text)
    const name = text.slice(text.indexOf('(') + 1, text.lastIndexOf(')'))
    const ticks = Number(fields[11] ?? 0) + Number(fields[12] ?? 0)
    return { id, name: id === pid ? 'main' : name, cpuUs: ticks * TICK_US }
  })
}

/** What each thread used since `before` was taken, most first. */
export function usedSince(before: readonly ThreadUsage[], pid: number): ThreadUsage[] {
  const old = new Map(before.map(({ id, cpuUs: used }) => [id, used]))
  return threadUsage(pid)
    .map(({ id, name, cpuUs: now }) => ({ id, name, cpuUs: now - (old.get(id) ?? 0) }))
    .filter(({ cpuUs: used }) => used > 0)
    .sort((a, b) => b.cpuUs - a.cpuUs)
}

const kibibytes = (status: string, field: string): number =>
  Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) * 1024

/** Resident bytes now, children included. */
export function residentBytes(pid: number): number {
  const own = kibibytes(readText(`/proc/${pid}/status`), 'VmRSS')
  return own + childrenOf(pid).reduce((sum, child) => sum + residentBytes(child), 0)
}

/** Most resident bytes of the process itself so far. */
export const peakBytes = (pid: number): number =>
  kibibytes(readText(`/proc/${pid}/status`), 'VmHWM')

/** Watches the memory of a process tree; children that come and go count while they live. */
export class MemoryWatch {
  peak = 0
  readonly #pid: number
  readonly #timer: NodeJS.Timeout
  constructor(pid: number, everyMs = 500) {
    this.#pid = pid
    this.#timer = setInterval(() => this.#sample(), everyMs)
  }

  #sample(): void {
    this.peak = Math.max(this.peak, residentBytes(this.#pid))
  }

  stop(): number {
    clearInterval(this.#timer)
    this.#sample()
    this.peak = Math.max(this.peak, peakBytes(this.#pid))
    return this.peak
  }
}
