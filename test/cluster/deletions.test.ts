/** Deletions that many peers confirm, and the controller that writes that down. */
import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { DeletionKeeper, Deletions } from '../../src/cluster/deletions.ts'
import { Membership } from '../../src/cluster/membership.ts'
import { encodeRecord } from '../../src/cluster/records.ts'
import { Session } from '../../src/cluster/session.ts'
import { VolumeDirectory } from '../../src/cluster/volume-directory.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { Compare } from '../../src/metadata/store.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'

const SPEC = { type: 'block', sizeBytes: 4096, unitBytes: 4096 }
const ALIVE = { peerAddress: null, adminAddresses: [], nbdAddresses: [], usedBytes: 0 }

const idOf = (at: number): string => at.toString(16).padStart(32, '0')

/** Peers that are registered, the first of which is the controller. */
async function site(count: number) {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const clusters: Cluster[] = []
  for (let at = 0; at < count; at++) {
    const self = {
      ...{ clusterId: 'c'.repeat(32), peerId: idOf(at), bootId: '1'.repeat(32) },
      ...{ bootCounter: 1, capacityBytes: 1000 }
    }
    clusters.push(await Cluster.open(store, self, { clock, random }))
  }
  const first = clusters[0]!
  const session = await Session.open(store, clock)
  const membership = await Membership.open(first, session, { alive: ALIVE })
  const { keys } = first
  const elected = { v: 1, peer: idOf(0), bootId: '1'.repeat(32) } as const
  const value = encodeRecord('controller', elected)
  const { revision } = await store.transact({ success: [{ put: keys.controller, value }] })
  const isElected: Compare = { key: keys.controller, modRevision: revision }
  const keeper = new DeletionKeeper(first, membership)
  const directory = new VolumeDirectory(first)
  const deleteVolume = async (name: string) => {
    await directory.create({ ...SPEC, name })
    return directory.delete(name, { force: false })
  }
  const confirmations = async (): Promise<number> =>
    (await first.readAll(keys.confirmations)).length
  /** What the keeper does at this moment, once it has heard of all that was said. */
  const step = async (): Promise<void> => {
    await keeper.step(isElected)
    await new Promise((resolve) => setTimeout(resolve, 5))
    await keeper.step(isElected)
  }
  const end = async (): Promise<void> => {
    keeper.stop()
    membership.close()
    await store.close()
  }
  const deletions = new Deletions(first)
  const parts = { clock, store, clusters, first, membership, keys, isElected, keeper, directory }
  return { ...parts, deletions, deleteVolume, confirmations, step, end }
}

test('many peers cost two writes of the record, however they come', async () => {
  const { clock, store, clusters, keys, deletions, ...rest } = await site(150)
  let writes = 0
  const watch = store.watch(keys.deletions, () => void writes++)
  const deleted = await rest.deleteVolume('v')
  strictEqual(deleted.pendingPeers.length, 150)
  await rest.step()
  for (const cluster of clusters) {
    await new Deletions(cluster).confirm(deleted)
    clock.nowMs += 10
  }
  await rest.step()
  strictEqual((await deletions.list()).length, 1, 'more may come')
  clock.nowMs += 2000
  await rest.step()
  deepStrictEqual(await deletions.list(), [])
  strictEqual(await rest.confirmations(), 0)
  await until(() => writes === 2, 'one that it came, one that it went')
  // It says so again because the answer was lost.
  await new Deletions(clusters[7]!).confirm(deleted)
  strictEqual(await rest.confirmations(), 0)
  watch.cancel()
  await rest.end()
})

test('who is away stays in the record, and who is removed does not', async () => {
  const { clock, clusters, membership, deletions, ...rest } = await site(4)
  const [one, other] = [await rest.deleteVolume('v'), await rest.deleteVolume('w')]
  const names = async (): Promise<unknown[]> =>
    (await deletions.list()).map(({ name, pendingPeers }) => [name, ...pendingPeers])
  await new Deletions(clusters[1]!).confirm(one)
  await new Deletions(clusters[0]!).confirm(one)
  await rest.step()
  clock.nowMs += 2000
  await rest.step()
  const left = [idOf(2), idOf(3)]
  const all = [0, 1, 2, 3].map(idOf)
  const sorted = async (): Promise<unknown[]> => (await names()).sort()
  deepStrictEqual(await sorted(), [
    ['v', ...left],
    ['w', ...all]
  ])
  strictEqual(await rest.confirmations(), 0)
  await membership.change(idOf(3), () => ({ state: 'removed' }))
  await until(() => membership.peer(idOf(3))?.record.state === 'removed', 'it is known')
  await rest.step()
  deepStrictEqual(await sorted(), [
    ['v', idOf(2)],
    ['w', ...all.slice(0, 3)]
  ])
  const later = await rest.deleteVolume('x')
  deepStrictEqual(later.pendingPeers, all.slice(0, 3), 'nobody waits for one that is gone')
  const [last] = (await deletions.list()).filter(({ name }) => name === 'v')
  await new Deletions(clusters[2]!).confirm(last!)
  deepStrictEqual((await sorted()).length, 2, 'the last one ends it without a controller')
  for (const at of [0, 1, 2]) await new Deletions(clusters[at]!).confirm(other)
  await rest.step()
  clock.nowMs += 2000
  await rest.step()
  deepStrictEqual((await names()).length, 1)
  await rest.end()
})

test('a controller that ends in the middle leaves the rest to the next', async () => {
  const { clock, store, clusters, first, membership, keys, ...rest } = await site(3)
  const deleted = await rest.deleteVolume('v')
  for (const cluster of clusters.slice(0, 2)) await new Deletions(cluster).confirm(deleted)
  const key = keys.deleted(deleted.family)
  const value = encodeRecord('deleted', { ...deleted, pendingPeers: [idOf(2)] })
  await store.transact({ success: [{ put: key, value }] })
  const next = new DeletionKeeper(first, membership)
  const stale: Compare = { key: keys.controller, modRevision: 1 }
  await next.step(stale)
  clock.nowMs += 2000
  await next.step(stale)
  strictEqual(await rest.confirmations(), 2, 'somebody else is elected')
  await next.step(rest.isElected)
  strictEqual(await rest.confirmations(), 0)
  deepStrictEqual((await rest.deletions.list())[0]?.pendingPeers, [idOf(2)])
  next.stop()
  await rest.end()
})

test.run()
