/** What members in sync have differently in one chunk, and who is right: pure (R33). */
import { CHUNK_BLOCKS } from '../core/limits.ts'
import { VersionKind } from '../shard/op.ts'
import type { HeldRun } from './resync-plan.ts'

/** Blocks that differ alike: members by their place. */
export interface Difference {
  firstBlock: number
  blockCount: number
  /** Those that have the newest, best first. */
  readonly sources: readonly number[]
  readonly targets: readonly number[]
}

type Held = HeldRun | null

/** By block what each member has, as text: '' where they agree. */
export type Signatures = readonly string[]

/**
 * Blocks that members have in different versions, where `before` (an earlier look) has the same
 * difference: what is on its way from a client does not stand still. In a layer that stands on
 * others (`isStacked`) a hole is not the same as nothing.
 */
export function planDifferences(
  held: readonly (readonly HeldRun[])[],
  before: Signatures | null,
  isStacked = false
): { differences: Difference[]; signatures: Signatures } {
  const byBlock = held.map(spread)
  const signatures: string[] = []
  const differences: Difference[] = []
  for (let block = 0; block < CHUNK_BLOCKS; block++) {
    const found = byBlock.map((blocks) => blocks[block]!)
    const difference = differenceOf(found, isStacked)
    signatures.push(difference === null ? '' : found.map(textOf).join(' '))
    if (difference === null || before === null || before[block] !== signatures[block]) continue
    addDifference(differences, block, difference)
  }
  return { differences, signatures }
}

export interface BlockSum {
  readonly version: string
  readonly crc: number
  readonly isSealed: boolean
}

/**
 * Whose bytes of a block are right where all have data (null: it cannot be read there): the bytes
 * that most have, of as many those of the first, but of sealed ones nobody's (no sources): only
 * who has the key can tell which of them open, and a copy of the others would be the end of those.
 * Null when they agree, or have several versions.
 */
export function planBytes(
  sums: readonly (BlockSum | null | undefined)[]
): Pick<Difference, 'sources' | 'targets'> | null {
  const readable = sums.filter((sum) => sum !== null)
  const [first] = readable
  if (first === undefined || readable.some((sum) => sum?.version !== first.version)) return null
  const counts = new Map<number, number>()
  for (const sum of readable) counts.set(sum!.crc, (counts.get(sum!.crc) ?? 0) + 1)
  if (counts.size === 1 && readable.length === sums.length) return null
  const most = Math.max(...counts.values())
  const isTie = [...counts.values()].filter((count) => count === most).length > 1
  const right = readable.find((sum) => counts.get(sum!.crc) === most)!.crc
  const places = [...sums.keys()]
  if (isTie && readable.some((sum) => sum?.isSealed)) return { sources: [], targets: places }
  return {
    sources: places.filter((at) => sums[at]?.crc === right),
    targets: places.filter((at) => sums[at]?.crc !== right)
  }
}

export function addDifference(
  list: Difference[],
  block: number,
  { sources, targets }: Pick<Difference, 'sources' | 'targets'>
): void {
  const last = list.at(-1)
  const goesOn =
    last !== undefined &&
    last.firstBlock + last.blockCount === block &&
    last.sources.join() === sources.join() &&
    last.targets.join() === targets.join()
  if (goesOn) last.blockCount++
  else list.push({ firstBlock: block, blockCount: 1, sources, targets })
}

function spread(runs: readonly HeldRun[]): Held[] {
  const blocks = new Array<Held>(CHUNK_BLOCKS).fill(null)
  for (const run of runs) blocks.fill(run, run.firstBlock, run.firstBlock + run.blockCount)
  return blocks
}

/** Null where members agree: one has a hole where another has nothing, too. */
function differenceOf(
  found: readonly Held[],
  isStacked: boolean
): Pick<Difference, 'sources' | 'targets'> | null {
  let best: Held = null
  for (const run of found) if (isBetter(run, best)) best = run
  if (best === null) return null
  const newest = best
  const isRight = (run: Held): boolean =>
    run === null
      ? !isStacked && newest.kind === VersionKind.Hole
      : run.kind === VersionKind.Hole
        ? newest.kind === VersionKind.Hole
        : run.kind === newest.kind && compare(run, newest) === 0
  if (found.every(isRight)) return null
  const places = [...found.keys()]
  return {
    sources: places.filter((at) => {
      const run = found[at]!
      return run !== null && run.kind === newest.kind && compare(run, newest) === 0
    }),
    targets: places.filter((at) => !isRight(found[at]!))
  }
}

const compare = (one: HeldRun, other: HeldRun): number =>
  one.writerEpoch - other.writerEpoch || one.sequence - other.sequence

/** Of one version data comes before marks: kinds are in that order. */
function isBetter(run: Held, best: Held): boolean {
  if (run === null || best === null) return run !== null
  const order = compare(run, best)
  return order > 0 || (order === 0 && run.kind < best.kind)
}

const textOf = (run: Held): string =>
  run === null ? '-' : `${run.kind}:${run.writerEpoch}.${run.sequence}`
