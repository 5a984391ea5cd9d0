import { openSync, readSync } from 'node:fs'

/** More than the file ever has. */
const IO_BYTES_MAX = 512
const FIELD = 'read_bytes: '

/**
 * How much the calling thread has read from disks so far, in a unit of its own: what it is there
 * for is to tell whether a read that took long waited for a disk. Workers and the thread pool read
 * from disks all the time, so where the kernel counts by thread (/proc/thread-self/io, proc(5)),
 * only this thread counts; elsewhere the process. Always 0 where nobody counts.
 */
export function diskReadsOfThread(): () => number {
  let descriptor: number
  try {
    descriptor = openSync('/proc/thread-self/io', 'r')
  } catch {
    return diskReadsOfProcess
  }
  const text = Buffer.alloc(IO_BYTES_MAX)
  return () => {
    const length = readSync(descriptor, text, 0, IO_BYTES_MAX, 0)
    const at = text.indexOf(FIELD)
    return at < 0 ? 0 : Number.parseInt(text.toString('latin1', at + FIELD.length, length), 10)
  }
}

function diskReadsOfProcess(): number {
  return process.resourceUsage().fsRead
}
