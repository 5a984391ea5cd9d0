import { ok, strictEqual } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { suite } from 'uvu'
import { Keys } from '../../src/cluster/keys.ts'
import { type AliveRecord, encodeRecord } from '../../src/cluster/records.ts'
import { requireNoPredecessor } from '../../src/coordinator/predecessor.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { SESSION_TTL_MS } from '../../src/core/limits.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { ownProcess } from '../../src/core/own-process.ts'

const test = suite('a process that ran as the peer')
const PEER = 'a'.repeat(32)
const keys = new Keys()

async function site(process: AliveRecord['process'] | null) {
  const clock = new ManualClock()
  const tables = new MemoryTables()
  const store = await EmbeddedStore.open(tables, { clock, random: new SeededRandom(1) })
  const { id: lease } = await store.grantLease(SESSION_TTL_MS)
  const alive = {
    ...{ v: 1 as const, bootId: '1'.repeat(32), startedAt: '2026-01-31T12:00:00.000Z' },
    ...{ peerAddress: '10.0.0.1:4320', adminAddresses: [], nbdAddresses: [], usedBytes: 0 },
    ...(process === null ? {} : { process })
  }
  const value = encodeRecord('alive', alive)
  await store.transact({ success: [{ put: keys.alive(PEER), value, lease }] })
  const state = { ended: null as StoreError | 'gone' | null, waits: 0 }
  const start = (bootId: string): Promise<void> =>
    requireNoPredecessor({
      ...{ store, keys, self: { peerId: PEER, bootId }, own: ownProcess(), clock },
      pause: (ms) => new Promise((resolve) => clock.start(ms, resolve)),
      onWaiting: () => state.waits++
    }).then(
      () => {
        state.ended = 'gone'
      },
      (thrown: StoreError) => {
        state.ended = thrown
      }
    )
  return { clock, store, lease, state, start }
}

const other = { machine: 'another', pid: 1 }

test('one that runs on is named, and nothing was changed', async () => {
  for (const process of [other, ownProcess()!]) {
    const { clock, store, lease, state, start } = await site(process)
    const { revision } = await store.range('')
    void start('2'.repeat(32))
    for (let second = 0; second < 20 && state.ended === null; second++) {
      await store.keepAlive(lease)
      await clock.advance(1000)
    }
    ok(state.ended instanceof StoreError)
    strictEqual(state.ended.code, ErrorCode.Busy)
    ok(/runs already at 10.0.0.1:4320, since 2026.*copy.*Nothing/.test(state.ended.message))
    strictEqual(state.waits, 1)
    strictEqual((await store.range('')).revision, revision)
  }
})

test('one that died elsewhere is waited for as long as its lease, here not at all', async () => {
  const away = await site(null)
  void away.start('2'.repeat(32))
  await away.clock.advance(SESSION_TTL_MS - 1000)
  strictEqual(away.state.ended, null)
  await away.clock.advance(2000)
  strictEqual(away.state.ended, 'gone')

  const { pid } = spawnSync(process.execPath, ['--version'])
  const here = await site({ ...ownProcess()!, pid })
  await here.start('2'.repeat(32))
  strictEqual(here.state.ended, 'gone')
  strictEqual(here.state.waits, 0)
})

test('one that is this process, or ended, is no other', async () => {
  const { store, lease, state, start } = await site(other)
  await start('1'.repeat(32))
  strictEqual(state.ended, 'gone')
  await store.revokeLease(lease)
  state.ended = null
  await start('2'.repeat(32))
  strictEqual(state.ended, 'gone')
})

test.run()
