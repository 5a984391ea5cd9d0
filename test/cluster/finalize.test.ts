import { deepStrictEqual, match, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Cluster, type ClusterEnvironment, type SelfIdentity } from '../../src/cluster/cluster.ts'
import { finalizeCluster, upgradeStateOf } from '../../src/cluster/finalize.ts'
import { Keys } from '../../src/cluster/keys.ts'
import { Membership } from '../../src/cluster/membership.ts'
import { decodeRecord, encodeRecord, type PeerRecord } from '../../src/cluster/records.ts'
import { Session } from '../../src/cluster/session.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { LEVEL_MAX } from '../../src/core/levels.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { MetadataStore } from '../../src/metadata/store.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'
import { delegateTo } from '../helpers/store-delegate.ts'

const keys = new Keys()
const BROUGHT = ['sealed-blocks', 'fresh-members', 'layers', 'branches', 'split-groups']
const OLD = { version: '0.0.1', min: 1, max: 1 }

const failsWith =
  (code: ErrorCode, text: RegExp) =>
  (thrown: unknown): boolean => {
    ok(thrown instanceof StoreError)
    strictEqual(thrown.code, code)
    match(thrown.message, text)
    return true
  }

const identity = (name: string, boot: number): SelfIdentity => ({
  clusterId: 'c'.repeat(32),
  peerId: name.repeat(32),
  bootId: `${boot}`.repeat(32),
  bootCounter: boot,
  capacityBytes: 1000
})

async function openSite() {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const start = (
    name: string,
    boot: number,
    { on = store, ...more }: { on?: MetadataStore } & Partial<ClusterEnvironment> = {}
  ) => Cluster.open(on, identity(name, boot), { clock, random, ...more })
  const setLevel = (level: number | undefined) =>
    store.transact({
      success: [
        {
          put: keys.settings,
          value: encodeRecord('settings', level === undefined ? { v: 1 } : { v: 1, level })
        }
      ]
    })
  /** As a program would that knows the first level only. */
  const startOld = async (name: string) => {
    const key = keys.peer(name.repeat(32))
    const { value } = (await store.get(key))!
    const { speaks: _, ...record } = decodeRecord('peer', key, value)
    const old: PeerRecord = { ...record, speaks: OLD }
    const success = [
      { put: key, value: encodeRecord('peer', old) },
      { put: keys.levels, value: Buffer.from(name) }
    ]
    await store.transact({ success })
  }
  const contents = async () => {
    const { entries } = await store.range('')
    return entries.map(({ key, value }) => `${key} ${value.toString()}`)
  }
  return { clock, store, start, startOld, setLevel, contents }
}

test('a new cluster is at the newest level, and a peer that is alone goes there', async () => {
  const { start, setLevel, store } = await openSite()
  const first = await start('a', 1)
  strictEqual(first.features.level, LEVEL_MAX)
  ok(first.features.has('sealed-blocks'))
  await setLevel(undefined)
  strictEqual((await start('a', 2)).features.level, 1)
  strictEqual((await start('a', 3, { alone: true })).features.level, LEVEL_MAX)
  strictEqual((await start('a', 4)).features.level, LEVEL_MAX)
  await store.close()
})

test('what a level brings is refused until the cluster is finalised, which all learn', async () => {
  const { start, startOld, setLevel, store, clock, contents } = await openSite()
  await start('a', 1)
  await setLevel(undefined)
  const first = await start('a', 2)
  await start('b', 1)
  await startOld('b')
  const needs = /v: encryption needs feature level 2 .* at level 1 .* run "torus cluster finalize"/
  await rejects(
    async () => first.features.require('sealed-blocks', 'volume v: encryption'),
    failsWith(ErrorCode.Busy, needs)
  )
  const before = await contents()
  const who = /level 4 is not known to 1 peers: peer bbbbbbbb \(torus 0\.0\.1, level 1\)/
  await rejects(finalizeCluster(first, false), failsWith(ErrorCode.Busy, who))
  deepStrictEqual(await contents(), before)

  const second = await start('b', 2)
  const session = await Session.open(store, clock)
  const alive = { peerAddress: null, adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
  const membership = await Membership.open(second, session, { alive })
  const told: number[] = []
  second.features.onRaise((level) => told.push(level))
  const dry = await finalizeCluster(first, true)
  deepStrictEqual([dry.level, dry.target, dry.features], [1, LEVEL_MAX, BROUGHT])
  ok(!first.features.has('sealed-blocks'))
  await finalizeCluster(first, false)
  ok(first.features.has('sealed-blocks'))
  await until(() => second.features.has('sealed-blocks'), 'the other one learns of it')
  deepStrictEqual(told, [LEVEL_MAX])
  const again = await finalizeCluster(second, false)
  deepStrictEqual([again.level, again.target], [LEVEL_MAX, LEVEL_MAX])
  membership.close()
  await store.close()
})

test('removed peers hold nobody up, those that wait to be let in do', () => {
  const peer = (id: string, more: Partial<PeerRecord>): PeerRecord => ({
    v: 1,
    peerId: id.repeat(32),
    bootCounter: 1,
    bootId: 'e'.repeat(32),
    capacityBytes: 1,
    labels: {},
    addedAt: '2026-01-31T12:00:00.000Z',
    ...more
  })
  const peers = [peer('a', { state: 'removed' }), peer('b', { state: 'pending', speaks: OLD })]
  const { behind } = upgradeStateOf(1, [...peers, peer('c', {})])
  deepStrictEqual(
    behind.map((text) => text.slice(0, 13)),
    ['peer bbbbbbbb', 'peer cccccccc']
  )
})

test('an old peer that registers while the cluster is finalised is seen', async () => {
  const { start, startOld, setLevel, store } = await openSite()
  await start('a', 1)
  await start('b', 1)
  await setLevel(1)
  let reads = 0
  const racing = delegateTo(store, {
    range: async (prefix, options) => {
      const page = await store.range(prefix, options)
      if (prefix === keys.peers && reads++ === 0) await startOld('b')
      return page
    }
  })
  const cluster = await start('a', 2, { on: racing })
  await rejects(finalizeCluster(cluster, false), failsWith(ErrorCode.Busy, /peer bbbbbbbb/))
  strictEqual(reads, 2)
  strictEqual((await start('a', 3)).features.level, 1)
  const noted = async () => (await store.get(keys.levels))?.modRevision
  const before = await noted()
  await start('b', 2)
  const after = await noted()
  ok(after !== before, 'other levels than at its last start are told')
  await start('b', 3)
  strictEqual(await noted(), after)
  await store.close()
})

test('who does not know the level is refused, also when it is raised just then', async () => {
  const { start, setLevel, store, contents } = await openSite()
  await start('a', 1)
  await setLevel(LEVEL_MAX + 1)
  const before = await contents()
  const both = new RegExp(`at feature level ${LEVEL_MAX + 1}, .* knows levels 1 to ${LEVEL_MAX};`)
  const refused = failsWith(ErrorCode.UnknownVersion, both)
  await rejects(start('a', 2), refused)
  await rejects(start('b', 1, { alone: true }), refused)
  deepStrictEqual(await contents(), before)

  await setLevel(LEVEL_MAX)
  let changes = 0
  const racing = delegateTo(store, {
    transact: async (transaction) => {
      if (++changes === 2) await setLevel(LEVEL_MAX + 1)
      return store.transact(transaction)
    }
  })
  await rejects(start('a', 2, { on: racing }), refused)
  deepStrictEqual(await contents(), before)
  await store.close()
})

test.run()
