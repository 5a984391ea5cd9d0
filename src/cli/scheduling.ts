import { execFile } from 'node:child_process'
import { stat } from 'node:fs/promises'
import type { LogOutput } from '../core/log.ts'
import type { Config } from '../core/options.ts'

/**
 * Has the kernel treat the main thread and the workers as batch work (SCHED_BATCH): one that wakes
 * does not interrupt who runs. Where gateway, members and clients share few cores, each then does
 * more in its turn instead of being interrupted by the first answer to the first of its requests,
 * with fewer and smaller system calls each time. Workers begin later and inherit it. The thread
 * pool does not: a sync that it runs would wait for a thread that only looks for news.
 *
 * Node cannot do it by itself. Where `chrt` (util-linux) is not there all stays as it is.
 */
export async function applyScheduling({ scheduling }: Config, { log }: LogOutput): Promise<void> {
  if (scheduling !== 'batch' || process.platform !== 'linux') return
  // All threads of the pool begin with its first job.
  await stat('/')
  const flags = ['--batch', '--pid', '0', String(process.pid)]
  await new Promise<void>((resolve) => {
    execFile('chrt', flags, { timeout: TIMEOUT_MS }, (error) => {
      if (error !== null) log.debug({ err: error }, 'threads stay as the kernel schedules others')
      resolve()
    })
  })
}

const TIMEOUT_MS = 2000
