/** R13: of members that are all down, one that ended cleanly has what one that lost power lacks. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { OpKind } from '../../src/replication/block-store.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'
import type { SimPeer } from './peer.ts'

const WAIT_MS = 8000
const LIMIT_MS = 15_000

async function endedSo(cleanEnds: number): Promise<QuietCluster> {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world } = sim
  const [dirty, clean] = sim.peers as [SimPeer, SimPeer]
  const { volume, session } = await sim.open()
  for (let end = 1; end < cleanEnds; end++) {
    await world.until(LIMIT_MS, 'p1 ends', clean.stopCleanly())
    clean.start()
    await world.runFor(LIMIT_MS, 'p1 serves', () => clean.boot?.writers != null)
    await world.runUntil(world.nowMs + 500)
  }
  for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
  await sim.ended(session, LIMIT_MS)
  await world.until(LIMIT_MS, 'p1 ends', clean.stopCleanly())
  dirty.crash(true)
  dirty.start()
  await world.runFor(LIMIT_MS, 'p0 serves', () => dirty.boot?.writers != null)
  return sim
}

for (const ends of [1, 2]) {
  test(`what it has not flushed is there again, and others wait for it (${ends})`, async () => {
    const sim = await endedSo(ends)
    const { world } = sim
    const [dirty, clean] = sim.peers as [SimPeer, SimPeer]
    const volume = sim.volumes[0]!
    volume.open(dirty.boot!, false)
    await world.runUntil(world.nowMs + WAIT_MS)
    for (const { inSync } of sim.groups().values()) {
      ok(inSync.every(({ peer }) => peer === clean.peerId))
    }
    clean.start()
    const live = (): boolean => volume.live.length > 0
    await world.runFor(LIMIT_MS, 'p0 serves the volume', live)
    for (let i = 0; i < 3 * REQUESTS; i++) volume.read(volume.live[0]!)
    await sim.ended(volume.live[0]!, LIMIT_MS)
    strictEqual(sim.errors.length, 0)
  })
}

test.run()
