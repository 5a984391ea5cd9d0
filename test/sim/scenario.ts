/** Steps of scenarios on a `QuietCluster`. */
import { strictEqual } from 'node:assert'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { type BlockOp, OpKind } from '../../src/replication/block-store.ts'
import type { SimPeer } from './peer.ts'
import type { QuietCluster } from './quiet.ts'
import { CHUNK_BLOCKS_USED, CHUNKS, type Session, type SimVolume } from './volume.ts'

export const LIMIT_MS = 15_000
/** Much more than segments hold, so that compaction comes to the oldest. */
const OVERWRITES = 600
/** Of each chunk: the test's own blocks, which are not overwritten. */
const OWN = { first: 0, count: 2 }

export const isIn = ({ inSync }: GroupRecord, { peerId }: SimPeer): boolean =>
  inSync.some(({ peer }) => peer === peerId)

/** Writes or trims the test's own blocks of all chunks. */
export function change(volume: SimVolume, session: Session, kind: number): void {
  for (let chunk = 0; chunk < CHUNKS; chunk++) volume.write(session, kind, { chunk, ...OWN })
}

/** Writes the other blocks again and again. */
export async function overwrite(
  sim: QuietCluster,
  volume: SimVolume,
  session: Session
): Promise<void> {
  for (let i = 0; i < OVERWRITES; i++) {
    volume.write(session, OpKind.Write, { chunk: i % CHUNKS, first: 2 + (i % 8), count: 2 })
    if (i % 20 === 0) await sim.ended(session, LIMIT_MS)
  }
  volume.flush(session)
  await sim.ended(session, LIMIT_MS)
}

/** The same within a moment, while a member is missing: nothing is answered yet. */
export async function overwriteUnanswered(
  sim: QuietCluster,
  volume: SimVolume,
  session: Session
): Promise<void> {
  const { world } = sim
  for (let i = 0; i < OVERWRITES / 2; i++) {
    volume.write(session, OpKind.Write, { chunk: i % CHUNKS, first: 2 + (i % 8), count: 2 })
    if (i % 20 > 0) continue
    session.boot.store!.ring()
    await world.runUntil(world.nowMs + 10)
    volume.flush(session)
  }
  await world.runUntil(world.nowMs + 200)
}

/** Waits until it holds of every group. */
export async function every(
  sim: QuietCluster,
  what: string,
  holds: (record: GroupRecord) => boolean
): Promise<void> {
  await sim.world.runFor(LIMIT_MS, what, () => [...sim.groups().values()].every(holds))
}

/** Reads all that is ever written: the volume checks what it sees. */
export async function readAll(
  sim: QuietCluster,
  volume: SimVolume,
  session: Session
): Promise<void> {
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    volume.read(session, { chunk, first: 0, count: CHUNK_BLOCKS_USED })
  }
  await sim.ended(session, LIMIT_MS)
  strictEqual(sim.errors.length, 0)
}

/** What writers send to the peer stays before its door until the returned function is called. */
export function holdWrites({ boot }: SimPeer): (isToGoOn?: boolean) => void {
  const service = boot!.service!
  const submit = service.submit.bind(service)
  const held: BlockOp[] = []
  service.submit = (op) => (op.kind === OpKind.Write ? held.push(op) : submit(op))
  return (isToGoOn = true) => {
    service.submit = submit
    if (!isToGoOn) return
    for (const op of held) submit(op)
    service.ring()
  }
}
