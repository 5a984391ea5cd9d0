import { OpKind } from '../../src/replication/block-store.ts'
import { SimCluster } from './cluster.ts'
import type { Session, SimVolume } from './volume.ts'

/** Writes, and as many reads. */
export const REQUESTS = 20

/** A cluster whose clients do only what a test says, and may get errors. */
export class QuietCluster extends SimCluster {
  readonly errors: number[] = []

  constructor({ peers, copies }: { readonly peers: number; readonly copies: number }) {
    const writeMinimum = Math.ceil(copies / 2)
    const limits = { downAfterMs: 600_000, lateOneIn: 2 ** 32 - 1 }
    // With this seed both groups have chunks, and are on different peers if they have one copy.
    const size = { seed: 5, peers, copies, writeMinimum, volumes: 1, groups: 2 }
    super({ ...size, ...limits, engine: false, sealed: false, moves: false })
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
