import { parseId64 } from '../cluster/ids.ts'
import type { DeletedRecord, VolumeRecord } from '../cluster/records.ts'
import { type ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { type BlockStore, OpKind } from '../replication/block-store.ts'
import type { MergedLayers } from './layer-merger.ts'

/** Drops every block of a deleted volume, durably. Doing it again changes nothing. */
export async function dropFamily(store: BlockStore, deleted: DeletedRecord): Promise<void> {
  const family = parseId64(deleted.family)
  const what = `deleted volume ${deleted.name}: a shard could not drop its blocks`
  for (const id of deleted.layers) {
    const layer = parseId64(id)
    const op = store.acquireOp()
    op.kind = OpKind.DeleteLayer
    op.flags = 0
    op.familyHigh = family.high
    op.familyLow = family.low
    op.layerHigh = layer.high
    op.layerLow = layer.low
    op.chunk = 0
    op.firstBlock = 0
    op.blockCount = 0
    op.writerEpoch = 0
    op.sequence = 0
    op.payload = 0
    await answered(store, what, (done) => store.broadcast(op, done))
    store.releaseOp(op)
  }
  await answered(store, what, (done) => store.flush(done))
}

/** Tells the shards here that of these layers only the highest is read. */
export async function mergeLayers(
  store: BlockStore,
  volume: VolumeRecord,
  { branch, lowest, highest }: MergedLayers
): Promise<void> {
  const family = parseId64(volume.family)
  const op = store.acquireOp()
  op.kind = OpKind.MergeLayers
  op.flags = 0
  op.familyHigh = family.high
  op.familyLow = family.low
  op.layerHigh = branch
  op.layerLow = highest
  op.chunk = lowest
  op.firstBlock = 0
  op.blockCount = 0
  op.writerEpoch = 0
  op.sequence = 0
  op.payload = 0
  const what = `volume ${volume.name}: a shard could not merge layers`
  await answered(store, what, (done) => store.broadcast(op, done))
  store.releaseOp(op)
}

async function answered(
  store: BlockStore,
  what: string,
  ask: (done: (error: number) => void) => void
): Promise<void> {
  const error = await new Promise<number>((resolve) => {
    ask(resolve)
    store.ring()
  })
  if (error === 0) return
  throw new StoreError(error as ErrorCode, `${what}: ${errorCodeName(error)}`)
}
