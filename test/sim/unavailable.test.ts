/** What requests do while no member of their group is up, in simulated time. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { SimCluster } from './cluster.ts'
import type { Session, SimVolume } from './volume.ts'

const REQUESTS = 20
const LIMIT_MS = 5000
/** A peer that is back is found, and what waited for it is sent. */
const RESUME_MS = 1500

/** Two peers and one copy: half of the groups are the other peer's alone. */
class Lonely extends SimCluster {
  readonly errors: number[] = []

  constructor() {
    super({ seed: 3, peers: 2, copies: 1, writeMinimum: 1, volumes: 1, groups: 2, engine: false })
  }

  override mayFail(error: number): boolean {
    this.errors.push(error)
    return true
  }

  async open(): Promise<{ volume: SimVolume; session: Session }> {
    await this.start()
    const volume = this.volumes[0]!
    volume.isQuiet = true
    volume.open(this.peers[0]!.boot!, false)
    await this.world.runFor(5000, 'the volume is open', () => volume.live.length > 0)
    const session = volume.live[0]!
    for (let i = 0; i < REQUESTS; i++) volume.write(session, OpKind.Write)
    await this.ended(session, 1000)
    volume.flush(session)
    await this.ended(session, 1000)
    return { volume, session }
  }

  ask(volume: SimVolume, session: Session): void {
    for (let i = 0; i < REQUESTS; i++) {
      volume.write(session, OpKind.Write)
      volume.read(session)
    }
    session.boot.store!.ring()
  }

  ended(session: Session, withinMs: number): Promise<void> {
    session.boot.store!.ring()
    return this.world.runFor(withinMs, 'requests are answered', () => session.inFlight === 0)
  }
}

test('requests wait for the only copy without limit, and go on when its peer is back', async () => {
  const sim = new Lonely()
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
  const sim = new Lonely()
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

test.run()
