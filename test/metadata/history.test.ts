import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore, type EmbeddedStoreOptions } from '../../src/metadata/embedded-store.ts'
import { LmdbTables } from '../../src/metadata/lmdb-tables.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { WatchChange } from '../../src/metadata/store.ts'
import type { Tables } from '../../src/metadata/tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'

const open = (tables: Tables, options: Partial<EmbeddedStoreOptions> = {}) =>
  EmbeddedStore.open(tables, {
    clock: new ManualClock(),
    random: new SeededRandom(1),
    ...options
  })
const put = (key: string, value: string, lease = '') => ({
  put: key,
  value: Buffer.from(value),
  lease
})
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

async function onDisk(body: (reopen: () => Promise<Tables>) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-history-'))
  try {
    await body(() => LmdbTables.open(join(directory, 'metadata'), { create: true }))
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

test('everything is there again when a store is opened again', async () => {
  await onDisk(async (reopen) => {
    const first = await open(await reopen())
    const { id } = await first.grantLease(5000)
    await first.transact({ success: [put('a', '1'), put('b', '1', id)] })
    const { revision } = await first.transact({ success: [put('a', '2')] })
    await first.close()

    const clock = new ManualClock()
    const second = await open(await reopen(), { clock })
    strictEqual((await second.get('a'))?.version, 2)
    strictEqual((await second.range('')).revision, revision)
    const heard: WatchChange[] = []
    second.watch('', (change) => heard.push(change), { fromRevision: revision - 1 })
    await turn()
    deepStrictEqual(
      heard.map((change) => (change.kind === 'events' ? change.revision : 0)),
      [revision - 1, revision]
    )
    // A lease has its full time again.
    clock.nowMs += 4900
    ok((await second.get('b')) !== null)
    await second.keepAlive(id)
    clock.nowMs += 5100
    strictEqual(await second.get('b'), null)
    await second.close()
  })
})

test('the history is bounded by revisions', async () => {
  const store = await open(new MemoryTables(), { historyRevisionsMax: 10 })
  for (let step = 0; step < 50; step++) {
    await store.transact({ success: [put('a', `${step}`), put('b', `${step}`)] })
  }
  const { revision } = await store.range('')
  const outcomes: string[] = []
  for (let from = 1; from <= revision; from++) {
    const watch = store.watch('a', (change) => outcomes.push(`${from} ${change.kind}`), {
      fromRevision: from
    })
    await turn()
    watch.cancel()
  }
  const compacted = outcomes.filter((outcome) => outcome.endsWith('compacted'))
  strictEqual(compacted.length, revision - 10)
  ok(outcomes.includes(`${revision} events`) && outcomes.includes(`${revision - 9} events`))
  strictEqual((await store.get('a'))?.version, 50)
  await store.close()
})

test('the history is bounded by bytes', async () => {
  const tables = new MemoryTables()
  const store = await open(tables, { historyBytesMax: 100_000 })
  for (let step = 0; step < 100; step++) {
    await store.transact({ success: [put('a', 'x'.repeat(5000))] })
  }
  const history = tables.read((read) => read.range('h', 'i', 10_000))
  const bytes = history.reduce((sum, [key, value]) => sum + key.length + value.length, 0)
  ok(bytes <= 100_000 && bytes > 50_000, `${bytes} bytes`)
  const { revision } = await store.range('')
  const heard: WatchChange[] = []
  store.watch('a', (change) => heard.push(change), { fromRevision: revision - 10 })
  store.watch('a', (change) => heard.push(change), { fromRevision: revision - 40 })
  await turn()
  strictEqual(heard.length, 12)
  strictEqual(heard.at(-1)?.kind, 'compacted')
  await store.close()
})

test('a long history is compacted in slices, and nothing present is lost', async () => {
  const store = await open(new MemoryTables())
  for (let step = 0; step < 900; step++) {
    await store.transact({ success: [put(`k${step % 7}`, `${step}`), put('x', `${step}`)] })
  }
  const { revision, entries } = await store.range('')
  await store.compact(revision - 1)
  deepStrictEqual((await store.range('')).entries, entries)
  await rejects(store.compact(revision + 1), StoreError)
  await store.compact(3)
  const heard: WatchChange[] = []
  store.watch('', (change) => heard.push(change), { fromRevision: revision })
  await turn()
  strictEqual(heard[0]?.kind, 'events')
  await store.close()
})

test('a lease with very many keys ends in one revision, and a watch hears it whole', async () => {
  const clock = new ManualClock()
  const store = await open(new MemoryTables(), { clock })
  const { id } = await store.grantLease(5000)
  for (let batch = 0; batch < 10; batch++) {
    const success = Array.from({ length: 100 }, (_, index) => put(`k${batch}-${index}`, '', id))
    await store.transact({ success })
  }
  const { revision } = await store.range('')
  clock.nowMs += 6000
  await store.transact({ success: [put('after', '')] })
  const heard: WatchChange[] = []
  store.watch('', (change) => heard.push(change), { fromRevision: revision + 1 })
  await turn()
  const sizes = heard.map((change) => (change.kind === 'events' ? change.events.length : -1))
  deepStrictEqual(sizes, [1000, 1])
  await store.close()
})

test('a lease ends by a timer when nobody asks', async () => {
  const clock = new ManualClock()
  const store = await open(new MemoryTables(), { clock })
  const { id } = await store.grantLease(2000)
  await store.transact({ success: [put('a', '1', id)] })
  const heard: WatchChange[] = []
  store.watch('', (change) => heard.push(change))
  // The timer was set for 2 s; the clock that counts is already there.
  clock.nowMs += 60_000
  const end = performance.now() + 8000
  while (heard.length === 0 && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  strictEqual(heard.length, 1)
  await store.close()
})

test('tables of another format or with a damaged state are refused', async () => {
  const tables = new MemoryTables()
  await (await open(tables)).close()
  await tables.write((write) => {
    const state = Buffer.from(write.get('m')!)
    state[3] = 9
    write.put('m', state)
  })
  const newer = (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === ErrorCode.UnknownVersion
  await rejects(open(tables), newer)
})

test('a listener that throws fails no transaction', async () => {
  const store = await open(new MemoryTables())
  const uncaught = new Promise<unknown>((resolve) => process.once('uncaughtException', resolve))
  const watch = store.watch('', () => {
    throw new Error('a bug of the listener')
  })
  await store.transact({ success: [put('a', '1')] })
  ok(String(await uncaught).includes('a bug of the listener'))
  watch.cancel()
  await store.close()
})

test.run()
