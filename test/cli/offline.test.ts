import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { cliFor, cliProgram } from '../helpers/cli.ts'
import { testNeeding } from '../helpers/environment.ts'
import { end, gather, run, runOk, until, waitForEnd } from '../helpers/process.ts'

const MIB = 1024 * 1024
const torus = cliFor('')
/** Repeats nowhere, so that a block in the wrong place is seen. */
const content = Buffer.alloc(24 * MIB)
for (let at = 0; at < content.length; at += 4) content.writeUInt32BE((at * 2654435761) >>> 0, at)

interface Served {
  readonly child: ChildProcess
  readonly uri: string
}

async function serve(dataDir: string, ...args: string[]): Promise<Served> {
  const all = ['--capacity', '1GiB', '--segment-size', '4MiB', '--volume', 'demo=64MiB', ...args]
  const listen = ['--nbd-listen', '127.0.0.1:0', '--admin-listen', 'off', '--json']
  const child = spawn(
    process.execPath,
    [cliProgram, 'serve', '--data-dir', dataDir, ...listen, ...all],
    { stdio: ['ignore', 'pipe', 'pipe'] }
  )
  const output = gather(child)
  await until(() => {
    if (child.exitCode !== null) throw new Error(output.all())
    return output.stdout().endsWith('}\n')
  }, 'torus serve answers')
  return { child, uri: `${JSON.parse(output.stdout()).nbdAddresses[0]}/demo` }
}

async function stop({ child }: Served): Promise<void> {
  child.kill('SIGTERM')
  if (!(await waitForEnd(child, 30_000))) throw new Error('the peer did not stop')
}

/** Every file below `folder` with its size and time of change. */
const listing = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => {
      const { size, mtimeMs } = statSync(join(folder, name))
      return `${name} ${size} ${mtimeMs}`
    })

const folder = mkdtempSync(join(tmpdir(), 'torus-offline-'))
const filled = join(folder, 'filled')
test.after(() => rmSync(folder, { recursive: true, force: true }))

/** Made once; the tests work on copies. */
async function fill(): Promise<void> {
  if (existsSync(filled)) return
  const served = await serve(filled, '--shards', '2')
  try {
    writeFileSync(join(folder, 'content'), content)
    await runOk('nbdcopy', ['--flush', join(folder, 'content'), served.uri])
    await stop(served)
  } finally {
    await end(served.child)
  }
}

let copies = 0

async function withData(use: (dataDir: string) => Promise<void>): Promise<void> {
  await fill()
  const dataDir = join(folder, `copy-${copies++}`)
  cpSync(filled, dataDir, { recursive: true })
  await use(dataDir)
}

async function readBack(dataDir: string): Promise<Buffer> {
  const served = await serve(dataDir)
  const file = join(folder, 'read-back')
  try {
    await runOk('nbdcopy', [served.uri, file])
    return readFileSync(file).subarray(0, content.length)
  } finally {
    await stop(served)
  }
}

testNeeding({ programs: ['nbdcopy'] }, 'check reads all and changes nothing', () =>
  withData(async (dataDir) => {
    const before = listing(dataDir)
    const checked = await torus(['check', '--data-dir', dataDir, '--json'])
    equal(checked.code, 0, checked.stderr)
    const report = JSON.parse(checked.stdout)
    ok(report.blocks >= content.length / 4096, checked.stdout)
    deepEqual([report.shards, report.problems, report.found], [2, 0, []])
    deepEqual(listing(dataDir), before)
    const served = await serve(dataDir)
    const busy = await torus(['check', '--data-dir', dataDir])
    await stop(served)
    equal(busy.code, 1)
    match(busy.stderr, /in use by another process \(pid \d+\)/)
  })
)

testNeeding({ programs: ['nbdcopy'] }, 'check names a flipped bit, and fails', () =>
  withData(async (dataDir) => {
    // By chance one of the shards has no chunk.
    const segmentOf = (shard: number): string | undefined =>
      readdirSync(join(dataDir, `shard-${shard}`)).find((name) => name.startsWith('seg-'))
    const shard = segmentOf(0) === undefined ? 1 : 0
    const segment = segmentOf(shard)!
    const file = join(dataDir, `shard-${shard}`, segment)
    const bytes = readFileSync(file)
    bytes[64 * 4096]! ^= 1
    writeFileSync(file, bytes)
    const checked = await torus(['check', '--data-dir', dataDir])
    equal(checked.code, 1)
    match(
      checked.stdout,
      new RegExp(`shard ${shard} \\w+ ${segment} at \\d+: .*family [0-9a-f]{16}`)
    )
    match(checked.stderr, /1 problems, 1 live blocks are damaged/)
  })
)

testNeeding({ programs: ['nbdcopy'] }, 'reshard keeps every byte, and an end in the middle', () =>
  withData(async (dataDir) => {
    const half = spawn(process.execPath, [
      ...[cliProgram, 'reshard', '--data-dir', dataDir, '--shards', '3']
    ])
    await new Promise((resolve) => setTimeout(resolve, 450))
    half.kill('SIGKILL')
    await waitForEnd(half, 10_000)
    const done = await torus(['reshard', '--data-dir', dataDir, '--shards', '3'])
    equal(done.code, 0, done.stderr)
    match(done.stdout, /has 3 shards now/)
    equal((await torus(['check', '--data-dir', dataDir])).code, 0)
    ok((await readBack(dataDir)).equals(content), 'all bytes are as before')
  })
)

test('what is no data directory is refused in words', async () => {
  mkdirSync(join(folder, 'empty'))
  const missing = await torus(['check', '--data-dir', join(folder, 'none')])
  equal(missing.code, 1)
  match(missing.stderr, /it does not exist/)
  const empty = await torus(['reshard', '--data-dir', join(folder, 'empty'), '--shards', '2'])
  match(empty.stderr, /it has no superblock/)
  deepEqual(readdirSync(join(folder, 'empty')), [])
  equal((await torus(['check'])).code, 2)
  equal((await torus(['reshard', '--data-dir', folder])).code, 2)
  const loss = ['reshard', '--data-dir', join(folder, 'empty'), '--shards', '2', '--accept-loss']
  writeFileSync(join(folder, 'empty', 'superblock'), '')
  const unsure = await run(process.execPath, [cliProgram, ...loss])
  equal(unsure.code, 2)
  match(unsure.stderr, /--yes/)
})

test.run()
