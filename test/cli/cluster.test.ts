import { deepEqual, equal, match } from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { type AdminFixture, startFixture } from '../helpers/admin.ts'
import { type Cli, cliFor } from '../helpers/cli.ts'

const GIB = 1024 ** 3

interface Here {
  fixture: AdminFixture
  torus: Cli
}
const test = suite<Here>('cluster commands')
test.before.each(async (context) => {
  context.fixture = await startFixture()
  context.torus = cliFor(context.fixture.url)
})
test.after.each((context) => context.fixture.stop())

test('cluster status names what is wrong, pools with bars, peers', async ({ torus, fixture }) => {
  const { peerList } = fixture.backend.cluster
  const resync = { groupsDone: 1, groupsLeft: 3, bytesCopied: GIB, bytesPerSecond: GIB }
  peerList[0] = { ...peerList[0]!, groupsSyncing: 3, resync: { ...resync, secondsLeft: 7200.4 } }
  const { stdout, stderr } = await torus(['cluster', 'status'])
  match(stdout, /health +warning/, stderr)
  match(stdout, /! peer bbbbbbbb is down/)
  match(stdout, /fullest +peer aaaaaaaa, 10 % of 10 GiB/)
  match(stdout, /aaaaaaaa +1 +3 +1 GiB +1 GiB\/s, 2h left +█{5}░{15} 25 %/)
  match(stdout, /default +replicated:2 +256 +192 +█{15}░{5} 75 %/)
  match(stdout, /bbbbbbbb +down.*\d+d\d*h? ago/)
})

test('peers are listed, shown, labelled, drained and removed', async ({ torus, fixture }) => {
  match((await torus(['peer', 'list'])).stdout, /^PEER.*\naaaaaaaa +up +127.0.0.1:40001/)
  match((await torus(['peer', 'show', 'bb'])).stdout, /state +down/)
  match((await torus(['peer', 'show'])).stdout, /shards +2/)
  const set = await torus(['peer', 'set', 'aa', '--label', 'rack=r1', '--weight', '3'])
  match(set.stdout, /labels +host=a rack=r1/, set.stderr)
  equal(fixture.backend.cluster.peerList[0]?.weight, 3)
  await torus(['peer', 'set', 'aa', '--weight', 'capacity'])
  equal(fixture.backend.cluster.peerList[0]?.weight, null)
  match((await torus(['peer', 'drain', 'aa'])).stdout, /^peer aaaaaaaa gives its data away/)
  match((await torus(['peer', 'list'])).stdout, /up, drained/)
  match((await torus(['peer', 'undrain', 'aa'])).stdout, /takes data again/)
  const up = await torus(['peer', 'remove', 'aa', '--yes'])
  deepEqual([up.code, up.stdout], [1, ''])
  match(up.stderr, /is up: drain it first/)
  const forced = await torus(['peer', 'remove', 'aa', '--force', '--yes'])
  deepEqual([forced.code, forced.stdout], [0, 'removed peer aaaaaaaa\n'])
  match(forced.stderr, /is up: drain it first/)
  equal((await torus(['peer', 'remove', 'bb', '--yes'])).stdout, 'removed peer bbbbbbbb\n')
  equal(fixture.backend.cluster.peerList.length, 0)
})

test('a pending peer is let in, and a peer replaced', async ({ torus, fixture }) => {
  const { peerList } = fixture.backend.cluster
  peerList[1] = { ...peerList[1]!, state: 'pending' }
  match((await torus(['peer', 'list'])).stdout, /bbbbbbbb +down, pending/)
  const added = await torus(['peer', 'add', 'bb'])
  equal(added.stdout, 'peer bbbbbbbb is part of the cluster\n', added.stderr)
  const replaced = await torus(['peer', 'replace', 'aa', 'bb'])
  match(replaced.stdout, /^peer bbbbbbbb takes the place of peer aaaaaaaa/, replaced.stderr)
  match((await torus(['peer', 'list'])).stdout, /aaaaaaaa +up, replaced/)
  match((await torus(['peer', 'show', 'aa'])).stdout, /replaced +by bbbbbbbb/)
  equal((await torus(['peer', 'replace', 'aa', 'ff'])).code, 1)
})

test('settings of the cluster are shown and changed', async ({ torus }) => {
  equal((await torus(['cluster', 'settings'])).stdout, 'join-policy  open\ntrash        1d\n')
  const set = await torus(['cluster', 'settings', 'join-policy=approve'])
  equal(set.stdout, 'join-policy  approve\ntrash        1d\n', set.stderr)
  const value = await torus(['cluster', 'settings', 'join-policy=maybe'])
  deepEqual([value.code, /joinPolicy/.test(value.stderr)], [2, true], value.stderr)
  const key = await torus(['cluster', 'settings', 'colour=red'])
  deepEqual([key.code, /colour/.test(key.stderr)], [2, true], key.stderr)
  equal((await torus(['cluster', 'settings', 'join-policy'])).code, 2)
  equal((await torus(['cluster', 'settings'])).stdout, 'join-policy  approve\ntrash        1d\n')
})

test('rings are shown and set', async ({ torus, fixture }) => {
  const shown = await torus(['ring', 'show'])
  match(shown.stdout, /kind +ketama/, shown.stderr)
  match(shown.stdout, /bbbbbbbb +1 +50\.0 % +256 +192/)
  const set = await torus(['ring', 'set', '--type', 'single', '--peers', 'bb'])
  match(set.stdout, /kind +single/, set.stderr)
  deepEqual(fixture.backend.cluster.poolList[0]?.peers, ['b'.repeat(32)])
  await torus(['ring', 'set', '--peers', 'all'])
  equal(fixture.backend.cluster.poolList[0]?.peers, null)
  const kind = await torus(['ring', 'set', '--type', 'empty'])
  deepEqual([kind.code, /ketama, rendezvous, mod, single/.test(kind.stderr)], [2, true])
  equal((await torus(['ring', 'set'])).code, 2)
  equal((await torus(['ring', 'show', '--pool', 'q'])).code, 1)
})

test('init needs an etcd, and leaves no secret behind when it fails', async ({ torus }) => {
  const folder = mkdtempSync(join(tmpdir(), 'torus-init-'))
  try {
    const secret = join(folder, 'secret')
    const none = await torus(['cluster', 'init', '--cluster-secret-file', secret])
    deepEqual([none.code, /say which etcd: --etcd URL/.test(none.stderr)], [2, true], none.stderr)
    const flags = ['--etcd', 'http://127.0.0.1:1', '--cluster-secret-file', secret]
    const away = await torus(['cluster', 'init', ...flags])
    deepEqual([away.code, /127\.0\.0\.1:1/.test(away.stderr)], [1, true], away.stderr)
    equal(existsSync(secret), false)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('wrong usage of peer commands is named', async ({ torus }) => {
  const label = await torus(['peer', 'set', 'aa', '--label', 'rack'])
  deepEqual([label.code, /"rack" is not KEY=VALUE/.test(label.stderr)], [2, true])
  const nothing = await torus(['peer', 'set', 'aa'])
  deepEqual([nothing.code, nothing.stderr], [2, 'torus: nothing to set was given\n'])
  const state = await torus(['peer', 'maintenance', 'aa', 'maybe'])
  deepEqual([state.code, state.stderr], [2, 'torus: "maybe" is not on or off\n'])
  equal((await torus(['peer', 'show', 'f'])).code, 2)
})

test('pools are created, listed, shown and changed', async ({ torus }) => {
  const created = await torus(['pool', 'create', 'p', '--redundancy', 'replicated:3'])
  equal(created.stdout, 'created pool p, replicated:3\n', created.stderr)
  match((await torus(['pool', 'list'])).stdout, /\np +replicated:3 +host +ketama/)
  match((await torus(['pool', 'show', 'p'])).stdout, /redundancy +replicated:3/)
  const set = await torus(['pool', 'set', 'p', '--redundancy', 'replicated:2'])
  match(set.stdout, /redundancy +replicated:2/)
  equal((await torus(['pool', 'show', 'q'])).code, 1)
  const domain = await torus(['pool', 'set', 'p', '--failure-domain', 'room'])
  deepEqual([domain.code, /peer, host, rack, zone/.test(domain.stderr)], [2, true])
})

test.run()
