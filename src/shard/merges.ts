/**
 * Which layers of this shard nobody reads but through a higher one. The index forgets what is
 * hidden in them bit by bit (`IndexMerges`), and no record says so: an older checkpoint may still
 * have it, with a place in a segment that is gone since. By this file recovery knows that this is
 * no loss.
 */
import { ErrorCode, storeErrorOf } from '../core/errors.ts'
import { layerNumber } from '../core/layer-ids.ts'
import { MERGES_MAX } from '../core/limits.ts'
import { decodeMerges, encodeMerges, type MergeRun } from '../format/merges.ts'
import type { ExtentIndex } from './extent-index.ts'
import type { ShardOp } from './op.ts'
import { replaceFile } from './replace-file.ts'
import type { ShardConfig, ShardHost } from './shard-config.ts'
import { readShardTable } from './shard-table.ts'

const MERGES_NAME = 'merges'

export class Merges {
  private readonly config: ShardConfig
  private readonly host: ShardHost
  private runs: readonly MergeRun[] = []

  /** @throws StoreError Corrupt, UnknownVersion, DiskFailure */
  constructor(config: ShardConfig, host: ShardHost) {
    this.config = config
    this.host = host
    this.runs = readShardTable(host.files, MERGES_NAME, config, decodeMerges)
  }

  /** The index was recovered: what is hidden in it goes again, and what it lacks at once. */
  applyTo(index: ExtentIndex, lost: number): void {
    // Of volumes that are gone there is nothing; the next write of the file leaves them out.
    this.runs = this.runs.filter(({ familyHigh, familyLow, layerHigh, highest }) =>
      index.hasOfBranch(familyHigh, familyLow, layerHigh, highest)
    )
    for (const run of this.runs) index.merges.add({ ...run, layerLow: run.highest }, run.lowest)
    if (this.runs.length > 0) index.dropHiddenFrom(lost)
  }

  /** The layer may be in a checkpoint, though the index forgot it. */
  mayHide({ familyHigh, familyLow, layerHigh, layerLow }: ShardOp): boolean {
    const number = layerNumber(layerLow)
    return this.runs.some(
      (run) =>
        run.familyLow === familyLow &&
        run.familyHigh === familyHigh &&
        run.layerHigh === layerHigh &&
        layerNumber(run.lowest) <= number &&
        number < layerNumber(run.highest)
    )
  }

  /** Carries out the op: known for good, then begun. */
  add(op: ShardOp, index: ExtentIndex): void {
    const { familyHigh, familyLow, layerHigh, layerLow: highest, chunk: lowest } = op
    const run = { familyHigh, familyLow, layerHigh, lowest, highest }
    if (layerNumber(lowest) >= layerNumber(highest)) {
      op.error = layerNumber(lowest) > layerNumber(highest) ? ErrorCode.InvalidArgument : 0
      return
    }
    const runs = withRun(this.runs, run)
    if (runs.length > MERGES_MAX) {
      op.error = ErrorCode.LimitReached
      return
    }
    try {
      if (runs !== this.runs) this.write(runs)
    } catch (thrown) {
      const error = storeErrorOf(thrown)
      op.error = error.code
      this.host.log('error', 'a merge of layers could not be recorded', { why: error.message })
      return
    }
    this.runs = runs
    index.merges.add({ familyHigh, familyLow, layerHigh, layerLow: highest }, lowest)
  }

  private write(runs: readonly MergeRun[]): void {
    const { files } = this.host
    const { clusterId, peerId, shard } = this.config
    replaceFile(files, MERGES_NAME, encodeMerges({ clusterId, peerId, shard, runs }))
    files.syncDirectory()
  }
}

/** Those that the new one covers go; the same list where it says nothing new. */
function withRun(runs: readonly MergeRun[], added: MergeRun): readonly MergeRun[] {
  const [low, high] = [layerNumber(added.lowest), layerNumber(added.highest)]
  const isOf = (run: MergeRun): boolean =>
    run.familyLow === added.familyLow &&
    run.familyHigh === added.familyHigh &&
    run.layerHigh === added.layerHigh
  for (const run of runs) {
    const isKnown = layerNumber(run.lowest) <= low && layerNumber(run.highest) === high
    if (isOf(run) && isKnown) return runs
  }
  const kept = runs.filter((run) => {
    const isInside = layerNumber(run.lowest) >= low && layerNumber(run.highest) <= high
    return !(isOf(run) && isInside)
  })
  return [...kept, added]
}
