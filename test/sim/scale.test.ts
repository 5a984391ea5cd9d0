import { ok, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { defaultPool } from '../../src/cluster/pools.ts'
import { encodeRecord } from '../../src/cluster/records.ts'
import { METADATA_REQUEST_BYTES_MAX, RING_PEERS_MAX } from '../../src/core/limits.ts'
import { runScale } from './scale.ts'

const test = suite('a cluster of many peers')

test('40 peers: what moves is written, and nothing while nothing does', async () => {
  const { groups, keys, idle, loss, joining, largestValue } = await runScale(40)
  strictEqual(groups, 1024)
  // All groups, two keys a peer, and a few.
  ok(keys >= groups + 80 && keys < groups + 90, `${keys} keys`)
  ok(largestValue.bytes < 1024, `${largestValue.key} has ${largestValue.bytes} bytes`)
  strictEqual(idle.writes, 0)
  // Its copies: removed from, listed for and promoted in each group, and a few moves more.
  const copies = (groups * 3) / 40
  ok(loss.writes >= 3 * copies - 6 && loss.writes < 4.5 * copies, `${loss.writes} writes`)
  ok(joining.writes >= 2 * copies && joining.writes < 4.5 * copies, `${joining.writes} writes`)
})

test('what lists all peers of the largest ring fits a request to etcd twice', () => {
  const pendingPeers = Array.from({ length: RING_PEERS_MAX }, (_, at) =>
    at.toString(16).padStart(32, 'f')
  )
  const deleted = { ...{ v: 1 as const, family: 'f'.repeat(16), layers: ['a'.repeat(16)] } }
  const time = '2026-01-31T12:00:00.000Z'
  const values = [
    encodeRecord('deleted', { ...deleted, name: 'v', deletedAt: time, pendingPeers }),
    encodeRecord('restore', { v: 1, restoredAt: time, epochFloor: 1, pendingPeers }),
    encodeRecord('pool', { ...defaultPool(1, time), peers: pendingPeers })
  ]
  for (const { length } of values) ok(length < METADATA_REQUEST_BYTES_MAX / 2, `${length} bytes`)
})

test.run()
