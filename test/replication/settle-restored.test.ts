import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { NO_BOOT } from '../../src/cluster/groups.ts'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { decideRestored } from '../../src/replication/settle-restored.ts'

const [a, b, c] = ['a', 'b', 'c'].map((digit) => digit.repeat(32)) as [string, string, string]
const entry = (peer: string, boot: string = NO_BOOT) => ({ peer, boot })
const boot = (peer: string) => ({ peerId: peer, bootId: `${peer.slice(1)}0` })

const record = (restored: Partial<NonNullable<GroupRecord['restored']>>): GroupRecord => ({
  v: 1,
  epoch: 1000,
  members: [a, b],
  inSync: [entry(a), entry(b)],
  syncing: [entry(c)],
  restored: { epoch: 7, unproven: [a, b, c], proven: [], behind: [], ...restored }
})

test('R31: a group is used once all that it lists remember nothing newer', () => {
  let known = record({})
  for (const peer of [a, b, c]) {
    const change = decideRestored(known, boot(peer), peer === b ? 7 : 3)!
    if (peer !== c) deepStrictEqual(change.inSync, [entry(a), entry(b)])
    else {
      strictEqual(change.restored, null)
      deepStrictEqual(change.inSync, [entry(a, boot(a).bootId), entry(b, boot(b).bootId)])
      deepStrictEqual(change.syncing, [entry(c, boot(c).bootId)])
    }
    known = { ...known, restored: change.restored ?? known.restored }
  }
})

test('R31: one that remembers a newer epoch keeps the group from being used', () => {
  const known = record({ unproven: [b], proven: [entry(a, 'e'.repeat(32))] })
  const change = decideRestored(known, boot(b), 8)!
  deepStrictEqual(change.restored?.behind, [{ peer: b, epoch: 8 }])
  deepStrictEqual(change.inSync, known.inSync)
  const later = { ...known, restored: change.restored! }
  strictEqual(decideRestored(later, boot(b), 8), null)
  strictEqual(decideRestored(later, boot(a), 7)?.restored?.behind.length, 1)
})

test('R31: a peer that the record does not list speaks up when it remembers more', () => {
  const known = { ...record({ unproven: [] }), syncing: [] }
  strictEqual(decideRestored(known, boot(c), 7), null)
  deepStrictEqual(decideRestored(known, boot(c), 9)?.restored?.behind, [{ peer: c, epoch: 9 }])
})

test('a group that was not restored needs no word', () => {
  const { restored: _, ...known } = record({})
  strictEqual(decideRestored(known, boot(a), 2000), null)
})

test.run()
