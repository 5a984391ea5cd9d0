/** What a simulated volume's clients may see of a block. */
import type { SimCluster } from './cluster.ts'
import type { Boot } from './peer.ts'

export const CHUNKS = 3
export const CHUNK_BLOCKS_USED = 12
export const BLOCKS = CHUNKS * CHUNK_BLOCKS_USED

interface Write {
  readonly number: number
  readonly isZero: boolean
}

export class BlockModel {
  /** Writes that may be seen, by number, from the floor on. */
  writes: Write[] = [{ number: 0, isZero: true }]
  floor = 0
  /** What survives any power loss. */
  durable = 0
  /** When the last member that had what was unflushed was lost. */
  lostMs = 0
  /** Floors at which reads began that are on their way. */
  readonly reading: number[] = []
  /** Writes on their way, and who sent them. */
  readonly pending: Map<number, Session> = new Map()

  /** As it is now, for a view of its own: nothing that is under way comes to that. */
  copy(): BlockModel {
    const copy = new BlockModel()
    const { writes, floor, durable, lostMs } = this
    return Object.assign(copy, { writes: [...writes], floor, durable, lostMs })
  }

  /** Something that began at `sinceMs` at `session` showed that the write is there. */
  raise(number: number, sinceMs: number, session: Session): void {
    // One that waits at a gateway which took over may come after those of the gateway before.
    let least = number
    for (const [waiting, by] of this.pending) {
      if (by.epoch > session.epoch) least = Math.min(least, waiting)
    }
    // It may have been there before the loss, and told after it.
    if (least > this.floor && sinceMs > this.lostMs) this.floor = least
  }
  prune(): void {
    const lowest = Math.min(this.floor, this.durable, ...this.reading)
    if (this.writes.length > 8) {
      this.writes = this.writes.filter((write) => write.number >= lowest)
    }
  }
}

export interface BlockRange {
  readonly chunk: number
  readonly first: number
  readonly count: number
}

/** One open of the volume at one gateway. */
export interface Session {
  readonly boot: Boot
  epoch: number
  sequence: number
  isOver: boolean
  inFlight: number
  why: string
}

/** A snapshot, and what reads of it may show. */
export interface View {
  readonly layer: string
  readonly blocks: readonly BlockModel[]
  /** Branches below it. */
  readonly depth: number
  /** All that was acknowledged when it was taken is on the disks of members. */
  isFlushed: boolean
}

/** Whether a read may show the value: 0 for zeroes. */
export function checkRead(
  { sim, record }: { readonly sim: SimCluster; readonly record: { readonly name: string } },
  block: BlockModel,
  value: number,
  read: {
    readonly floor: number
    readonly sinceMs: number
    readonly session: Session
    readonly where: string
  }
): void {
  const { floor, sinceMs, session, where } = read
  const at = `${record.name}@${session.boot.place}`
  const fail = (why: string): void => {
    const low = `floor ${floor}, durable ${block.durable}`
    const seen = block.writes.map(({ number, isZero }) => `${number}${isZero ? 'z' : ''}`)
    sim.world.fail(`${at}: block ${where} reads ${value}: ${why} (${low}; ${seen.join(' ')})`)
  }
  // A power loss while the read was under way lets it see less.
  const least = Math.min(floor, block.floor)
  const found =
    value === 0
      ? block.writes.find(({ number, isZero }) => isZero && number >= least)
      : block.writes.find(({ number, isZero }) => number === value && !isZero)
  if (value < 0) fail('torn')
  else if (found === undefined) fail(value === 0 ? 'nobody zeroed it' : 'nobody wrote it')
  else if (found.number < least) fail('older than what was acknowledged or read before')
  else {
    if (found.number > block.floor) sim.world.log(`${at} sees ${value} at ${where}`)
    block.raise(found.number, sinceMs, session)
  }
}
