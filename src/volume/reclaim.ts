import type { CutBranch } from '../cluster/bases.ts'
import { parseId64 } from '../cluster/ids.ts'
import type { MergedLayers } from '../cluster/layer-lines.ts'
import { deletedLayers } from '../cluster/layer-lines.ts'
import type { DeletedRecord, VolumeRecord } from '../cluster/records.ts'
import { type ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { type BlockOp, type BlockStore, OpKind } from '../replication/block-store.ts'

/** Drops every block of a deleted volume, durably. Doing it again changes nothing. */
export async function dropFamily(store: BlockStore, deleted: DeletedRecord): Promise<void> {
  const what = `deleted volume ${deleted.name}: a shard could not drop its blocks`
  for (const id of deletedLayers(deleted)) {
    const { high: layerHigh, low: layerLow } = parseId64(id)
    const layer = { kind: OpKind.DeleteLayer, layerHigh, layerLow, chunk: 0 }
    await broadcast(store, what, deleted.family, layer)
  }
  await answered(store, what, (done) => store.flush(done))
}

/** Tells the shards here that of these layers only the highest is read. */
export async function mergeLayers(
  store: BlockStore,
  volume: VolumeRecord,
  { branch, lowest, highest }: MergedLayers
): Promise<void> {
  const what = `volume ${volume.name}: a shard could not merge layers`
  const layers = { layerHigh: branch, layerLow: highest, chunk: lowest }
  await broadcast(store, what, volume.family, { kind: OpKind.MergeLayers, ...layers })
}

/** Tells the shards here that the branch has no base any more. */
export async function cutBase(store: BlockStore, cut: CutBranch): Promise<void> {
  const { family, layerHigh } = cut
  const branch = { layerHigh, layerLow: 0, chunk: 0 }
  const what = `family ${family}: a shard could not be told of the end of a base`
  await broadcast(store, what, family, { kind: OpKind.SetBase, ...branch })
}

type LayerOp = Pick<BlockOp, 'kind' | 'layerHigh' | 'layerLow' | 'chunk'>

/** An op about a whole layer, to all shards. */
async function broadcast(
  store: BlockStore,
  what: string,
  family: string,
  { kind, layerHigh, layerLow, chunk }: LayerOp
): Promise<void> {
  const { high, low } = parseId64(family)
  const op = store.acquireOp()
  op.kind = kind
  op.flags = 0
  op.familyHigh = high
  op.familyLow = low
  op.layerHigh = layerHigh
  op.layerLow = layerLow
  op.chunk = chunk
  op.firstBlock = 0
  op.blockCount = 0
  op.writerEpoch = 0
  op.sequence = 0
  op.payload = 0
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
