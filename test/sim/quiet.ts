import { OpKind } from '../../src/replication/block-store.ts'
import { SimCluster } from './cluster.ts'
import type { Session, SimVolume } from './volume.ts'

/** Writes, and as many reads. */
export const REQUESTS = 20

/** A lease has to end first, and who might still trust it. */
const OPEN_MS = 30_000

/** A cluster whose clients do only what a test says, and may get errors. */
export class QuietCluster extends SimCluster {
  readonly errors: number[] = []

  constructor(options: {
    readonly peers: number
    readonly copies: number
    volumes?: number
    engine?: boolean
    ttlMs?: number
  }) {
    const { peers, copies, volumes = 1, engine = false, ttlMs } = options
    const writeMinimum = Math.ceil(copies / 2)
    const limits = { downAfterMs: 600_000, lateOneIn: 2 ** 32 - 1 }
    // With this seed both groups have chunks, also the upper halves of what they are split into,
    // and are on different peers if they have one copy.
    const size = { seed: 11, peers, copies, writeMinimum, volumes, groups: 2 }
    super({ ...size, ...limits, ttlMs, engine, sealed: false, moves: false })
  }

  override mayFail(error: number): boolean {
    this.errors.push(error)
    return true
  }

  /** Opens a volume at a peer, which takes it from another one. */
  async openAt(peer: number, volume: SimVolume): Promise<Session> {
    const boot = this.peers[peer]!.boot!
    const session = (): Session | undefined => volume.live.find((each) => each.boot === boot)
    volume.isQuiet = true
    volume.open(boot, true)
    await this.world.runFor(OPEN_MS, 'the volume is open', () => session() !== undefined)
    return session()!
  }

  async open(): Promise<{ volume: SimVolume; session: Session }> {
    await this.start()
    const volume = this.volumes[0]!
    const session = await this.openAt(0, volume)
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
