import { parseId64 } from '../cluster/ids.ts'
import type { DeletedRecord } from '../cluster/records.ts'
import { type ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { type BlockStore, OpKind } from '../replication/block-store.ts'

/** Drops every block of a deleted volume, durably. Doing it again changes nothing. */
export async function dropFamily(store: BlockStore, deleted: DeletedRecord): Promise<void> {
  const family = parseId64(deleted.family)
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
    await answered(store, deleted.name, (done) => store.broadcast(op, done))
    store.releaseOp(op)
  }
  await answered(store, deleted.name, (done) => store.flush(done))
}

async function answered(
  store: BlockStore,
  name: string,
  ask: (done: (error: number) => void) => void
): Promise<void> {
  const error = await new Promise<number>((resolve) => {
    ask(resolve)
    store.ring()
  })
  if (error === 0) return
  const text = `deleted volume ${name}: a shard could not drop its blocks: ${errorCodeName(error)}`
  throw new StoreError(error as ErrorCode, text)
}
