/** Families of a pool as the metadata has them. */
import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { encodeRecord } from '../../src/cluster/records.ts'
import { VolumeDirectory } from '../../src/cluster/volume-directory.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ClusterFamilies } from '../../src/replication/cluster-families.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'

const test = suite('cluster families')

test('families are those of the pool that were written; deletions are done and told', async () => {
  const environment = { clock: new ManualClock(), random: new SeededRandom(1) }
  const store = await EmbeddedStore.open(new MemoryTables(), environment)
  const self = {
    ...{ clusterId: 'c'.repeat(32), peerId: 'a'.repeat(32), bootId: '1'.repeat(32) },
    ...{ bootCounter: 1, capacityBytes: 1000 }
  }
  const cluster = await Cluster.open(store, self, environment)
  const directory = new VolumeDirectory(cluster)
  const spec = { type: 'block', sizeBytes: 4096, unitBytes: 4096 }
  const [mine, other, unused, gone] = await Promise.all(
    ['mine', 'other', 'unused', 'gone'].map((name) => directory.create({ ...spec, name }))
  )
  for (const volume of [mine!, other!, gone!]) {
    const value = encodeRecord('family', { v: 1, writerEpoch: 3, settledEpoch: 2 })
    await store.transact({ success: [{ put: cluster.keys.family(volume.family), value }] })
  }
  const dropped: string[] = []
  const families = new ClusterFamilies({
    cluster,
    poolOf: ({ name }) => (name === 'other' ? 2 : 1),
    drop: async ({ family }) => {
      await Promise.resolve()
      dropped.push(family)
    }
  })
  strictEqual((await families.list(1)).length, 2)
  await directory.delete('gone', { force: false })
  const [state, ...rest] = await families.list(1)
  deepStrictEqual(rest, [])
  strictEqual(state!.family, mine!.family)
  deepStrictEqual([state!.writerEpoch, state!.settledEpoch], [3, 2])
  const guard = (): Promise<boolean> =>
    store.transact({ compare: [state!.unchanged] }).then(({ succeeded }) => succeeded)
  strictEqual(await guard(), true)
  const value = encodeRecord('family', { v: 1, writerEpoch: 4, settledEpoch: 2 })
  await store.transact({ success: [{ put: cluster.keys.family(mine!.family), value }] })
  strictEqual(await guard(), false)
  deepStrictEqual(await families.list(3), [])
  strictEqual(unused!.name, 'unused')
  await families.applyDeletions()
  await families.applyDeletions()
  deepStrictEqual(dropped, [gone!.family])
  await store.close()
})

test.run()
