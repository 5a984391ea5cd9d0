/** R15: what a writer sent before it was replaced, and comes after that, changes nothing. */
import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { OpKind } from '../../src/replication/block-store.ts'
import { heldByMembers } from './held.ts'
import type { SimPeer } from './peer.ts'
import { QuietCluster } from './quiet.ts'
import { LIMIT_MS } from './scenario.ts'
import { CHUNK_BLOCKS_USED, CHUNKS } from './volume.ts'

test('a member that was told nothing else of the new writer refuses the old one', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { network, peers, world } = sim
  const { volume } = await sim.open()
  const [group, record] = [...sim.groups()][0]!
  const isIn = ({ peerId }: SimPeer): boolean => record.inSync.some(({ peer }) => peer === peerId)
  // One that is no member: it does not have to leave.
  const at = peers.findIndex((peer) => !isIn(peer))
  const [next, late] = peers.filter(isIn) as [SimPeer, SimPeer]
  const old = await sim.openAt(at, volume)
  const chunks = Array.from({ length: CHUNKS }, (_, chunk) => chunk)
  const chunk = chunks.find((each) => volume.groupOf(each * CHUNK_BLOCKS_USED) === group)!
  const write = (): void => volume.write(old, OpKind.Write, { first: 0, count: 2, chunk })
  write()
  await sim.ended(old, LIMIT_MS)
  // What it sends from now on is under way all the time.
  for (const place of [next.name, late.name, 'metadata']) network.cut(peers[at]!.name, place)
  write()
  old.boot.store!.ring()
  await world.runUntil(world.nowMs + 10)
  await sim.openAt(peers.indexOf(next), volume)
  strictEqual(sim.groups().get(group)!.epoch, record.epoch, 'nobody had to leave')
  network.heal(peers[at]!.name, late.name)
  await world.runUntil(world.nowMs + 1000)
  await heldByMembers(sim, (each, [one, other]) => {
    if (each === group) deepStrictEqual(other, one)
  })
})

test.run()
