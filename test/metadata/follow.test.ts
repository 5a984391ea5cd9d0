import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { follow } from '../../src/metadata/follow.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { MetadataStore, WatchChange } from '../../src/metadata/store.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { delegateTo } from '../helpers/store-delegate.ts'

const openStore = () =>
  EmbeddedStore.open(new MemoryTables(), { clock: new ManualClock(), random: new SeededRandom(1) })
const put = (key: string, value: string) => ({ put: key, value: Buffer.from(value) })
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

function recorder() {
  const heard: string[] = []
  const state = new Map<string, string>()
  return {
    heard,
    state,
    onPut: (entry: { key: string; value: Buffer }) => {
      heard.push(`${entry.key}=${entry.value}`)
      state.set(entry.key, entry.value.toString())
    },
    onDelete: (key: string) => {
      heard.push(`-${key}`)
      state.delete(key)
    }
  }
}

test('a follower is told what is there and then every change', async () => {
  const store = await openStore()
  await store.transact({ success: [put('p/a', '1'), put('p/b', '1'), put('q', '1')] })
  const follower = recorder()
  const following = follow(store, 'p/', follower)
  await following.ready
  deepStrictEqual(follower.heard, ['p/a=1', 'p/b=1'])
  await store.transact({ success: [put('p/a', '2'), { delete: 'p/b' }, put('q', '2')] })
  await store.transact({ success: [put('p/c', '1')] })
  await turn()
  deepStrictEqual(follower.heard.slice(2), ['p/a=2', '-p/b', 'p/c=1'])
  following.stop()
  await store.transact({ success: [put('p/a', '3')] })
  await turn()
  strictEqual(follower.heard.length, 5)
  await store.close()
})

/** A store whose watches end as compacted when told to, as after a long silence of etcd. */
function interruptible(store: MetadataStore) {
  const listeners = new Set<(change: WatchChange) => void>()
  let deaf = false
  const wrapped = delegateTo(store, {
    watch: (prefix, listener, options) => {
      const hears = (change: WatchChange): void => {
        if (!deaf) listener(change)
      }
      const inner = store.watch(prefix, hears, options)
      listeners.add(listener)
      return {
        cancel: () => {
          listeners.delete(listener)
          inner.cancel()
        }
      }
    }
  })
  return {
    wrapped,
    silence: () => {
      deaf = true
    },
    compacted: () => {
      deaf = false
      const change = { kind: 'compacted', compactRevision: 1 } as const
      for (const listener of [...listeners]) listener(change)
    }
  }
}

test('a follower that missed changes reads again and is told the difference', async () => {
  const store = await openStore()
  const { wrapped, silence, compacted } = interruptible(store)
  await store.transact({ success: [put('p/a', '1'), put('p/b', '1'), put('p/c', '1')] })
  const follower = recorder()
  const following = follow(wrapped, 'p/', follower)
  await following.ready
  silence()
  await store.transact({ success: [put('p/a', '2'), { delete: 'p/b' }] })
  await store.transact({ success: [put('p/d', '1')] })
  await turn()
  strictEqual(follower.heard.length, 3)
  compacted()
  await turn()
  await turn()
  deepStrictEqual(follower.heard.slice(3).sort(), ['-p/b', 'p/a=2', 'p/d=1'])
  await store.transact({ success: [put('p/b', '9')] })
  await turn()
  strictEqual(follower.state.get('p/b'), '9')
  following.stop()
  await store.close()
})

test('a follower of many pages ends up with the truth while keys change', async () => {
  const store = await openStore()
  for (let batch = 0; batch < 30; batch++) {
    const keys = Array.from({ length: 100 }, (_, index) => `p/${batch * 100 + index}`)
    await store.transact({ success: keys.map((key) => put(key, '0')) })
  }
  const follower = recorder()
  const following = follow(store, 'p/', follower)
  const random = new SeededRandom(5)
  const changing = (async () => {
    for (let step = 0; step < 300; step++) {
      const key = `p/${random.below(3000)}`
      const success = step % 3 === 0 ? [{ delete: key }] : [put(key, `${step}`)]
      await store.transact({ success })
    }
  })()
  await Promise.all([changing, following.ready])
  await turn()
  const truth = new Map<string, string>()
  for (let after = ''; ; ) {
    const page = await store.range('p/', after === '' ? {} : { after })
    for (const { key, value } of page.entries) truth.set(key, value.toString())
    after = page.entries.at(-1)?.key ?? ''
    if (!page.more) break
  }
  deepStrictEqual([...follower.state].sort(), [...truth].sort())
  following.stop()
  await store.close()
})

test('a follower whose store fails is told, and tries again', async () => {
  const store = await openStore()
  const troubles: StoreError[] = []
  const broken = delegateTo(store, {
    range: async () => {
      throw new StoreError(ErrorCode.Unavailable, 'no answer')
    }
  })
  const following = follow(broken, '', {
    onPut: () => {},
    onDelete: () => {},
    onTrouble: (error) => troubles.push(error)
  })
  await turn()
  following.stop()
  await following.ready
  strictEqual(troubles.length, 1)
  await store.close()
})

test.run()
