import { deepStrictEqual, ok } from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import { applyScheduling } from '../../src/cli/scheduling.ts'
import type { LogOutput } from '../../src/core/log.ts'
import type { Config } from '../../src/core/options.ts'
import { testNeeding } from '../helpers/environment.ts'

const NORMAL = 0
const BATCH = 3
/** Of `stat`, behind the name in parentheses. */
const AT_POLICY = 38

const silent = { log: { debug: () => {} } } as unknown as LogOutput

/** Policies of the threads of this process, each once. */
function policies(): number[] {
  const found = readdirSync('/proc/self/task').map((thread) => {
    const stat = readFileSync(`/proc/self/task/${thread}/stat`, 'utf8')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[AT_POLICY])
  })
  return [...new Set(found)]
}

const apply = (scheduling: Config['scheduling']): Promise<void> =>
  applyScheduling({ scheduling } as Config, silent)

testNeeding(
  { programs: ['chrt'] },
  'all threads are scheduled as batch work, those too that begin later; unless told otherwise',
  async () => {
    await apply('normal')
    deepStrictEqual(policies(), [NORMAL])
    await apply('batch')
    const worker = new Worker('setTimeout(() => {}, 60_000)', { eval: true })
    await new Promise((resolve) => worker.once('online', resolve))
    const now = policies()
    await worker.terminate()
    deepStrictEqual(now, [BATCH])
  }
)

test('without chrt all stays as it is', async () => {
  const path = process.env['PATH']
  const before = process.platform === 'linux' ? policies() : []
  process.env['PATH'] = '/nowhere'
  try {
    await apply('batch')
  } finally {
    process.env['PATH'] = path
  }
  ok(process.platform !== 'linux' || policies().join() === before.join())
})

test.run()
