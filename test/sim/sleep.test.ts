/** R26: a gateway whose machine slept has nothing to say of what was before. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { REPLICATION_TICK_MS } from '../../src/core/limits.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { TTL_MS } from './peer.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'
import { LIMIT_MS } from './scenario.ts'

/** Longer than it takes to replace it. */
const SLEEP_MS = 8 * TTL_MS
/** Longer than what members confirmed counts. */
const AWAKE_MS = 1000

/**
 * A gateway sleeps, with its monotonic clock, while another one takes over and writes. What it
 * answers when it wakes, from its own disk, is old, and it has nothing to flush. Before that it
 * serves for `aloneMs` without the metadata, and nobody asks it anything for `idleMs`.
 */
async function readAfterSleep(aloneMs: number, idleMs = 0): Promise<void> {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  const { world, network, peers } = sim
  const { volume, session } = await sim.open()
  const { process } = session.boot
  const readMuch = (): void => {
    for (let i = 0; i < REQUESTS; i++) volume.read(session)
    session.boot.store!.ring()
  }
  const cut = (place: string): void => {
    network.cut('p0', place)
    network.cut(place, 'p0')
  }
  cut('metadata')
  const cutMs = world.nowMs
  while (world.nowMs < cutMs + aloneMs) {
    readMuch()
    await world.runUntil(world.nowMs + 50)
  }
  const before = volume.reads
  readMuch()
  await sim.ended(session, LIMIT_MS)
  ok(volume.reads > before, 'it serves until it sleeps')
  await world.runUntil(world.nowMs + idleMs)
  cut('p1')
  const wakesMs = world.nowMs + SLEEP_MS
  process.sleep(SLEEP_MS)
  // The first thing that it does when it wakes.
  const { reads: served } = volume
  let flushes = 0
  process.at(world.nowMs, () => {
    readMuch()
    volume.flush(session, () => flushes++)
  })
  const next = await sim.openAt(peers.indexOf(peers[1]!), volume)
  for (let i = 0; i < 3 * REQUESTS; i++) volume.write(next, OpKind.Write)
  await sim.ended(next, LIMIT_MS)
  ok(world.nowMs < wakesMs, 'it sleeps still')
  strictEqual(volume.reads, served)
  await world.runUntil(wakesMs + AWAKE_MS)
  strictEqual(volume.reads, served)
  strictEqual(flushes, 0, 'what the next one wrote is not flushed')
}

test('its lease does not count, whatever is left of it by its own clock', async () => {
  await readAfterSleep(0)
})

test('nor does what members confirmed before', async () => {
  await readAfterSleep(2 * TTL_MS)
})

test('nor does what it looked at for itself before', async () => {
  await readAfterSleep(0, 3 * REPLICATION_TICK_MS)
})

test.run()
