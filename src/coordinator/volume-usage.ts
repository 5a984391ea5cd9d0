import { parseId64 } from '../cluster/ids.ts'
import { ErrorCode } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { ShardPool } from '../handoff/shard-pool.ts'
import { BlockOp, OpKind } from '../replication/block-store.ts'

/**
 * Bytes of data that each family has in the shards of this peer, as their indexes count them. All
 * null while a shard does not serve: what it holds is not known then.
 */
export async function bytesOfFamilies(
  pool: ShardPool<BlockOp>,
  families: readonly string[]
): Promise<(number | null)[]> {
  if (pool.clients.some(({ state }) => state !== 'serving')) return families.map(() => null)
  const answers = families.map((family) => {
    const { high, low } = parseId64(family)
    return pool.clients.map(
      (client) =>
        new Promise<number | null>((resolve) => {
          const op = new BlockOp()
          op.kind = OpKind.Usage
          op.familyHigh = high
          op.familyLow = low
          op.onDone = ({ error, resultA }) => resolve(error === ErrorCode.Ok ? resultA : null)
          client.submit(op)
        })
    )
  })
  pool.ring()
  return await Promise.all(
    answers.map(async (shards) =>
      (await Promise.all(shards)).reduce(
        (sum, blocks) => (sum === null || blocks === null ? null : sum + blocks * BLOCK_BYTES),
        0
      )
    )
  )
}
