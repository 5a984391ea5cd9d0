/** A volume that a gateway has open for nobody's sake goes to the next that wants it. */
import { ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { failsWith } from '../helpers/volume-bench.ts'
import type { SimPeer } from './peer.ts'
import { QuietCluster } from './quiet.ts'
import { LIMIT_MS } from './scenario.ts'
import type { SimVolume } from './volume.ts'

const OPENS_MS = 10_000

class Gateways {
  readonly sim = new QuietCluster({ peers: 3, copies: 2 })

  acquire(
    { boot }: SimPeer,
    { record }: SimVolume,
    how: { waits?: boolean; onLost?: (why: string) => void } = {}
  ): Promise<number> {
    const { waits = false, onLost = () => {} } = how
    const acquired = boot!.writers!.acquire(record, { waits, onLost })
    return this.sim.world.until(OPENS_MS, 'the volume is open, or refused', acquired)
  }
}

test('it is offered, asked for and given; who keeps it, or waits, changes nothing', async () => {
  const gateways = new Gateways()
  const { sim } = gateways
  const { world } = sim
  const { volume, session } = await sim.open()
  const [first, second, third] = sim.peers as [SimPeer, SimPeer, SimPeer]
  const { record } = volume
  volume.release(session)
  await world.runUntil(world.nowMs + LIMIT_MS)
  const reasons: string[] = []
  const onLost = (why: string): void => {
    reasons.push(why)
    void first.boot!.writers!.release(record)
  }
  const epoch = await gateways.acquire(first, volume, { onLost })
  await rejects(gateways.acquire(second, volume), failsWith(ErrorCode.Busy))
  // Offered, and taken back before anybody came.
  first.boot!.writers!.offer(record, true)
  await world.runUntil(world.nowMs + 1000)
  first.boot!.writers!.offer(record, false)
  await world.runUntil(world.nowMs + 1000)
  await rejects(gateways.acquire(second, volume), failsWith(ErrorCode.Busy))
  first.boot!.writers!.offer(record, true)
  await world.runUntil(world.nowMs + 1000)
  await rejects(gateways.acquire(third, volume, { waits: true }), failsWith(ErrorCode.Busy))
  strictEqual(reasons.length, 0)
  ok((await gateways.acquire(second, volume)) > epoch)
  strictEqual(reasons.join(), 'wanted')
  // The offer went with the lease of who made it.
  await rejects(gateways.acquire(third, volume), failsWith(ErrorCode.Busy))
  const key = sim.keys.offer(record.family)
  strictEqual(await world.until(1000, 'the offer', sim.metadata.get(key)), null)
  sim.close()
})

test('it is offered under a lease that was taken anew, too', async () => {
  const gateways = new Gateways()
  const { sim } = gateways
  const { world } = sim
  const { volume, session } = await sim.open()
  const [first, second] = sim.peers as [SimPeer, SimPeer]
  const { record } = volume
  volume.release(session)
  await world.runUntil(world.nowMs + LIMIT_MS)
  const writers = first.boot!.writers!
  const epoch = await gateways.acquire(first, volume, {
    onLost: () => void writers.release(record)
  })
  writers.offer(record, true)
  const again = await world.until(OPENS_MS, 'it is taken anew', writers.retake(record))
  ok(again > epoch)
  await world.runUntil(world.nowMs + 1000)
  ok((await gateways.acquire(second, volume)) > again)
  sim.close()
})

test.run()
