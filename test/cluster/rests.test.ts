import * as assert from 'uvu/assert'
import { suite } from 'uvu'
import type { KnownGroup } from '../../src/cluster/groups.ts'
import { Rests } from '../../src/cluster/rests.ts'

const test = suite('rests')

const [A, B] = ['a'.repeat(32), 'b'.repeat(32)]
let revision = 1

/** A group that is to be at A and B, with these in sync and syncing. */
function groupWith(inSync: string[], syncing: string[], members = [A, B]): KnownGroup {
  const entryOf = (peer: string): { peer: string; boot: string } => ({ peer, boot: 'c'.repeat(32) })
  const record = {
    v: 1 as const,
    epoch: revision,
    members,
    inSync: inSync.map(entryOf),
    syncing: syncing.map(entryOf)
  }
  return { record, modRevision: revision++ }
}

test('who is taken out of a group that is to have it gets nothing for a second', () => {
  const rests = new Rests()
  rests.note(groupWith([A, B], []), groupWith([A], []), 5000)
  assert.ok(rests.isResting(B, 5999))
  assert.not(rests.isResting(B, 6000))
  assert.not(rests.isResting(A, 5000))
})

test('who leaves because the group goes elsewhere does not rest', () => {
  const rests = new Rests()
  rests.note(groupWith([A, B], []), groupWith([A], [], [A]), 5000)
  assert.not(rests.isResting(B, 5000))
})

test('who is made to sync again does not rest, and who could not sync rests for longer', () => {
  const rests = new Rests()
  rests.note(groupWith([A, B], []), groupWith([A], [B]), 5000)
  assert.not(rests.isResting(B, 5000))
  rests.note(groupWith([A], [B]), groupWith([A], []), 6000)
  assert.ok(rests.isResting(B, 6999))
  rests.note(groupWith([A], [B]), groupWith([A], []), 7500)
  assert.ok(rests.isResting(B, 9499))
  assert.not(rests.isResting(B, 9500))
  rests.note(groupWith([A], [B]), groupWith([A, B], []), 9600)
  rests.note(groupWith([A, B], []), groupWith([A], []), 9700)
  assert.ok(rests.isResting(B, 10_699))
  assert.not(rests.isResting(B, 10_700), 'it was in sync in between')
})

test.run()
