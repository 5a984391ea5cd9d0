/** `npm run dev-cluster`: one command to a cluster, Ctrl-C to nothing. */
import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../../scripts/repository.ts'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { end, type Gathered, gather, hasEnded, until, waitForEnd } from '../helpers/process.ts'

const program = join(repositoryRoot, 'dist/scripts/dev-cluster.js')
const START_MS_MAX = 60_000

interface Run {
  readonly child: ChildProcess
  readonly output: Gathered
}

async function start(...args: string[]): Promise<Run> {
  const child = spawn(process.execPath, [program, '--peers', '2', '--volume', 'v=16MiB', ...args])
  const output = gather(child)
  const isUp = (): boolean => {
    if (hasEnded(child)) throw new Error(`it ended: ${output.all()}`)
    return output.stdout().includes('Ctrl-C stops everything')
  }
  await until(isUp, 'the cluster is up', START_MS_MAX)
  return { child, output }
}

/** As Ctrl-C through npm: twice. */
async function interrupt({ child, output }: Run): Promise<void> {
  child.kill('SIGINT')
  child.kill('SIGINT')
  ok(await waitForEnd(child, 30_000), `it ends: ${output.all()}`)
  strictEqual(child.exitCode, 0, output.all())
}

const pidsIn = (text: string): number[] =>
  [...text.matchAll(/pid (\d+)/g)].map((found) => Number(found[1]))

const portsIn = (text: string): string[] =>
  [...text.matchAll(/nbd:\/\/127\.0\.0\.1:(\d+)\/v /g)].map((found) => found[1]!)

const lives = (pid: number): boolean => existsSync(`/proc/${pid}`)

testNeeding({ programs: ['etcd'] }, 'Ctrl-C leaves no process and no file', async () => {
  const run = await start()
  try {
    const pids = pidsIn(run.output.stdout())
    strictEqual(pids.filter(lives).length, 2)
    const directory = / in (\/\S+)$/m.exec(run.output.stdout())![1]!
    ok(existsSync(join(directory, 'h2')))
    run.child.stdin?.write('kill 2\nstart 9\nstatus\nstart 2\n')
    await until(() => run.output.stdout().includes('peer 2 is up'), 'peer 2 is back', 30_000)
    match(run.output.stdout(), /"start 9": kill, stop, start, pause or resume N; status/)
    match(run.output.stdout(), /peers +2 of 2 up|peers +1 of 2 up/)
    const now = [...pids, ...pidsIn(run.output.stdout())]
    await interrupt(run)
    deepStrictEqual(now.filter(lives), [])
    ok(!existsSync(directory))
  } finally {
    await end(run.child, 'SIGTERM', 30_000)
  }
})

testNeeding({ programs: ['etcd'] }, 'a second run in the same directory goes on', async () => {
  const scratch = await Scratch.create()
  const directory = scratch.path('site')
  const runs: Run[] = []
  try {
    runs.push(await start('--dir', directory))
    await interrupt(runs[0]!)
    ok(existsSync(join(directory, 'h1', 'superblock')))
    runs.push(await start('--dir', directory))
    const [first, second] = runs.map(({ output }) => portsIn(output.stdout()))
    strictEqual(first!.length, 2)
    deepStrictEqual(first, second)
    await interrupt(runs[1]!)
  } finally {
    for (const { child } of runs) await end(child, 'SIGTERM', 30_000)
    await scratch.remove()
  }
})

test.run()
