/** Real members of etcd that die, hang, are wiped or full; each test has its own. */
import { match, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { systemClock } from '../../src/core/clock.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EtcdStore } from '../../src/metadata/etcd-store.ts'
import type { EtcdOptions } from '../../src/metadata/etcd-options.ts'
import type { MetadataStore } from '../../src/metadata/store.ts'
import { testNeeding } from '../helpers/environment.ts'
import { EtcdServer, type EtcdSettings } from '../helpers/etcd.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'

const needs = { programs: ['etcd'] }
const times = { callMs: 2800, attemptMs: 700, watchCheckMs: 800, watchLifeMs: 60_000 }

const failsWith = (code: ErrorCode, words: RegExp) => (thrown: unknown) => {
  ok(thrown instanceof StoreError, String(thrown))
  strictEqual(thrown.code, code, thrown.message)
  match(thrown.message, words)
  return true
}

const openStore = (
  server: EtcdServer,
  options: Partial<EtcdOptions> & { seed?: number } = {}
): Promise<EtcdStore> =>
  EtcdStore.open({
    endpoints: server.endpoints,
    clock: systemClock,
    random: new SeededRandom(options.seed ?? 1),
    times,
    ...options
  })

async function withEtcd(
  settings: EtcdSettings,
  body: (server: EtcdServer) => Promise<void>
): Promise<void> {
  const server = await EtcdServer.start(settings)
  try {
    await server.ready()
    await body(server)
  } finally {
    await server.stop()
  }
}

const put = (store: MetadataStore, key: string, value: string) =>
  store.transact({ success: [{ put: key, value: Buffer.from(value) }] })

/** A change whose outcome is not known is made again, as its owner would. */
async function putInTime(store: MetadataStore, key: string, value: string): Promise<void> {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      await put(store, key, value)
      return
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Unavailable) throw thrown
    }
  }
  throw new Error(`${key} was not put`)
}

function heardBy(store: MetadataStore, prefix: string): string[] {
  const heard: string[] = []
  store.watch(prefix, (change) => {
    if (change.kind !== 'events') return void heard.push(change.kind)
    for (const event of change.events) {
      heard.push(event.kind === 'put' ? `${event.entry.value}` : `-${event.key}`)
    }
  })
  return heard
}

testNeeding(needs, 'the store goes on when the leader of three is killed', async () => {
  await withEtcd({ members: 3 }, async (server) => {
    const leader = await server.leader()
    // Every store asks another member first: one of them the leader.
    const stores = await Promise.all([1, 2, 3, 4].map((seed) => openStore(server, { seed })))
    const heard = stores.map((store) => heardBy(store, 'w/'))
    const { id } = await stores[0]!.grantLease(60_000)
    await put(stores[0]!, 'w/a', '1')
    await server.kill(leader)
    for (const [index, store] of stores.entries()) await putInTime(store, 'w/a', `${index + 2}`)
    for (const store of stores) strictEqual((await store.get('w/a'))?.value.toString(), '5')
    await stores[0]!.keepAlive(id)
    for (const list of heard) {
      await until(() => list.at(-1) === '5', 'every watch hears the last change', 15_000)
      const values = [...new Set(list)]
      strictEqual(values.join(), '1,2,3,4,5')
    }
    for (const store of stores) await store.close()
  })
})

testNeeding(needs, 'a member that hangs is left, by calls and by watches', async () => {
  await withEtcd({ members: 3 }, async (server) => {
    const store = await openStore(server, { endpoints: server.endpoints, seed: 1 })
    const heard = heardBy(store, 'w/')
    await put(store, 'w/a', '1')
    await until(() => heard.length === 1, 'the watch is there')
    const hung = server.endpoints.indexOf(store.endpoint)
    server.signal(hung, 'SIGSTOP')
    try {
      const before = performance.now()
      await until(() => store.get('w/a').then((entry) => entry !== null), 'a read is answered')
      ok(performance.now() - before < times.callMs, 'within one call')
      await putInTime(store, 'w/a', '2')
      await until(() => heard.includes('2'), 'the watch goes on elsewhere', 15_000)
    } finally {
      server.signal(hung, 'SIGCONT')
    }
    await putInTime(store, 'w/a', '3')
    await until(() => heard.at(-1) === '3', 'nothing is lost or repeated')
    strictEqual(heard.join(), '1,2,3')
    await store.close()
  })
})

testNeeding(needs, 'a store outlives an etcd that stops entirely and comes back', async () => {
  await withEtcd({}, async (server) => {
    const store = await openStore(server)
    const heard = heardBy(store, 'w/')
    await put(store, 'w/a', '1')
    await until(() => heard.length === 1, 'the watch is there')
    await server.kill(0)
    const [endpoint] = server.endpoints
    const before = performance.now()
    await rejects(
      store.get('w/a'),
      failsWith(ErrorCode.Unavailable, new RegExp(`${endpoint}: no connection`))
    )
    await rejects(put(store, 'w/a', 'x'), failsWith(ErrorCode.Unavailable, /changing metadata/))
    const { callMs, attemptMs } = times
    ok(performance.now() - before < 2 * (callMs + attemptMs + 500), 'each within its deadline')
    server.restart(0)
    await server.ready()
    await putInTime(store, 'w/a', '2')
    await until(() => heard.at(-1) === '2', 'the watch resumes', 15_000)
    strictEqual(heard.join(), '1,2')
    await store.close()
  })
})

testNeeding(needs, 'a watch whose past was compacted while away is told so', async () => {
  await withEtcd({}, async (server) => {
    const store = await openStore(server)
    const other = await openStore(server)
    const heard = heardBy(store, 'w/')
    await put(store, 'w/a', '1')
    await until(() => heard.length === 1, 'the watch is there')
    server.signal(0, 'SIGSTOP')
    await new Promise((resolve) => setTimeout(resolve, times.watchCheckMs + 3 * times.attemptMs))
    server.signal(0, 'SIGCONT')
    const { revision } = await put(other, 'x', '2')
    await other.compact(revision)
    await until(() => heard.length >= 2 || heard.includes('compacted'), 'told', 10_000).catch(
      () => {}
    )
    // Whether the stream was reopened before or after, the watch knows or goes on.
    if (heard.at(-1) !== 'compacted') {
      await putInTime(store, 'w/a', '3')
      await until(() => heard.at(-1) === '3', 'the watch goes on')
    }
    await store.close()
    await other.close()
  })
})

testNeeding(needs, 'a watch that etcd forgot is renewed in time', async () => {
  await withEtcd({}, async (server) => {
    const short = { ...times, watchLifeMs: 500, watchCheckMs: 200, attemptMs: 200 }
    const store = await openStore(server, { times: short })
    const heard = heardBy(store, 'w/')
    const expected: string[] = []
    for (let step = 0; step < 30; step++) {
      await put(store, 'w/a', `${step}`)
      expected.push(`${step}`)
      await new Promise((resolve) => setTimeout(resolve, 60))
    }
    await until(() => heard.length >= 30, 'every change is heard')
    strictEqual(heard.join(), expected.join())
    await store.close()
  })
})

testNeeding(
  needs,
  'an etcd without room says what to do, and goes on once that is done',
  async () => {
    const quota = ['--quota-backend-bytes', String(16 * 1024 * 1024)]
    await withEtcd({ arguments: quota }, async (server) => {
      const store = await openStore(server)
      const value = Buffer.alloc(1024 * 1024, 1)
      const { id: lease } = await store.grantLease(60_000)
      const fill = async () => {
        for (let step = 0; step < 40; step++) {
          await store.transact({ success: [{ put: `k${step}`, value }] })
        }
      }
      await rejects(fill(), failsWith(ErrorCode.OutOfSpace, /etcdctl defrag.*alarm disarm/))
      ok((await store.get('k0')) !== null, 'reads go on')
      await store.keepAlive(lease)
      await rejects(store.grantLease(10_000), failsWith(ErrorCode.OutOfSpace, /etcdctl/))
      // Somebody makes room, and does as he was told.
      const deletes = Array.from({ length: 40 }, (_, step) => ({ delete: `k${step}` }))
      const { revision } = await store.transact({ success: deletes })
      await store.compact(revision)
      const client = server.client()
      await client.maintenance.defragment()
      for (const { memberID, alarm } of (await client.maintenance.alarm({ action: 'Get' }))
        .alarms) {
        await client.maintenance.alarm({ action: 'Deactivate', memberID, alarm })
      }
      await put(store, 'a', '1')
      await store.keepAlive(lease)
      client.close()
      await store.close()
    })
  }
)

testNeeding(needs, 'an etcd that was wiped is noticed, and nothing is changed there', async () => {
  await withEtcd({}, async (server) => {
    const store = await openStore(server)
    for (let step = 0; step < 5; step++) await put(store, 'a', `${step}`)
    await server.wipe(0)
    server.restart(0)
    await server.ready()
    await rejects(store.get('a'), failsWith(ErrorCode.Corrupt, /went back from revision/))
    await rejects(put(store, 'a', 'x'), failsWith(ErrorCode.Corrupt, /restore/))
    const fresh = await openStore(server)
    strictEqual(await fresh.get('a'), null)
    await fresh.close()
    await store.close()
  })
})

testNeeding(needs, 'two etcd clusters are not mixed', async () => {
  await withEtcd({}, async (one) => {
    await withEtcd({}, async (two) => {
      const endpoints = [...one.endpoints, ...two.endpoints]
      const store = await openStore(one, { endpoints, seed: 1 })
      const first = store.endpoint === one.endpoints[0] ? one : two
      await put(store, 'a', '1')
      await first.kill(0)
      await rejects(
        store.get('a'),
        failsWith(ErrorCode.InvalidArgument, /not of the etcd cluster that the others/)
      )
      await store.close()
    })
  })
})

testNeeding(needs, 'an endpoint that is no etcd, or nobody, is named', async () => {
  const endpoints = ['http://127.0.0.1:1', 'http://127.0.0.1:2']
  const options = { endpoints, clock: systemClock, random: new SeededRandom(1), times }
  await rejects(
    EtcdStore.open({ ...options, times: { ...times, callMs: 300 } }),
    failsWith(ErrorCode.Unavailable, /127.0.0.1:1: no connection.*127.0.0.1:2: no connection/)
  )
})

test.run()
