import type { Arena } from '../core/arena.ts'
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { OpFlag, OpKind, READ_VERSIONS_BLOCKS_MAX, VersionKind } from '../shard/op.ts'
import { BlockOp, copyRequest } from './block-store.ts'
import { askForTags, copyPages, takeTags } from './copied-tags.ts'
import type { Member } from './member.ts'
import { decodeHeld, type HeldRun } from './resync-plan.ts'

/** Blocks of one chunk, and under which epochs members are asked for them. */
export interface CopyRange {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
  readonly chunk: number
  readonly firstBlock: number
  readonly blockCount: number
  readonly pool: number
  readonly group: number
  readonly groupEpoch: number
  readonly fenceEpoch: number
}

export type CopyFailure = {
  readonly error: number
  /** The member that failed. */
  readonly member: Member
}

/** Carries `op` out on `member`; resolves with its error. */
function ask(member: Member, op: BlockOp): Promise<number> {
  return new Promise((resolve) => {
    op.onDone = () => resolve(op.error)
    member.submit(op)
    member.ring()
  })
}

function opOf(range: CopyRange, kind: number, first: number, count: number): BlockOp {
  const op = new BlockOp()
  op.kind = kind
  op.familyHigh = range.familyHigh
  op.familyLow = range.familyLow
  op.layerHigh = range.layerHigh
  op.layerLow = range.layerLow
  op.chunk = range.chunk
  op.firstBlock = first
  op.blockCount = count
  op.pool = range.pool
  op.group = range.group
  op.groupEpoch = range.groupEpoch
  op.fenceEpoch = range.fenceEpoch
  return op
}

/**
 * Copies what stands at `source` in a range to `targets`, with the versions that it has: where a
 * target has something newer that stays. Bytes and versions are of one moment. Null when done.
 */
export async function copyBlocks(
  arena: Arena,
  range: CopyRange,
  source: Member,
  targets: readonly Member[]
): Promise<CopyFailure | null> {
  const end = range.firstBlock + range.blockCount
  for (let first = range.firstBlock; first < end; first += READ_VERSIONS_BLOCKS_MAX) {
    const count = Math.min(READ_VERSIONS_BLOCKS_MAX, end - first)
    const pages = await pagesOf(arena, copyPages(count))
    try {
      const failure = await copyPart({ arena, pages, range, source, targets }, first, count)
      if (failure !== null) return failure
    } finally {
      arena.release(pages)
    }
  }
  return null
}

interface Part {
  readonly arena: Arena
  readonly pages: number
  readonly range: CopyRange
  readonly source: Member
  readonly targets: readonly Member[]
}

/** Bytes and versions of a part of a range, into pages as `copyPages` counts them. */
export async function readVersions(
  source: Member,
  range: CopyRange,
  { first, count, pages }: { first: number; count: number; pages: number }
): Promise<{ read: BlockOp; error: number }> {
  const read = opOf(range, OpKind.ReadVersions, first, count)
  read.payload = pages
  let error = await ask(source, read)
  if (error === ErrorCode.TagsWanted) {
    askForTags(read)
    error = await ask(source, read)
  }
  return { read, error }
}

async function copyPart(part: Part, first: number, count: number): Promise<CopyFailure | null> {
  const { arena, pages, range, source, targets } = part
  const { read, error } = await readVersions(source, range, { first, count, pages })
  if (error !== ErrorCode.Ok) return { error, member: source }
  const runs = decodeHeld(arena.bytes, pages, read.resultA)
  // The tags are brought together once, for the writes to all targets.
  const writes = runs.map((run) => {
    const op = copyOf(part, run, first)
    if (op.kind === OpKind.Write) takeTags(arena.bytes, read, op)
    return op
  })
  const results = await Promise.all(
    targets.map(async (member) => {
      const errors = await Promise.all(writes.map((write) => ask(member, again(write))))
      return { member, error: errors.find((each) => each !== ErrorCode.Ok) ?? ErrorCode.Ok }
    })
  )
  return results.find((result) => result.error !== ErrorCode.Ok) ?? null
}

/** The write that gives a target one run. */
function copyOf({ range, pages }: Part, run: HeldRun, first: number): BlockOp {
  const kinds: Record<number, number> = {
    [VersionKind.Data]: OpKind.Write,
    [VersionKind.Zeroes]: OpKind.WriteZeroes,
    [VersionKind.Hole]: OpKind.Trim
  }
  const op = opOf(range, kinds[run.kind] ?? OpKind.Trim, run.firstBlock, run.blockCount)
  if (run.kind === VersionKind.Zeroes) op.flags = OpFlag.NoHole
  if (run.kind === VersionKind.Hole) op.flags = OpFlag.KeepHole
  op.payload = pages + (1 + run.firstBlock - first) * BLOCK_BYTES
  op.writerEpoch = run.writerEpoch
  op.sequence = run.sequence
  return op
}

/** The same once more, for another member. */
function again(op: BlockOp): BlockOp {
  const copy = new BlockOp()
  copyRequest(op, copy)
  copy.pool = op.pool
  copy.group = op.group
  copy.groupEpoch = op.groupEpoch
  copy.fenceEpoch = op.fenceEpoch
  return copy
}

/** Waits until the arena has so many pages in a row. */
export async function pagesOf(arena: Arena, pages: number): Promise<number> {
  for (;;) {
    const offset = arena.acquire(pages)
    if (offset >= 0) return offset
    await new Promise<void>((resolve) => arena.onFree(resolve))
  }
}
