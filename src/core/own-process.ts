/** Processes that others of their machine can see end. */
import { readFileSync, readlinkSync } from 'node:fs'

export interface ProcessId {
  /** Boot and PID namespace. */
  readonly machine: string
  readonly pid: number
}

/** This one; null where that cannot be told. */
export function ownProcess(): ProcessId | null {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
    return { machine: `${boot} ${readlinkSync('/proc/self/ns/pid')}`, pid: process.pid }
  } catch {
    return null
  }
}

/** Is it known to have ended? Of another machine that is not known. */
export function isGone(other: ProcessId, own: ProcessId | null): boolean {
  if (own?.machine !== other.machine) return false
  try {
    process.kill(other.pid, 0)
    return false
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === 'ESRCH'
  }
}
