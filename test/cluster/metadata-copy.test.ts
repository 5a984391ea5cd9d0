import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { Keys } from '../../src/cluster/keys.ts'
import { readBackup, writeBackup } from '../../src/cluster/metadata-copy.ts'
import { restoredBackup } from '../../src/cluster/restored.ts'
import { decodeRecord } from '../../src/cluster/records.ts'
import { Session } from '../../src/cluster/session.ts'
import { VolumeDirectory } from '../../src/cluster/volume-directory.ts'
import { Writers } from '../../src/cluster/writers.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { MetadataStore } from '../../src/metadata/store.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { delegateTo } from '../helpers/store-delegate.ts'

const failsWith = (code: ErrorCode) => (thrown: unknown) =>
  thrown instanceof StoreError && thrown.code === code

const clock = new ManualClock()
const options = { force: false }
const keys = new Keys()
const self = {
  clusterId: 'c'.repeat(32),
  peerId: 'a'.repeat(32),
  bootId: 'b'.repeat(32),
  bootCounter: 1,
  capacityBytes: 1
}

const emptyStore = (): Promise<EmbeddedStore> =>
  EmbeddedStore.open(new MemoryTables(), { clock, random: new SeededRandom(1) })

/** A cluster with many volumes, one of them open for writing. */
async function livingStore(volumes: number) {
  const store = await emptyStore()
  const cluster = await Cluster.open(store, self, { clock, random: new SeededRandom(2) })
  const directory = new VolumeDirectory(cluster)
  const spec = { type: 'block', sizeBytes: 4096, unitBytes: 4096 }
  for (let n = 0; n < volumes; n++) await directory.create({ ...spec, name: `v${n}` })
  const session = await Session.open(store, clock)
  const record = await directory.get('v0')
  const epoch = await new Writers(cluster, session).acquire(record)
  await session.close()
  return { store, epoch, family: record.family }
}

async function contents(store: MetadataStore, at: Keys): Promise<[string, string][]> {
  const { entries } = await store.range(at.root)
  return entries.map(({ key, value }) => [key.slice(at.root.length), value.toString()])
}

test('a copy has everything but leases, and can be written below another prefix', async () => {
  const { store } = await livingStore(30)
  const backup = await readBackup(store, keys, clock.wallMs())
  strictEqual(backup.clusterId, self.clusterId)
  ok(!backup.entries.some(({ key }) => key.startsWith('writers/')))
  const target = await emptyStore()
  const elsewhere = new Keys('/other')
  await writeBackup(target, elsewhere, backup, options)
  deepStrictEqual(await contents(target, elsewhere), await contents(store, keys))
  const again = { clock, random: new SeededRandom(3), keys: elsewhere, create: false }
  await Cluster.open(target, { ...self, bootCounter: 2 }, again)
})

test('a restored writerEpoch is above all that can have been given out', async () => {
  const { store, epoch, family } = await livingStore(1)
  const backup = await readBackup(store, keys, clock.wallMs())
  const restored = restoredBackup(backup, keys, clock.wallMs())
  const target = await emptyStore()
  await writeBackup(target, keys, restored, options)
  const entry = await target.get(keys.family(family))
  const record = decodeRecord('family', keys.family(family), entry!.value)
  strictEqual(record.writerEpoch, epoch + 2 ** 20)
  const cluster = await target.get(keys.cluster)
  const { restoredRevision } = decodeRecord('cluster', keys.cluster, cluster!.value)
  strictEqual(restoredRevision, backup.revision)
})

test('what is there is replaced only by force, and never below a living peer', async () => {
  const { store } = await livingStore(3)
  const backup = await readBackup(store, keys, clock.wallMs())
  const other = await livingStore(5)
  await rejects(writeBackup(other.store, keys, backup, options), failsWith(ErrorCode.AlreadyExists))
  const { id } = await other.store.grantLease(60_000)
  const value = Buffer.from('{}')
  await other.store.transact({ success: [{ put: keys.alive('x'), value, lease: id }] })
  const force = { force: true }
  await rejects(writeBackup(other.store, keys, backup, force), failsWith(ErrorCode.Busy))
  await other.store.revokeLease(id)
  await writeBackup(other.store, keys, backup, force)
  deepStrictEqual(await contents(other.store, keys), await contents(store, keys))
  const foreign = await emptyStore()
  await foreign.transact({ success: [{ put: '/torus/other', value }] })
  await rejects(writeBackup(foreign, keys, backup, force), failsWith(ErrorCode.AlreadyExists))
})

test('a write that is interrupted anywhere leaves no cluster, and can be done again', async () => {
  const { store } = await livingStore(100)
  const backup = await readBackup(store, keys, clock.wallMs())
  for (let writes = 1; ; writes++) {
    const target = await emptyStore()
    let left = writes
    const failing = delegateTo(target, {
      transact: (transaction) => {
        if (left-- <= 0) throw new StoreError(ErrorCode.Unavailable, 'gone')
        return target.transact(transaction)
      }
    })
    const done = await writeBackup(failing, keys, backup, options).then(
      () => true,
      () => false
    )
    if (done) {
      ok(writes > 3, 'it took several transactions')
      return
    }
    const joining = Cluster.open(target, self, { clock, random: new SeededRandom(4) })
    await rejects(joining, failsWith(ErrorCode.InvalidArgument))
    await writeBackup(target, keys, backup, options)
    deepStrictEqual(await contents(target, keys), await contents(store, keys))
  }
})

test('more than a page is read as of one moment', async () => {
  const { store } = await livingStore(400)
  let pages = 0
  const moving = delegateTo(store, {
    range: async (prefix, given) => {
      const page = await store.range(prefix, given)
      if (++pages === 1) await store.transact({ success: [{ delete: keys.name('v399') }] })
      return page
    }
  })
  const backup = await readBackup(moving, keys, clock.wallMs())
  ok(!backup.entries.some(({ key }) => key === 'names/v399'))
  // Three keys a volume, the cluster, the peer, settings and levels, less the name that went.
  strictEqual(backup.entries.length, 3 * 400 + 4 - 1)
})

test.run()
