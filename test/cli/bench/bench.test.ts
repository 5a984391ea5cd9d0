/** `torus bench` as a process of its own, before a real NBD server over memory. */
import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'uvu'
import { ErrorCode } from '../../../src/core/errors.ts'
import { RequestKind } from '../../../src/volume/request.ts'
import { type AdminFixture, startFixture } from '../../helpers/admin.ts'
import { type Cli, cliFor, cliProgram, runOnTerminal } from '../../helpers/cli.ts'
import { testNeeding } from '../../helpers/environment.ts'
import {
  MIB,
  type Serving,
  type ServingOptions,
  serving,
  until
} from '../../helpers/nbd-serving.ts'
import { gather, waitForEnd } from '../../helpers/process.ts'

interface Here extends Serving {
  readonly fixture: AdminFixture
  readonly torus: Cli
}

/** Volume `demo` of 64 MiB, known to the admin API and served over NBD. */
async function withVolume(
  body: (here: Here) => Promise<void>,
  volume: { usedBytes?: number | null; clients?: number } = {},
  options: ServingOptions = {}
): Promise<void> {
  const fixture = await startFixture()
  try {
    const { backend } = fixture
    const created = await backend.createVolume({
      ...{ name: 'demo', sizeBytes: 64 * MIB, type: 'block', description: '' }
    })
    backend.volumesByName.set('demo', { ...created, usedBytes: 4096, ...volume })
    await serving(
      async (server) => {
        backend.nbdAddresses = [`nbd://127.0.0.1:${server.port}`]
        await body({ ...server, fixture, torus: cliFor(fixture.url) })
      },
      { timeoutMs: 60_000, ...options }
    )
  } finally {
    await fixture.stop()
  }
}

const second = ['bench', 'demo', '--seconds', '1']

test('reads are measured, and nothing is written', async () => {
  await withVolume(async ({ torus, demo }) => {
    demo.record = true
    const { code, stdout, stderr } = await torus([...second, '--connections', '2', '--depth', '4'])
    equal(code, 0, stderr)
    match(stdout, /demo, 64 MiB: random 4 KiB reads, 2 connections with 4 requests in flight/)
    match(stdout, /COUNT +IOPS +BYTES +MEAN +P50 +P90 +P99 +P99\.9 +MAX\nread +\d+ +\d+ /)
    ok(!stdout.includes('write'))
    ok(demo.seen.length > 10)
    ok(demo.seen.every(({ kind, length }) => kind === RequestKind.Read && length === 4096))
    ok(new Set(demo.seen.map(({ offset }) => offset)).size > demo.seen.length / 100)
  })
})

test('sequential reads go round the volume, also as JSON', async () => {
  await withVolume(async ({ torus, demo }) => {
    demo.record = true
    const shape = ['--pattern', 'sequential', '--block-size', '1MiB', '--depth', '1']
    const { code, stdout, stderr } = await torus([...second, ...shape, '--json'])
    deepEqual([code, stderr], [0, ''])
    const { volume, options, read, write, flush, ended, seconds } = JSON.parse(stdout)
    deepEqual([volume, write, flush, ended], ['demo', null, null, 'time'])
    deepEqual([options.blockBytes, options.pattern, options.readPercent], [MIB, 'sequential', 100])
    ok(seconds >= 1 && seconds < 5)
    ok(Math.abs(read.bytesPerSecond / read.iops / MIB - 1) < 0.001)
    const { p50, p90, p99, max } = read.latencyUs
    ok(p50 > 0 && p50 <= p90 && p90 <= p99 && p99 <= max && 'p99.9' in read.latencyUs)
    // The server may cut a request: its places follow each other, and wrap at the end.
    const starts = demo.seen.map(({ offset }) => offset).filter((offset) => offset % MIB === 0)
    for (let at = 1; at < starts.length; at++) {
      equal(starts[at], (starts[at - 1]! + MIB) % (64 * MIB))
    }
  })
})

test('writes mix with reads and flushes, and contents differ', async () => {
  await withVolume(
    async ({ torus, demo }) => {
      demo.record = true
      const load = ['--write', '--mix', '50', '--fsync-every', '8', '--json']
      const { code, stdout, stderr } = await torus([...second, ...load])
      deepEqual([code, stderr], [0, ''])
      const { read, write, flush, lastFlushUs } = JSON.parse(stdout)
      ok(Math.abs(read.count / write.count - 1) < 0.5)
      ok(Math.abs(write.count / flush.count - 8) < 1)
      ok(lastFlushUs > 0)
      equal(demo.seen.at(-1)?.kind, RequestKind.Flush)
      const [one, other] = demo.seen.filter(({ kind }) => kind === RequestKind.Write)
      const at = (offset: number) => demo.bytes.subarray(offset, offset + 4096)
      ok(one!.offset === other!.offset || !at(one!.offset).equals(at(other!.offset)))
    },
    { usedBytes: 0 }
  )
})

test('large writes go out as they are', async () => {
  await withVolume(
    async ({ torus, demo }) => {
      const load = ['--write', '--block-size', '2MiB', '--depth', '3', '--pattern', 'sequential']
      const { code, stdout, stderr } = await torus([...second, ...load])
      equal(code, 0, stderr)
      match(stdout, /flush after the last write: /)
      ok(demo.bytes.subarray(2 * MIB, 2 * MIB + 4096).some((byte) => byte !== 0))
    },
    { usedBytes: 0 }
  )
})

test('what is in the volume, or somebody who uses it, wants --yes before writes', async () => {
  for (const volume of [
    { usedBytes: 4 * MIB },
    { usedBytes: null },
    { usedBytes: 0, clients: 2 }
  ]) {
    await withVolume(async ({ torus, demo }) => {
      demo.record = true
      const refused = await torus([...second, '--write'])
      equal(refused.code, 2)
      match(refused.stderr, /Data anywhere in volume demo .*overwritten.*--yes/)
      if ('clients' in volume) match(refused.stderr, /2 clients are connected/)
      equal(demo.seen.length, 0)
      equal((await torus([...second, '--write', '--yes'])).code, 0)
      ok(demo.seen.length > 0)
    }, volume)
  }
})

test('wrong values end with 2 and name the limit', async () => {
  await withVolume(async ({ torus }) => {
    const wrong: [string[], RegExp][] = [
      [['--depth', '257'], /^torus: --depth: "257" is not a whole number from 1 to 256/],
      [['--connections', '0'], /--connections: "0" is not a whole number from 1 to 1024/],
      [['--seconds', '1.5'], /--seconds: "1.5" is not a whole number from 1 to 86400/],
      [['--depth', '256', '--connections', '33'], /8448 requests in flight.* 8192/],
      [['--block-size', '33MiB'], /--block-size 33MiB: must be a multiple of 512B, up to 32MiB/],
      [['--block-size', '1000'], /multiple of 512B/],
      [['--block-size', '0'], /multiple of 512B/],
      [['--mix', '101', '--write'], /--mix: "101" is not a whole number from 0 to 100/],
      [['--mix', '75'], /--mix 75 writes over the data of the volume: say --write as well/],
      [['--fsync-every', '4'], /--fsync-every counts writes/],
      [['--pattern', 'zigzag'], /random, sequential/]
    ]
    const results = await Promise.all(wrong.map(([args]) => torus(['bench', 'demo', ...args])))
    for (const [at, [args, pattern]] of wrong.entries()) {
      const { code, stderr } = results[at]!
      equal(code, 2, `${args.join(' ')}: ${stderr}`)
      match(stderr, pattern)
    }
  })
})

test('a request larger than the volume is refused by name', async () => {
  await withVolume(async ({ torus, fixture }) => {
    const demo = await fixture.backend.volume('demo')
    fixture.backend.volumesByName.set('demo', { ...demo, sizeBytes: MIB })
    const { code, stderr } = await torus(['bench', 'demo', '--block-size', '2MiB'])
    equal(code, 2)
    match(stderr, /--block-size 2MiB: the volume has only 1MiB/)
  })
})

test('an unknown volume, one not served, and a peer without NBD are told apart', async () => {
  await withVolume(async ({ torus, fixture }) => {
    const unknown = await torus(['bench', 'none'])
    deepEqual([unknown.code, unknown.stderr], [1, 'torus: no volume "none"\n'])
    const { backend } = fixture
    await backend.createVolume({ name: 'b', sizeBytes: MIB, type: 'block', description: '' })
    match((await torus(['bench', 'b'])).stderr, /volume "b" is not served over NBD/)
    backend.nbdAddresses = []
    match((await torus(['bench', 'demo'])).stderr, /the peer serves no NBD/)
    backend.nbdAddresses = ['nbd://127.0.0.1:1']
    match((await torus(['bench', 'demo'])).stderr, /NBD at 127\.0\.0\.1:1: .*ECONNREFUSED/)
  })
})

test('a read-only volume is not written', async () => {
  await withVolume(async ({ torus, demo }) => {
    demo.readOnly = true
    const { code, stderr } = await torus([...second, '--write', '--yes', '--json'])
    equal(code, 1)
    equal(JSON.parse(stderr).error.code, 'ReadOnly')
    equal((await torus(second)).code, 0)
  })
})

test('a failing request ends the run, which still tells what it measured', async () => {
  await withVolume(async ({ torus, demo }) => {
    let reads = 0
    demo.fail = ({ kind }) => {
      if (kind === RequestKind.Read) reads++
      return reads > 200 ? ErrorCode.ChecksumMismatch : ErrorCode.Ok
    }
    const { code, stdout, stderr } = await torus([...second, '--json'])
    equal(code, 1)
    equal(JSON.parse(stdout).ended, 'failed')
    match(JSON.parse(stderr).error.message, /a read at byte \d+ failed: EIO/)
  })
})

test('a server that goes away in the middle is named, with what was measured', async () => {
  await withVolume(async ({ torus, server }) => {
    const leave = setTimeout(() => {
      for (const { id } of server.listClients()) void server.disconnect(id)
    }, 1200)
    const { code, stdout, stderr } = await torus(['bench', 'demo', '--seconds', '10'])
    clearTimeout(leave)
    equal(code, 1)
    match(stderr, /the connection to volume "demo" broke in the middle of the run/)
    match(stdout, /read +\d+/)
  })
})

test('Ctrl-C ends a run early, and what was measured is told', async () => {
  await withVolume(async ({ fixture, server }) => {
    const child = spawn(process.execPath, [cliProgram, 'bench', 'demo', '--json'], {
      env: { ...process.env, TORUS_ADMIN: fixture.url },
      stdio: ['ignore', 'pipe', 'pipe']
    })
    const output = gather(child)
    await until(() => server.listClients().length > 0)
    setTimeout(() => child.kill('SIGINT'), 300)
    ok(await waitForEnd(child, 8_000))
    equal(child.exitCode, 0, output.all())
    const { ended, read, seconds } = JSON.parse(output.stdout())
    equal(ended, 'interrupted')
    ok(read.count > 0 && seconds < 5)
  })
})

testNeeding({ programs: ['script'] }, 'on a terminal one line tells how it goes', async () => {
  await withVolume(async ({ fixture }) => {
    const { code, output } = await runOnTerminal(fixture.url, [...second, '--depth', '2'])
    equal(code, 0, output)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal's line is cleared by one
    match(output, /\r\x1b\[K1 s left {2}read \d+\/s .* p99 /)
  })
})

test.run()
