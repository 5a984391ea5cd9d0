import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { type AdminFixture, startFixture } from '../helpers/admin.ts'
import { type Cli, cliFor, runOnTerminal } from '../helpers/cli.ts'
import { fakeClient, fakeShard } from '../helpers/fake-backend.ts'

const GIB = 1024 ** 3

interface Here {
  fixture: AdminFixture
  torus: Cli
}
const test = suite<Here>('commands')
test.before.each(async (context) => {
  context.fixture = await startFixture()
  context.torus = cliFor(context.fixture.url)
})
test.after.each((context) => context.fixture.stop())

const addVolume = ({ fixture }: Here, name: string, clients = 0) =>
  fixture.backend
    .createVolume({ name, sizeBytes: GIB, type: 'block', description: 'a disk' })
    .then((volume) => fixture.backend.volumesByName.set(name, { ...volume, clients }))

test('a volume lives its life by commands, over TCP', async ({ torus, fixture }) => {
  const created = await torus(['volume', 'create', 'demo', '1GiB', '--description', 'a disk'])
  equal(created.stdout, 'created demo, 1 GiB\n', created.stderr)
  equal(created.code, 0)
  match((await torus(['volume', 'list'])).stdout, /^NAME +SIZE.*\ndemo +1 GiB .*a disk\n$/)
  equal((await torus(['volume', 'rename', 'demo', 'disk'])).stdout, 'renamed demo to disk\n')
  const resized = await torus(['volume', 'resize', 'disk', '2G'])
  equal(resized.stdout, 'resized disk from 1 GiB to 2 GiB\n')
  match((await torus(['volume', 'show', 'disk'])).stdout, /size +2 GiB \(2147483648 bytes\)/)
  equal((await torus(['volume', 'delete', 'disk', '--now', '--yes'])).stdout, 'deleted disk\n')
  equal(fixture.backend.volumesByName.size, 0)
  match((await torus(['volume', 'trash', 'list'])).stdout, /^the trash is empty\n$/)
})

test('what a volume does while members are away is set, and shown', async (here) => {
  const { torus, fixture } = here
  await addVolume(here, 'demo')
  match((await torus(['volume', 'show', 'demo'])).stdout, /unavailable +wait\n/)
  const set = await torus(['volume', 'set', 'demo', '--unavailable', 'error:60s'])
  match(set.stdout, /unavailable +error:1m\n/, set.stderr)
  equal(fixture.backend.volumesByName.get('demo')?.unavailableMs, 60_000)
  await torus(['volume', 'set', 'demo', '--unavailable', 'wait'])
  equal(fixture.backend.volumesByName.get('demo')?.unavailableMs, null)
  const short = await torus(['volume', 'set', 'demo', '--unavailable', 'error:5ms'])
  match(short.stderr, /must be a second at least/)
})

test('a deleted volume is listed in the trash, restored, or deleted for good', async (here) => {
  const { torus, fixture } = here
  for (const name of ['a', 'b', 'c']) await addVolume(here, name)
  const removed = ['a', 'b', 'c'].map((name) => torus(['volume', 'delete', name, '--yes']))
  const kept = /^deleted a; until 2026-02-01 12:00 "\S+ volume trash restore a" brings it back\n$/
  match((await Promise.all(removed))[0]!.stdout, kept)
  const [list, restored, wrong, unsaid] = await Promise.all([
    torus(['volume', 'trash', 'list']),
    torus(['volume', 'trash', 'restore', 'a', '--as', 'x']),
    torus(['volume', 'trash', 'empty', '--yes']),
    torus(['volume', 'trash', 'empty', 'b'])
  ])
  match(list.stdout, /^NAME .*\n. +1 GiB .*2026-02-01 12:00/)
  equal(restored.stdout, 'restored x\n')
  deepEqual([wrong.code, unsaid.code], [2, 2])
  equal((await torus(['volume', 'trash', 'empty', 'b', '-y'])).stdout, 'deleted 1 volume\n')
  equal((await torus(['volume', 'trash', 'empty', '--all', '-y'])).stdout, 'deleted 1 volume\n')
  equal(fixture.backend.life.volumes.length, 0)
})

test('a diff is asked for in pieces and told with its sums', async ({ torus }) => {
  const [table, json, wrong, other] = await Promise.all([
    torus(['volume', 'diff', 'demo@a', 'demo@b']),
    torus(['volume', 'diff', 'demo@a', '--json']),
    torus(['volume', 'diff', 'demo']),
    torus(['volume', 'diff', 'demo@a', 'more@b'])
  ])
  match(table.stdout, /^ *4096 +4096 +data$/m)
  match(table.stdout, /^ *65536 +8192 +zeroes$/m)
  match(table.stdout, /4 KiB of data, 8 KiB of zeroes/)
  const { dataBytes, zeroBytes, extents, to } = JSON.parse(json.stdout)
  deepEqual([dataBytes, zeroBytes, extents.length, to], [4096, 8192, 2, 'demo'])
  match(wrong.stderr, /"demo" is not VOLUME@SNAPSHOT/)
  match(other.stderr, /different volumes/)
})

test('a size that is no whole number of blocks is named as it was given', async ({ torus }) => {
  const raw = ['--format', 'raw', '--size', '5000']
  const { code, stderr } = await torus(['volume', 'import', '/dev/null', 'v', ...raw])
  match(stderr, /--size 5000 must be a positive multiple of 4096 bytes/)
  equal(code, 2)
})

test('volumes begin on snapshots by commands', async (here) => {
  const { torus, fixture } = here
  const { branches } = fixture.backend
  await addVolume(here, 'demo')
  await addVolume(here, 'new')
  equal(
    (await torus(['snapshot', 'restore', 'demo@a', '-y'])).stdout,
    'demo is what demo@a shows\n'
  )
  await torus(['snapshot', 'restore', 'demo@a', '-y', '--force'])
  equal((await torus(['volume', 'clone', 'demo@a', 'new'])).stdout, 'cloned demo@a as new\n')
  match((await torus(['volume', 'clone', 'demo', 'new'])).stderr, /"demo" is not VOLUME@SNAPSHOT/)
  match((await torus(['volume', 'children', 'demo@a'])).stdout, /\nchild +demo@a /)
  branches.flattening = {
    base: { volume: 'demo', snapshot: 'a' },
    flatten: { startedAt: 'now', doneBytes: 1024, totalBytes: 4096, running: true }
  }
  const started = await torus(['volume', 'flatten', 'new', '--no-wait'])
  equal(started.stdout, 'new: 1 KiB of 4 KiB of demo@a copied, since now\n')
  branches.away = 2
  const waited = await torus(['volume', 'flatten', 'new'])
  equal(waited.stdout, 'new stands on no other volume\n', waited.stderr)
  equal(branches.away, 0, 'it asked until somebody knew')
  const flattens = ['flatten new', 'flatten new']
  const asked = ['restore demo@a', 'restore demo@a by force', 'clone demo@a new', ...flattens]
  deepEqual(branches.asked, asked)
})

test('snapshots are taken, listed, shown, renamed, protected and deleted', async (here) => {
  const { torus, fixture } = here
  const { all } = fixture.backend.snapshots
  await addVolume(here, 'demo')
  const made = await torus(['snapshot', 'create', 'demo@a', '--description', 'first'])
  equal(made.stdout, 'took demo@a; NBD clients open it by that name\n', made.stderr)
  await torus(['snapshot', 'protect', 'demo@a'])
  equal(all[0]?.protected, true)
  const [list, shown, wrong, unsaid] = await Promise.all([
    torus(['snapshot', 'list']),
    torus(['snapshot', 'show', 'demo@a']),
    torus(['snapshot', 'show', 'demo']),
    torus(['snapshot', 'delete', 'demo@a'])
  ])
  match(list.stdout, /\ndemo@a +4 KiB +2026-01-31 12:00 +\(protected\) first\n/)
  match(shown.stdout, /protected +yes/)
  match(wrong.stderr, /"demo" is not VOLUME@SNAPSHOT/)
  deepEqual([wrong.code, unsaid.code], [2, 2])
  const full = await torus(['snapshot', 'rename', 'demo@a', 'demo@b'])
  match(full.stderr, /"demo@b": give the new name without the volume, "b"\n/)
  equal(full.code, 2)
  equal((await torus(['snapshot', 'rename', 'demo@a', 'b'])).stdout, 'renamed demo@a to demo@b\n')
  equal((await torus(['snapshot', 'delete', 'demo@b', '-y'])).stdout, 'deleted demo@b\n')
  equal(all.length, 0)
})

test('what is set about a volume, and what happened to it', async (here) => {
  const { torus, fixture } = here
  await addVolume(here, 'demo', 1)
  const flags = ['--read-only', 'on', '--description', 'x', '--label', 'a=b=c', '--label', 'old=']
  flags.push('--iops', 'off', '--bandwidth', '1MiB')
  match((await torus(['volume', 'set', 'demo', ...flags])).stdout, /read-only +yes\n/)
  deepEqual(fixture.backend.calls, [
    'change demo {"a":"b=c","old":null} {"iops":null,"bandwidth":1048576}'
  ])
  const { stdout } = await torus(['volume', 'events', 'demo'])
  match(stdout, /resized +aaaaaaaa +from=4KiB to=8KiB force=true \(2 times, last 2026-01-31/)
  fixture.backend.clients.push(fakeClient(7, 'demo'))
  const grown = await torus(['volume', 'resize', 'demo', '2GiB'])
  match(grown.stdout, /client 7 \(127.0.0.1:50000\) sees the old size until it connects again/)
  await torus(['volume', 'resize', 'demo', '1MiB', '--shrink', '--force'])
  equal(fixture.backend.calls.at(-1), 'resize demo by force')
})

test('the same over the unix socket, as JSON', async ({ fixture }) => {
  const torus = cliFor('')
  const admin = ['--json', '--admin', `unix:${fixture.socket}`]
  const created = await torus([...admin, 'volume', 'create', 'demo', '4096'])
  equal(JSON.parse(created.stdout).sizeBytes, 4096, created.stderr)
  const list = await torus(['volume', 'list', ...admin])
  deepEqual(
    JSON.parse(list.stdout).map(({ name }: { name: string }) => name),
    ['demo']
  )
  const deleted = await torus(['volume', 'delete', 'demo', '-y', ...admin])
  equal(JSON.parse(deleted.stdout).deleted, 'demo')
})

test('a failure ends with 1 and says what failed; as JSON when asked', async ({ torus }) => {
  const plain = await torus(['volume', 'show', 'none'])
  deepEqual([plain.code, plain.stdout], [1, ''])
  equal(plain.stderr, 'torus: no volume "none"\n')
  const json = await torus(['volume', 'show', 'none', '--json'])
  deepEqual([json.code, json.stdout], [1, ''])
  deepEqual(JSON.parse(json.stderr).error, { code: 'NotFound', message: 'no volume "none"' })
})

test('wrong usage ends with 2', async ({ torus }) => {
  const wrong: [string[], RegExp][] = [
    [[], /Usage: torus/],
    [['volumes'], /unknown command.*Did you mean volume/s],
    [['volume', 'create', 'demo'], /missing required argument 'size'/],
    [['volume', 'create', 'demo', '1XB'], /^torus: size: "1XB" is not a size/],
    [['volume', 'create', 'demo', '1000'], /^torus: sizeBytes 1000: must be a multiple of 4096/],
    [['volume', 'set', 'demo'], /nothing to set was given/],
    [['volume', 'set', 'demo', '--iops', '0'], /"0" is not a whole number from 1/],
    [['volume', 'set', 'demo', '--bandwidth', '0'], /0 would stop it: say "off"/],
    [['volume', 'set', 'demo', '--label', 'x'], /"x" is not KEY=VALUE/],
    [['volume', 'set', 'demo', '--read-only', 'yes'], /"yes" is neither "on" nor "off"/],
    [
      ['volume', 'set', 'demo', '--unavailable', 'no'],
      /"no" is neither "wait" nor like "error:60s/
    ],
    [['volume', 'set', 'demo', '--unavailable', 'error:9'], /"9" is not a duration/],
    [['top', '--interval', '5'], /^torus: --interval: "5" is not a duration/],
    [['reshard', '--data-dir', 'd', '--shards', '65'], /--shards 65: must be 1 to 64/],
    [['volume', 'list', '--colour'], /unknown option/],
    [['client', 'disconnect', 'x'], /^torus: id: "x" is not a whole number/],
    [['completion', 'tcsh'], /bash, zsh, fish/],
    [['status', '--admin', 'ftp://x'], /--admin "ftp:\/\/x" must be/],
    [['serve'], /data-dir is not set/],
    [['serve', '--data-dir', 'd', '--shards', '0'], /shards "0".*from 1 to 64/],
    [['config', 'show', '--config', '/nowhere.yaml'], /nowhere\.yaml cannot be read/]
  ]
  const results = await Promise.all(wrong.map(([args]) => torus(args)))
  for (const [at, [args, pattern]] of wrong.entries()) {
    const result = results[at]!
    equal(result.code, 2, `${args.join(' ')}: ${result.stderr}`)
    match(result.stderr, pattern)
  }
  const json = await torus(['volume', 'create', 'demo', '1XB', '--json'])
  equal(JSON.parse(json.stderr).error.code, 'InvalidArgument')
})

test('without a peer the message says what to start', async () => {
  const result = await cliFor('')(['status'])
  equal(result.code, 1)
  match(result.stderr, /no peer answers at http:\/\/127\.0\.0\.1:1 \(ECONNREFUSED\)/)
  match(result.stderr, /torus serve --data-dir DIR/)
})

test('a destructive command without a terminal wants --yes, and changes nothing', async (here) => {
  const { torus, fixture } = here
  await addVolume(here, 'demo')
  fixture.backend.clients.push(fakeClient(7, 'demo'))
  for (const args of [
    ['volume', 'delete', 'demo'],
    ['volume', 'resize', 'demo', '4096'],
    ['client', 'disconnect', '7']
  ]) {
    const result = await torus(args)
    equal(result.code, 2, args.join(' '))
    match(result.stderr, /no terminal.*--yes/)
  }
  equal(fixture.backend.volumesByName.get('demo')?.sizeBytes, GIB)
  equal(fixture.backend.clients.length, 1)
  equal((await torus(['volume', 'resize', 'demo', '4096', '--shrink'])).code, 0)
  equal((await torus(['client', 'disconnect', '7', '--yes'])).stdout, 'disconnected 7\n')
})

test('on a terminal a question is asked, and only y goes on', async (here) => {
  const { fixture } = here
  await addVolume(here, 'demo')
  const args = ['volume', 'delete', 'demo']
  for (const input of ['n\n', '\n']) {
    const kept = await runOnTerminal(fixture.url, args, { input })
    match(kept.output, /Volume demo \(1 GiB\) goes into the trash\. \[y\/N\]/)
    equal(kept.code, 1)
    equal(fixture.backend.volumesByName.size, 1)
  }
  const gone = await runOnTerminal(fixture.url, args, { input: 'y\n' })
  equal(gone.code, 0, gone.output)
  match(gone.output, /deleted demo/)
})

test('a volume in use is deleted only by force', async (here) => {
  const { torus, fixture } = here
  await addVolume(here, 'demo', 2)
  const refused = await torus(['volume', 'delete', 'demo', '--yes'])
  equal(refused.code, 1)
  match(refused.stderr, /has 2 clients.*--force/)
  equal((await torus(['volume', 'delete', 'demo', '--yes', '--force'])).code, 0)
  equal(fixture.backend.volumesByName.size, 0)
})

test('colours are for terminals, and NO_COLOR turns them off', async ({ fixture, torus }) => {
  const colour = '\x1b['
  ok(!(await torus(['status'])).stdout.includes(colour))
  ok((await runOnTerminal(fixture.url, ['status'])).output.includes(colour))
  const plain = await runOnTerminal(fixture.url, ['status'], { env: { NO_COLOR: '1' } })
  ok(!plain.output.includes(colour))
})

test('clients are listed, also of one volume', async ({ fixture, torus }) => {
  fixture.backend.clients.push(fakeClient(1, 'demo'), { ...fakeClient(2, 'other'), tls: true })
  const all = await torus(['client', 'list'])
  match(all.stdout, /1 +demo +127\.0\.0\.1:50000 +nbd .*\n +2 +other .*nbd\+tls/)
  const one = JSON.parse((await torus(['client', 'list', 'other', '--json'])).stdout)
  deepEqual(
    one.map(({ id }: { id: number }) => id),
    [2]
  )
})

test('status names health, space and every shard', async ({ fixture, torus }) => {
  const failed = { ...fakeShard(1), state: 'failed' as const, reason: 'fsync failed: EIO' }
  fixture.backend.shardList = [fakeShard(0, { usedBytes: GIB }), failed]
  const { stdout, code } = await torus(['status'])
  equal(code, 0)
  match(stdout, /health +error/)
  match(stdout, /! shard 1 failed: fsync failed: EIO/)
  match(stdout, /capacity +20 GiB, 5 GiB used \(25 %\)/)
  match(stdout, /0 +serving +1 GiB/)
  const peer = await torus(['peer', 'show', '--json'])
  equal(JSON.parse(peer.stdout).shards, 2)
})

test('scrub waits until it is done, and damage it found is a failure', async (here) => {
  const { fixture, torus } = here
  const { backend } = fixture
  let damaged = 0
  backend.onStart = () => {
    backend.shardList = [fakeShard(0, { scrubActive: 1, scrubBytesTotal: 8, scrubBytesDone: 2 })]
    setTimeout(() => {
      backend.shardList = [fakeShard(0, { scrubRounds: 1, scrubErrors: damaged })]
    }, 300)
  }
  const clean = await torus(['scrub'])
  deepEqual([clean.code, clean.stdout], [0, 'scrub done, 0 damaged blocks\n'])
  backend.shardList = [fakeShard(0)]
  damaged = 3
  const bad = await torus(['scrub'])
  equal(bad.code, 1)
  match(bad.stderr, /found 3 damaged blocks/)
})

test('tasks start without waiting, tell how far they are, and stop', async ({ fixture, torus }) => {
  const stats = { compactionActive: 1, compactionBytesTotal: 4 * GIB, compactionBytesDone: GIB }
  fixture.backend.shardList = [fakeShard(0, stats)]
  match((await torus(['compact', '--no-wait'])).stdout, /compact started/)
  equal((await torus(['compact', '--status'])).stdout, 'compact runs, 1 GiB of 4 GiB\n')
  equal((await torus(['compact', '--stop'])).stdout, 'compact stopped\n')
  deepEqual(fixture.backend.calls, ['start compact', 'stop compact'])
})

test('a task that takes longer shows a bar on a terminal', async ({ fixture }) => {
  const { backend } = fixture
  const at = (done: number) =>
    fakeShard(0, { scrubActive: 1, scrubBytesTotal: 8 * GIB, scrubBytesDone: done * GIB })
  backend.onStart = () => {
    backend.shardList = [at(1)]
    setTimeout(() => {
      backend.shardList = [at(4)]
    }, 800)
    setTimeout(() => {
      backend.shardList = [fakeShard(0, { scrubRounds: 1 })]
    }, 2000)
  }
  const { output, code } = await runOnTerminal(fixture.url, ['scrub'])
  equal(code, 0, output)
  match(output, /50%.*4 GiB of 8 GiB/)
})

test('top shows rates, as often as asked', async ({ fixture, torus }) => {
  fixture.backend.addTraffic('demo', 0)
  const timer = setInterval(() => fixture.backend.addTraffic('demo', 1000), 200)
  const text = await torus(['top', '--interval', '400ms', '--count', '1'])
  match(text.stdout, /VOLUME +READS\/S.*\ndemo /s)
  const json = await torus(['top', '--interval', '100ms', '--count', '2', '--json'])
  clearInterval(timer)
  const lines = json.stdout.trim().split('\n')
  equal(lines.length, 2)
  equal(JSON.parse(lines[0]!).volumes[0].volume, 'demo')
})

test('config show tells of the peer, or of one that would be started here', async (here) => {
  const { fixture, torus } = here
  const remote = await torus(['config', 'show'])
  ok(remote.stdout.includes(fixture.folder), remote.stdout)
  match(remote.stdout, /data-dir +\S+ +flag --data-dir/)
  const local = await torus(['config', 'show', '--json', '--data-dir', '/d', '--capacity', '1TiB'])
  const entries: { name: string; value: unknown; source: string }[] = JSON.parse(local.stdout)
  const capacity = entries.find(({ name }) => name === 'capacity')
  deepEqual([capacity?.value, capacity?.source], ['1TiB', 'flag --capacity'])
  const env = { TORUS_DATA_DIR: '/e', TORUS_LOG_LEVEL: 'debug' }
  const fromEnvironment = await torus(['config', 'show', '--local'], env)
  match(fromEnvironment.stdout, /log-level +debug +environment TORUS_LOG_LEVEL/)
})

test('a debug bundle is written once, and readable by its owner alone', async (here) => {
  const file = join(here.fixture.folder, 'report.tar.gz')
  const written = await here.torus(['debug', 'bundle', '-o', file])
  equal(written.code, 0, written.stderr)
  equal(statSync(file).mode & 0o777, 0o600)
  equal(readFileSync(file).readUInt16BE(0), 0x1f8b)
  const again = await here.torus(['debug', 'bundle', '-o', file])
  equal(again.code, 1)
  match(again.stderr, /it exists/)
  ok(existsSync(file))
})

test('errors of the peer arrive as they are', async ({ fixture, torus }) => {
  fixture.backend.failure = new StoreError(ErrorCode.Closed, 'the peer is shutting down')
  const result = await torus(['volume', 'list', '--json'])
  equal(result.code, 1)
  deepEqual(JSON.parse(result.stderr).error, {
    code: 'Closed',
    message: 'the peer is shutting down'
  })
})

test.run()
