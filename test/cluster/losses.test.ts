/** Groups that wait for an operator, and what he says. */
import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { GroupRecords } from '../../src/cluster/groups.ts'
import { acceptLoss, waitingGroups } from '../../src/cluster/losses.ts'
import { Membership } from '../../src/cluster/membership.ts'
import { Pools } from '../../src/cluster/pools.ts'
import { Session } from '../../src/cluster/session.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'

const [A, B] = ['a'.repeat(32), 'b'.repeat(32)]
const BOOT = '1'.repeat(32)

test('who waits for a member that ended cleanly counts once that one is removed', async () => {
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const start = async (peerId: string) => {
    const self = { clusterId: 'c'.repeat(32), peerId, bootId: BOOT, bootCounter: 1 }
    const cluster = await Cluster.open(store, { ...self, capacityBytes: 1000 }, { clock, random })
    const session = await Session.open(store, clock)
    const alive = { peerAddress: null, adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
    return { cluster, session, membership: await Membership.open(cluster, session, { alive }) }
  }
  const gone = await start(B)
  const parts = await start(A)
  const { cluster, membership } = parts
  const pools = new Pools(cluster)
  await pools.ensureDefault(1)
  const records = new GroupRecords(cluster)
  const known = await records.read(0, 0)
  const change = { inSync: [{ peer: B, boot: BOOT }], syncing: [{ peer: A, boot: BOOT }] }
  await records.change(0, 0, known, { members: [A, B], ...change })
  await gone.membership.leaveCleanly()
  gone.membership.close()
  await gone.session.close()
  await until(() => membership.endedCleanly(B, BOOT), 'it to be known')
  deepStrictEqual((await waitingGroups(parts, await pools.list())).groups, [])
  await membership.change(B, () => ({ state: 'removed' }))
  await until(() => !membership.endedCleanly(B, BOOT), 'it to be known')
  const [waiting] = (await waitingGroups(parts, await pools.list())).groups
  deepStrictEqual(waiting?.candidates, [A])
  const all = { group: null, peer: null }
  strictEqual((await acceptLoss(parts, await pools.list(), all)).length, 1)
  deepStrictEqual((await records.read(0, 0))?.record.inSync, [{ peer: A, boot: BOOT }])
  membership.close()
  await parts.session.close()
  await store.close()
})

test.run()
