/** What requests do while no member of their group is up, in simulated time. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { encodeRecord } from '../../src/cluster/records.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'

const LIMIT_MS = 5000
/** A peer that is back is found, and what waited for it is sent. */
const RESUME_MS = 1500
const isOfDisk = new Set<number>([ErrorCode.DiskFailure, ErrorCode.ShardFailed])

/** Two peers and one copy: half of the groups are the other peer's alone. */
const lonely = (): QuietCluster => new QuietCluster({ peers: 2, copies: 1 })

test('requests wait for the only copy without limit, and go on when its peer is back', async () => {
  const sim = lonely()
  const { world } = sim
  const { volume, session } = await sim.open()
  sim.peers[1]!.crash(false)
  sim.ask(volume, session)
  await world.runUntil(world.nowMs + 10 * 60_000)
  ok(session.inFlight > 0 && session.inFlight < 2 * REQUESTS, `${session.inFlight} wait`)
  sim.peers[1]!.start()
  await sim.ended(session, RESUME_MS)
  strictEqual(sim.errors.length, 0)
})

test('with a limit they fail at it, also what waits already, and the volume goes on', async () => {
  const sim = lonely()
  const { world } = sim
  const { volume, session } = await sim.open()
  sim.peers[1]!.crash(false)
  sim.ask(volume, session)
  await world.runUntil(world.nowMs + 60_000)
  strictEqual(sim.errors.length, 0)
  // Set while they wait.
  session.boot.writers!.noteChange({ ...volume.record, unavailableMs: LIMIT_MS })
  await sim.ended(session, 500)
  ok(sim.errors.length > 0 && sim.errors.every((error) => error === ErrorCode.NoQuorum))
  const before = sim.errors.length
  sim.ask(volume, session)
  await world.runUntil(world.nowMs + LIMIT_MS - 500)
  strictEqual(sim.errors.length, before)
  await sim.ended(session, 1000)
  const failed = sim.errors.length
  ok(failed > before)
  sim.peers[1]!.start()
  await world.runUntil(world.nowMs + RESUME_MS)
  // Every read is checked: what failed may have been written, and is there or not for ever.
  for (let round = 0; round < 5; round++) {
    sim.ask(volume, session)
    await sim.ended(session, RESUME_MS)
  }
  strictEqual(sim.errors.length, failed)
})

test('R48: what failed by an old record is tried by the newest one before it is told', async () => {
  const sim = lonely()
  const { world } = sim
  const { volume, session } = await sim.open()
  const member = sim.peers[1]!
  member.disk.fail('write')
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  session.boot.store!.ring()
  // It hears that they failed, and that the member started anew, in one moment.
  const sleepMs = 1500
  session.boot.process.sleep(sleepMs)
  await world.runUntil(world.nowMs + 100)
  member.disk.fail('nothing')
  member.crash(false)
  member.start()
  await world.runUntil(world.nowMs + sleepMs)
  await sim.ended(session, RESUME_MS)
  strictEqual(sim.errors.length, 0)
  ok(!session.isOver)
})

test('a write that the newest record cannot help either fails', async () => {
  const sim = lonely()
  const { volume, session } = await sim.open()
  sim.peers[1]!.disk.fail('write')
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, RESUME_MS)
  ok(sim.errors.length > 0 && sim.errors.every((error) => isOfDisk.has(error)), sim.errors.join())
})

/** As a gateway beside does that cannot reach its member. */
async function takeOut(sim: QuietCluster, peer: string): Promise<void> {
  const { metadata, keys } = sim
  for (const [index, record] of [...sim.groups()]) {
    const inSync = record.inSync.filter((entry) => entry.peer !== peer)
    const value = encodeRecord('group', { ...record, epoch: record.epoch + 1, inSync })
    await metadata.transact({ success: [{ put: keys.group(0, index), value }] })
  }
}

test('R10: reads do not show a write that failed', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world, peers, network } = sim
  const { volume, session } = await sim.open()
  const [here, there] = peers.map(({ name }) => name) as [string, string]
  network.cut(here, there)
  network.cut(there, here)
  session.boot.members.breakAll()
  const before = sim.errors.length
  for (let i = 0; i < 2 * REQUESTS; i++) volume.write(session, OpKind.Write)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 20)
  // They have the bytes, of the gateway's own disk, and are not answered.
  for (let i = 0; i < 2 * REQUESTS; i++) volume.read(session)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 20)
  peers[1]!.disk.fail('write')
  await takeOut(sim, peers[0]!.peerId)
  network.healAll()
  await sim.ended(session, RESUME_MS)
  const failed = sim.errors.length - before
  strictEqual(failed, 2 * REQUESTS, 'the writes failed, and no read')
  for (let i = 0; i < 2 * REQUESTS; i++) volume.read(session)
  await sim.ended(session, RESUME_MS)
  strictEqual(sim.errors.length - before, failed)
})

test.run()
