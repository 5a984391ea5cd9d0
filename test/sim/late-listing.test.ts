/** R13: who was listed under an earlier start is brought up to date all the same. */
import { test } from 'uvu'
import { encodeRecord } from '../../src/cluster/records.ts'
import { QuietCluster } from './quiet.ts'
import { every } from './scenario.ts'

test('a peer that somebody lists under its boot before syncs under its present one', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 2, engine: true })
  await sim.open()
  await every(sim, 'both are in', (record) => record.inSync.length === 2)
  const [, late] = sim.peers
  const isLate = ({ peer }: { peer: string }): boolean => peer === late!.peerId
  for (const [group, record] of sim.groups()) {
    const inSync = record.inSync.filter((entry) => !isLate(entry))
    const syncing = [{ peer: late!.peerId, boot: 'e'.repeat(32) }]
    const value = encodeRecord('group', { ...record, epoch: record.epoch + 1, inSync, syncing })
    await sim.metadata.transact({ success: [{ put: sim.keys.group(0, group), value }] })
  }
  await every(sim, 'it is in again', ({ inSync }) =>
    inSync.some((entry) => isLate(entry) && entry.boot === late!.boot!.bootId)
  )
})

test.run()
