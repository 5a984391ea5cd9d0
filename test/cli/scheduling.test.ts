import { deepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
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

/** Policies of the threads of this process. */
function policies(): Map<number, number> {
  const found = new Map<number, number>()
  for (const thread of readdirSync('/proc/self/task')) {
    const line = readFileSync(`/proc/self/task/${thread}/stat`, 'utf8')
    found.set(Number(thread), Number(line.slice(line.lastIndexOf(')') + 2).split(' ')[AT_POLICY]))
  }
  return found
}

const apply = (scheduling: Config['scheduling']): Promise<void> =>
  applyScheduling({ scheduling } as Config, silent)

testNeeding(
  { programs: ['chrt'] },
  'main thread and workers are batch work, the thread pool is not; unless told otherwise',
  async () => {
    await apply('normal')
    deepStrictEqual([...new Set(policies().values())], [NORMAL])
    await stat('/') // the pool begins
    const before = policies()
    await apply('batch')
    const worker = new Worker('setTimeout(() => {}, 60_000)', { eval: true })
    await new Promise((resolve) => worker.once('online', resolve))
    const now = policies()
    await worker.terminate()
    strictEqual(now.get(process.pid), BATCH)
    ok([...now].some(([thread, policy]) => !before.has(thread) && policy === BATCH))
    const pool = [...before.keys()].filter((thread) => thread !== process.pid)
    for (const thread of pool) if (now.has(thread)) strictEqual(now.get(thread), NORMAL)
  }
)

test('without chrt all stays as it is', async () => {
  const path = process.env['PATH']
  const before = process.platform === 'linux' ? policies() : new Map()
  process.env['PATH'] = '/nowhere'
  try {
    await apply('batch')
  } finally {
    process.env['PATH'] = path
  }
  if (process.platform === 'linux')
    strictEqual(policies().get(process.pid), before.get(process.pid))
})

test.run()
