/** What a resync has to do about one chunk: a pure decision (PROTOCOL.md, R20). */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { VERSION_RUN_BYTES, VersionKind } from '../shard/op.ts'
import type { VoidEntry } from './shard-questions.ts'

/** Blocks of one version and kind, see VERSION_RUN_BYTES. */
export interface HeldRun {
  readonly firstBlock: number
  readonly blockCount: number
  readonly kind: number
  readonly writerEpoch: number
  readonly sequence: number
}

export interface ChunkPlan {
  /** To be durable before anything else is done. */
  readonly voids: VoidEntry[]
  /** Zeroes and holes that the target lacks. */
  readonly marks: HeldRun[]
  /** Data that the target lacks. */
  readonly copies: { firstBlock: number; blockCount: number }[]
  /** Blocks of which the target has a version that may still reach the source. */
  leftBlocks: number
  /** The oldest writerEpoch among those; 0 for none. */
  leftEpoch: number
}

export function decodeHeld(data: Buffer, start: number, count: number): HeldRun[] {
  const runs: HeldRun[] = []
  for (let at = start; at < start + count * VERSION_RUN_BYTES; at += VERSION_RUN_BYTES) {
    runs.push({
      firstBlock: data.readUInt16LE(at),
      blockCount: data.readUInt16LE(at + 2),
      kind: data.readUInt32LE(at + 4),
      writerEpoch: data.readUInt32LE(at + 8),
      sequence: data.readUInt32LE(at + 16) + data.readUInt32LE(at + 20) * 2 ** 32
    })
  }
  return runs
}

/**
 * The source is the authority for versions of writers before `settledEpoch`: what it lacks of
 * them nobody was ever told of. A hole in a layer that stands on others (`isStacked`) hides what
 * these have: it is as good as data.
 */
export function planChunk(
  source: readonly HeldRun[],
  target: readonly HeldRun[],
  settledEpoch: number,
  isStacked = false
): ChunkPlan {
  const plan: ChunkPlan = { voids: [], marks: [], copies: [], leftBlocks: 0, leftEpoch: 0 }
  const theirs = byBlock(source)
  const ours = byBlock(target)
  for (let block = 0; block < CHUNK_BLOCKS; block++) {
    const their = theirs[block]!
    const our = ours[block]!
    const order = compare(their, our)
    if (order === 0 || isEmpty(their, our, isStacked)) continue
    if (order < 0) {
      if (our!.writerEpoch >= settledEpoch) {
        plan.leftBlocks++
        plan.leftEpoch = Math.min(plan.leftEpoch || our!.writerEpoch, our!.writerEpoch)
        continue
      }
      addVoid(plan.voids, block, our!, their)
    }
    if (their === null) continue
    if (their.kind === VersionKind.Data) addCopy(plan.copies, block)
    else addMark(plan.marks, block, their)
  }
  return plan
}

function byBlock(runs: readonly HeldRun[]): (HeldRun | null)[] {
  const blocks = new Array<HeldRun | null>(CHUNK_BLOCKS).fill(null)
  for (const run of runs) blocks.fill(run, run.firstBlock, run.firstBlock + run.blockCount)
  return blocks
}

/** Above 0 when `their` is newer. */
function compare(their: HeldRun | null, our: HeldRun | null): number {
  if (their === null || our === null) return (their === null ? 0 : 1) - (our === null ? 0 : 1)
  return their.writerEpoch - our.writerEpoch || their.sequence - our.sequence
}

/** We have a hole that they have, or need, no more. */
const isEmpty = (their: HeldRun | null, our: HeldRun | null, isStacked: boolean): boolean =>
  our?.kind === VersionKind.Hole &&
  ((their === null && !isStacked) || (their?.kind === VersionKind.Hole && compare(their, our) < 0))

/** A void goes down to what the source has: what ours replaced here may be as unknown there. */
function addVoid(voids: VoidEntry[], block: number, our: HeldRun, their: HeldRun | null): void {
  const entry: VoidEntry = {
    firstBlock: block,
    blockCount: 1,
    writerEpoch: our.writerEpoch,
    sequence: our.sequence,
    floorEpoch: their?.writerEpoch ?? 0,
    floorSequence: their?.sequence ?? 0
  }
  const last = voids.at(-1)
  const goesOn =
    last !== undefined &&
    last.firstBlock + last.blockCount === block &&
    last.writerEpoch === entry.writerEpoch &&
    last.sequence === entry.sequence &&
    last.floorEpoch === entry.floorEpoch &&
    last.floorSequence === entry.floorSequence
  if (goesOn) voids[voids.length - 1] = { ...last, blockCount: last.blockCount + 1 }
  else voids.push(entry)
}

function addCopy(copies: { firstBlock: number; blockCount: number }[], block: number): void {
  const last = copies.at(-1)
  if (last !== undefined && last.firstBlock + last.blockCount === block) last.blockCount++
  else copies.push({ firstBlock: block, blockCount: 1 })
}

function addMark(marks: HeldRun[], block: number, their: HeldRun): void {
  const last = marks.at(-1)
  const goesOn =
    last !== undefined &&
    last.firstBlock + last.blockCount === block &&
    last.kind === their.kind &&
    compare(last, their) === 0
  if (goesOn) marks[marks.length - 1] = { ...last, blockCount: last.blockCount + 1 }
  else marks.push({ ...their, firstBlock: block, blockCount: 1 })
}
