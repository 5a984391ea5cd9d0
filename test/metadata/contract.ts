/**
 * What every MetadataStore does. `contract` registers the tests for one implementation: `open`
 * makes an empty store, with the time that leases count in under the test's control or real.
 */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { MetadataStore, Operation, WatchChange } from '../../src/metadata/store.ts'

export interface StoreUnderTest {
  readonly store: MetadataStore
  /** Lets so much time pass, for leases; a real one may sleep. */
  pass(ms: number): Promise<void>
  /** Closes the store and removes what it left. */
  dispose(): Promise<void>
}

const bytes = (text: string): Buffer => Buffer.from(text)
const put = (key: string, value: string, lease = ''): Operation => ({
  put: key,
  value: bytes(value),
  lease
})
const failsWith =
  (code: ErrorCode) =>
  (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === code

/** Waits until `condition` holds, for stores whose watches answer later. */
async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + 10_000
  while (!condition()) {
    if (performance.now() > end) throw new Error(`timed out: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** A watch that keeps what it heard, events in short. */
function listen(store: MetadataStore, prefix: string, fromRevision?: number) {
  const heard: string[] = []
  const changes: WatchChange[] = []
  const options = fromRevision === undefined ? {} : { fromRevision }
  const listener = (change: WatchChange): void => {
    changes.push(change)
    if (change.kind !== 'events') return void heard.push(change.kind)
    for (const event of change.events) {
      heard.push(event.kind === 'put' ? `${event.entry.key}=${event.entry.value}` : `-${event.key}`)
    }
  }
  return { heard, changes, watch: store.watch(prefix, listener, options) }
}

export function contract(name: string, open: () => Promise<StoreUnderTest>): void {
  const test = suite(name)
  const check = (fact: string, body: (given: StoreUnderTest) => Promise<void>): void => {
    test(fact, async () => {
      const given = await open()
      try {
        await body(given)
      } finally {
        await given.dispose()
      }
    })
  }
  keys(check)
  ranges(check)
  transactions(check)
  races(check)
  limits(check)
  watches(check)
  leases(check)
  test.run()
}

type Check = (fact: string, body: (given: StoreUnderTest) => Promise<void>) => void

function keys(check: Check): void {
  check('an absent key is null', async ({ store }) => {
    strictEqual(await store.get('a'), null)
  })

  check('a key carries its revisions and its version', async ({ store }) => {
    const first = await store.transact({ success: [put('a', '1')] })
    const entry = await store.get('a')
    deepStrictEqual(entry, {
      key: 'a',
      value: bytes('1'),
      createRevision: first.revision,
      modRevision: first.revision,
      version: 1,
      lease: ''
    })
    const second = await store.transact({ success: [put('a', '2')] })
    strictEqual(second.revision, first.revision + 1)
    const changed = await store.get('a')
    strictEqual(changed?.createRevision, first.revision)
    strictEqual(changed?.modRevision, second.revision)
    strictEqual(changed?.version, 2)
    strictEqual(changed?.value.toString(), '2')
  })

  check('a key that was deleted starts anew', async ({ store }) => {
    await store.transact({ success: [put('a', '1')] })
    await store.transact({ success: [put('a', '2')] })
    await store.transact({ success: [{ delete: 'a' }] })
    strictEqual(await store.get('a'), null)
    const { revision } = await store.transact({ success: [put('a', '3')] })
    const entry = await store.get('a')
    strictEqual(entry?.createRevision, revision)
    strictEqual(entry?.version, 1)
  })

  check('an empty value and values of any bytes are kept', async ({ store }) => {
    const value = Buffer.from(Uint8Array.from({ length: 256 }, (_, index) => index))
    await store.transact({ success: [{ put: 'a', value }, put('b', '')] })
    deepStrictEqual((await store.get('a'))?.value, value)
    strictEqual((await store.get('b'))?.value.length, 0)
  })
}

function ranges(check: Check): void {
  check('a range has the keys of a prefix in the order of their bytes', async ({ store }) => {
    const names = ['p/b', 'p/a', 'p/ä', 'p/Z', 'p', 'q/a', 'p/a/x', 'o\u{10ffff}', 'p0']
    await store.transact({ success: names.map((key) => put(key, key)) })
    const { entries, more, revision } = await store.range('p/')
    deepStrictEqual(
      entries.map(({ key }) => key),
      ['p/Z', 'p/a', 'p/a/x', 'p/b', 'p/ä']
    )
    strictEqual(more, false)
    strictEqual(revision, entries[0]?.modRevision)
    const all = await store.range('')
    deepStrictEqual(
      all.entries.map(({ key }) => key),
      [...names].sort((a, b) => Buffer.compare(bytes(a), bytes(b)))
    )
  })

  check('a range is read page by page', async ({ store }) => {
    const names = Array.from({ length: 25 }, (_, index) => `k${String(index).padStart(2, '0')}`)
    await store.transact({ success: names.map((key) => put(key, '')) })
    await store.transact({ success: [put('j', ''), put('l', '')] })
    const seen: string[] = []
    let after: string | undefined
    for (let more = true; more; ) {
      const page = await store.range('k', after === undefined ? { limit: 7 } : { limit: 7, after })
      ok(page.entries.length <= 7)
      seen.push(...page.entries.map(({ key }) => key))
      after = seen.at(-1)
      more = page.more
    }
    deepStrictEqual(seen, names)
  })

  check('the limit of a range that fits exactly leaves nothing more', async ({ store }) => {
    await store.transact({ success: [put('a', ''), put('b', '')] })
    strictEqual((await store.range('', { limit: 2 })).more, false)
    strictEqual((await store.range('', { limit: 1 })).more, true)
    strictEqual((await store.range('', { after: 'b' })).entries.length, 0)
  })
}

function transactions(check: Check): void {
  check('all operations of a transaction share one revision', async ({ store }) => {
    const { revision } = await store.transact({ success: [put('a', '1'), put('b', '2')] })
    strictEqual((await store.get('a'))?.modRevision, revision)
    strictEqual((await store.get('b'))?.modRevision, revision)
  })

  check('a transaction that changes nothing makes no revision', async ({ store }) => {
    const before = (await store.transact({ success: [put('a', '1')] })).revision
    strictEqual((await store.transact({ success: [{ delete: 'b' }] })).revision, before)
    strictEqual((await store.transact({ success: [{ get: 'a' }] })).revision, before)
    strictEqual((await store.transact({})).succeeded, true)
    strictEqual((await store.range('')).revision, before)
  })

  check('comparisons decide between the branches', async ({ store }) => {
    const { revision } = await store.transact({ success: [put('a', '1')] })
    const { id: lease } = await store.grantLease(60_000)
    await store.transact({ success: [put('l', '', lease)] })
    const holds = async (compare: Parameters<typeof store.transact>[0]['compare']) =>
      (await store.transact({ compare: compare ?? [] })).succeeded
    for (const [condition, expected] of [
      [{ key: 'a', is: 'present' }, true],
      [{ key: 'a', is: 'absent' }, false],
      [{ key: 'b', is: 'present' }, false],
      [{ key: 'b', is: 'absent' }, true],
      [{ key: 'a', createRevision: revision }, true],
      [{ key: 'a', createRevision: revision + 1 }, false],
      [{ key: 'a', modRevision: revision }, true],
      [{ key: 'a', modRevision: 0 }, false],
      [{ key: 'b', modRevision: 0 }, true],
      [{ key: 'a', version: 1 }, true],
      [{ key: 'a', version: 2 }, false],
      [{ key: 'b', version: 0 }, true],
      [{ key: 'a', value: bytes('1') }, true],
      [{ key: 'a', value: bytes('2') }, false],
      [{ key: 'b', value: bytes('') }, false],
      [{ key: 'l', lease }, true],
      [{ key: 'a', lease }, false]
    ] as const) {
      strictEqual(await holds([condition]), expected, JSON.stringify(condition))
    }
    const both = [
      { key: 'a', version: 1 },
      { key: 'b', is: 'present' }
    ] as const
    strictEqual(await holds(both), false)
    const result = await store.transact({
      compare: both,
      success: [put('c', 'then')],
      failure: [put('c', 'else'), { get: 'a' }, { get: 'b' }, { get: 'c' }]
    })
    strictEqual(result.succeeded, false)
    deepStrictEqual(
      result.entries.map((entry) => entry?.value.toString() ?? null),
      ['1', null, 'else']
    )
  })
}

function races(check: Check): void {
  check('of two that race to create a key one wins', async ({ store }) => {
    const attempts = Array.from({ length: 20 }, (_, index) =>
      store.transact({ compare: [{ key: 'a', is: 'absent' }], success: [put('a', `${index}`)] })
    )
    const results = await Promise.all(attempts)
    const winners = results.filter(({ succeeded }) => succeeded)
    strictEqual(winners.length, 1)
    const index = results.findIndex(({ succeeded }) => succeeded)
    strictEqual((await store.get('a'))?.value.toString(), `${index}`)
  })

  check('increments by compare-and-put lose nothing', async ({ store }) => {
    await store.transact({ success: [put('n', '0')] })
    const increment = async (): Promise<void> => {
      for (;;) {
        const entry = await store.get('n')
        ok(entry !== null)
        const { succeeded } = await store.transact({
          compare: [{ key: 'n', modRevision: entry.modRevision }],
          success: [put('n', `${Number(entry.value.toString()) + 1}`)]
        })
        if (succeeded) return
      }
    }
    await Promise.all(Array.from({ length: 8 }, increment))
    strictEqual((await store.get('n'))?.value.toString(), '8')
  })
}

function limits(check: Check): void {
  const refuses = async (store: MetadataStore, operations: Operation[], code: ErrorCode) => {
    const before = (await store.range('')).revision
    await rejects(store.transact({ success: operations }), failsWith(code))
    strictEqual((await store.range('')).revision, before)
  }
  check('a key is changed at most once in a transaction', async ({ store }) => {
    await refuses(store, [put('a', '1'), put('a', '2')], ErrorCode.InvalidArgument)
    await refuses(store, [put('a', '1'), { delete: 'a' }], ErrorCode.InvalidArgument)
  })

  check('128 operations fit and 129 do not', async ({ store }) => {
    const many = Array.from({ length: 129 }, (_, index) => put(`k${index}`, ''))
    await refuses(store, many, ErrorCode.LimitReached)
    strictEqual((await store.transact({ success: many.slice(1) })).succeeded, true)
  })

  check('1 MiB fits into a transaction and 2 MiB do not', async ({ store }) => {
    const value = Buffer.alloc(1024 * 1024, 7)
    await refuses(
      store,
      [
        { put: 'a', value },
        { put: 'b', value }
      ],
      ErrorCode.LimitReached
    )
    await store.transact({ success: [{ put: 'a', value }] })
    ok((await store.get('a'))?.value.equals(value))
  })

  check('keys that are empty, endless or not Unicode are refused', async ({ store }) => {
    await refuses(store, [put('', '')], ErrorCode.InvalidArgument)
    await refuses(store, [put('\ud800', '')], ErrorCode.InvalidArgument)
    await refuses(store, [put('k'.repeat(1025), '')], ErrorCode.LimitReached)
    await rejects(store.get(''), failsWith(ErrorCode.InvalidArgument))
    await store.transact({ success: [put('k'.repeat(1024), '')] })
  })

  check('a closed store refuses', async ({ store }) => {
    await store.close()
    await rejects(store.get('a'), failsWith(ErrorCode.Closed))
    await rejects(store.transact({ success: [put('a', '')] }), failsWith(ErrorCode.Closed))
  })
}

function watches(check: Check): void {
  check('a watch hears what comes after it, below its prefix, in order', async ({ store }) => {
    await store.transact({ success: [put('p/old', '')] })
    const { heard, changes, watch } = listen(store, 'p/')
    await store.transact({ success: [put('p/a', '1'), put('q', '1')] })
    await store.transact({ success: [put('q', '2')] })
    await store.transact({ success: [put('p/b', '2'), { delete: 'p/old' }] })
    await store.transact({ success: [put('p/a', '3')] })
    await until('three changes', () => changes.length === 3)
    deepStrictEqual([...heard].slice(0, 1), ['p/a=1'])
    deepStrictEqual([...heard].slice(1, 3).sort(), ['-p/old', 'p/b=2'])
    deepStrictEqual([...heard].slice(3), ['p/a=3'])
    watch.cancel()
    await store.transact({ success: [put('p/a', '4')] })
    strictEqual(changes.length, 3)
  })

  check('a watch from a past revision hears the past first', async ({ store }) => {
    const { revision } = await store.transact({ success: [put('a', '1')] })
    await store.transact({ success: [put('a', '2')] })
    await store.transact({ success: [{ delete: 'a' }] })
    const { heard, changes, watch } = listen(store, 'a', revision)
    strictEqual(heard.length, 0, 'nothing from inside watch')
    await store.transact({ success: [put('a', '3')] })
    await until('four changes', () => heard.length === 4)
    deepStrictEqual(heard, ['a=1', 'a=2', '-a', 'a=3'])
    const revisions = changes.map((change) => (change.kind === 'events' ? change.revision : 0))
    deepStrictEqual(revisions, [revision, revision + 1, revision + 2, revision + 3])
    watch.cancel()
  })

  check('a watch from a range misses nothing and repeats nothing', async ({ store }) => {
    await store.transact({ success: [put('a', '0')] })
    const { revision } = await store.range('')
    for (let step = 1; step <= 20; step++) await store.transact({ success: [put('a', `${step}`)] })
    const { heard, watch } = listen(store, '', revision + 1)
    for (let step = 21; step <= 40; step++) await store.transact({ success: [put('a', `${step}`)] })
    await until('forty events', () => heard.length >= 40)
    deepStrictEqual(
      heard,
      Array.from({ length: 40 }, (_, index) => `a=${index + 1}`)
    )
    watch.cancel()
  })

  check('a watch whose history is gone is told so, and ends', async ({ store }) => {
    const { revision } = await store.transact({ success: [put('a', '1')] })
    for (let step = 0; step < 5; step++) await store.transact({ success: [put('a', `${step}`)] })
    await store.compact(revision + 4)
    const { changes, heard, watch } = listen(store, '', revision)
    await until('compacted', () => changes.length === 1)
    const change = changes[0]
    ok(change?.kind === 'compacted')
    ok(change.compactRevision >= revision + 4)
    await store.transact({ success: [put('a', 'x')] })
    deepStrictEqual(heard, ['compacted'])
    strictEqual((await store.get('a'))?.value.toString(), 'x', 'present keys stay')
    watch.cancel()
  })

  check('closing the store ends its watches', async ({ store }) => {
    const { heard } = listen(store, '')
    await store.close()
    await until('closed', () => heard.length === 1)
    deepStrictEqual(heard, ['closed'])
  })
}

function leases(check: Check): void {
  check('keys end with their lease, in one revision', async ({ store, pass }) => {
    const { id, ttlMs } = await store.grantLease(2000)
    ok(ttlMs >= 2000)
    await store.transact({ success: [put('a', '1', id), put('b', '1', id), put('c', '1')] })
    strictEqual((await store.get('a'))?.lease, id)
    const { heard, changes, watch } = listen(store, '')
    await pass(ttlMs + 1500)
    strictEqual(await store.get('a'), null)
    strictEqual(await store.get('b'), null)
    ok((await store.get('c')) !== null)
    await until('the end of both', () => heard.length === 2)
    deepStrictEqual([...heard].sort(), ['-a', '-b'])
    strictEqual(changes.length, 1)
    await rejects(store.keepAlive(id), failsWith(ErrorCode.NotFound))
    watch.cancel()
  })

  check('a lease that is kept alive goes on', async ({ store, pass }) => {
    const { id, ttlMs } = await store.grantLease(3000)
    await store.transact({ success: [put('a', '1', id)] })
    for (let step = 0; step < 4; step++) {
      await pass(ttlMs / 2)
      await store.keepAlive(id)
    }
    ok((await store.get('a')) !== null)
    await store.revokeLease(id)
  })

  check('revoking a lease ends its keys at once', async ({ store }) => {
    const { id } = await store.grantLease(60_000)
    await store.transact({ success: [put('a', '1', id)] })
    await store.revokeLease(id)
    strictEqual(await store.get('a'), null)
    await rejects(store.revokeLease(id), failsWith(ErrorCode.NotFound))
    await rejects(store.keepAlive(id), failsWith(ErrorCode.NotFound))
  })

  check('a put decides anew which lease a key has', async ({ store }) => {
    const first = await store.grantLease(60_000)
    const second = await store.grantLease(60_000)
    await store.transact({ success: [put('a', '1', first.id), put('b', '1', first.id)] })
    await store.transact({ success: [put('a', '2', second.id), put('b', '2')] })
    await store.revokeLease(first.id)
    strictEqual((await store.get('a'))?.lease, second.id)
    strictEqual((await store.get('b'))?.lease, '')
    await store.revokeLease(second.id)
    strictEqual(await store.get('a'), null)
    ok((await store.get('b')) !== null)
  })

  check('a key that was deleted and put again leaves its lease', async ({ store }) => {
    const { id } = await store.grantLease(60_000)
    await store.transact({ success: [put('a', '1', id)] })
    await store.transact({ success: [{ delete: 'a' }] })
    await store.transact({ success: [put('a', '2')] })
    await store.revokeLease(id)
    strictEqual((await store.get('a'))?.value.toString(), '2')
  })

  check('a lease that is not there cannot be used', async ({ store }) => {
    const success = [put('b', '1'), put('a', '1', '1234')]
    await rejects(store.transact({ success }), failsWith(ErrorCode.NotFound))
    strictEqual(await store.get('b'), null, 'nothing of the transaction happened')
  })

  check('a lease without time is refused', async ({ store }) => {
    await rejects(store.grantLease(0), failsWith(ErrorCode.InvalidArgument))
    await rejects(store.grantLease(Number.NaN), failsWith(ErrorCode.InvalidArgument))
  })
}
