import type { Job } from './rows.ts'

const MiB = 1024 * 1024
const FILL: Job = { rw: 'write', blockBytes: MiB, depth: 16, wholeSize: true }
const SCAN: Job = { rw: 'read', blockBytes: MiB, depth: 16, wholeSize: true }

/** Jobs that go over a whole volume in `fillTwice`. */
export const FILL_JOBS = 4

/**
 * Writes and reads every byte of a volume, twice: a server that appends has files to use again
 * then, and all of them in the page cache, as the references' file is: data that is new may go
 * past it. On a virtual machine whose host gives memory when it is first touched, that costs 30
 * times a copy.
 */
export async function fillTwice(run: (job: Job) => Promise<unknown>): Promise<void> {
  for (let pass = 0; pass < FILL_JOBS / 2; pass++) {
    await run(FILL)
    await run(SCAN)
  }
}
