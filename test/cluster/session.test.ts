/** The lease of a process on a clock that the test moves. */
import { ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Session, type SessionOptions } from '../../src/cluster/session.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { MetadataStore } from '../../src/metadata/store.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { delegateTo } from '../helpers/store-delegate.ts'

const TTL_MS = 10_000
const TRUSTED_MS = 9000
const never = new Promise<never>(() => {})

interface Site {
  readonly clock: ManualClock
  readonly store: MetadataStore
  /** Put in place of the store's keepalive. */
  keepAlive: ((lease: string) => Promise<void>) | null
  readonly troubles: StoreError[]
  recovered: number
}

async function openSite(): Promise<Site & { open(options?: SessionOptions): Promise<Session> }> {
  const clock = new ManualClock()
  const options = { clock, random: new SeededRandom(1), timers: false }
  const embedded = await EmbeddedStore.open(new MemoryTables(), options)
  const site: Site = {
    clock,
    store: delegateTo(embedded, {
      keepAlive: (lease) => (site.keepAlive ?? ((id) => embedded.keepAlive(id)))(lease)
    }),
    keepAlive: null,
    troubles: [],
    recovered: 0
  }
  return Object.assign(site, {
    open: (given: SessionOptions = {}) =>
      Session.open(site.store, clock, {
        ttlMs: TTL_MS,
        timers: clock,
        onTrouble: (error) => site.troubles.push(error),
        onRecovered: () => site.recovered++,
        ...given
      })
  })
}

test('a lease is trusted for its time less a margin, and kept alive in time', async () => {
  const { clock, open } = await openSite()
  const session = await open()
  strictEqual(session.trustedForMs, TRUSTED_MS)
  await clock.advance(1000)
  strictEqual(session.trustedForMs, TRUSTED_MS - 1000)
  await clock.advance(100_000)
  ok(session.trustedForMs > TRUSTED_MS - TTL_MS / 3 - 1)
  await session.close()
  strictEqual(session.trustedForMs, 0)
})

test('an answer that comes late counts from when it was asked for', async () => {
  const site = await openSite()
  const { clock } = site
  const session = await site.open()
  let answer = () => {}
  site.keepAlive = () => new Promise((resolve) => (answer = resolve))
  await clock.advance(TTL_MS / 3 + 1)
  await clock.advance(2000)
  answer()
  await clock.advance(0)
  ok(session.trustedForMs <= TRUSTED_MS - 2000, `${session.trustedForMs}`)
  ok(session.trustedForMs > TRUSTED_MS - 2100)
  await session.close()
})

test('a store that hangs takes the trust away, and hangs nobody', async () => {
  const site = await openSite()
  const { clock, troubles } = site
  const session = await site.open()
  site.keepAlive = () => never
  await clock.advance(TRUSTED_MS)
  strictEqual(session.trustedForMs, 0)
  await clock.advance(1000)
  strictEqual(troubles[0]?.code, ErrorCode.Unavailable)
  await clock.advance(60_000)
  ok(troubles.length > 5, 'it goes on trying')
  const renewal = session.renew()
  await clock.advance(TTL_MS)
  await rejects(renewal, (thrown) => thrown instanceof StoreError)
  site.keepAlive = null
  await clock.advance(TTL_MS)
  ok(session.trustedForMs > 0, 'a lease is taken anew')
  strictEqual(site.recovered, 1)
  await session.close()
})

test('a session closes in time although the store hangs', async () => {
  const site = await openSite()
  const stuck = delegateTo(site.store, { revokeLease: () => never })
  const session = await Session.open(stuck, site.clock, { ttlMs: TTL_MS, timers: site.clock })
  const closing = session.close()
  await site.clock.advance(2001)
  await closing
})

test('a wall clock that jumps fences until a later keepalive is answered', async () => {
  for (const jumpMs of [3_600_000, -3_600_000, 600]) {
    const { clock, open } = await openSite()
    const session = await open()
    await clock.advance(100)
    clock.wallShiftMs += jumpMs
    strictEqual(session.trustedForMs, 0)
    await session.renew()
    strictEqual(session.trustedForMs, TRUSTED_MS)
    clock.wallShiftMs += 100
    ok(session.trustedForMs > 0, 'a clock that is corrected a little is fine')
    await session.close()
  }
})

test('an answer from before a jump counts for nothing', async () => {
  const site = await openSite()
  const { clock } = site
  const session = await site.open()
  let answer = () => {}
  site.keepAlive = () => new Promise((resolve) => (answer = resolve))
  const renewal = session.renew()
  await clock.advance(10)
  clock.wallShiftMs += 60_000
  answer()
  await rejects(renewal, /clock of this machine jumped/)
  strictEqual(session.trustedForMs, 0)
  site.keepAlive = null
  await session.renew()
  strictEqual(session.trustedForMs, TRUSTED_MS)
  await session.close()
})

test('a lease that is lost is replaced, and who put keys with it is told', async () => {
  const site = await openSite()
  const { clock, store } = site
  const session = await site.open()
  const value = Buffer.from('1')
  await store.transact({ success: [{ put: 'a', value, lease: session.lease }] })
  const old = session.lease
  let told = 0
  session.onReplaced(() => told++)
  site.keepAlive = async () => {
    throw new StoreError(ErrorCode.Unavailable, 'no answer')
  }
  await clock.advance(TTL_MS + 1000)
  strictEqual(session.trustedForMs, 0)
  strictEqual(await store.get('a'), null)
  strictEqual(told, 0)
  site.keepAlive = null
  await clock.advance(1000)
  strictEqual(told, 1)
  ok(session.lease !== old)
  ok(session.trustedForMs > 0)
  await session.close()
})

test.run()
