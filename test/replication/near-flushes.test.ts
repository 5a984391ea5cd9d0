import { strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import type { ShardClient } from '../../src/handoff/shard-client.ts'
import type { BlockOp } from '../../src/replication/block-store.ts'
import { NearFlushes } from '../../src/replication/near-flushes.ts'

const test = suite('near flushes')

/** A client of a shard whose flushes take `flushMs`. */
function clientOf(flushMs: number): ShardClient<BlockOp> {
  const stand = {
    state: 'serving',
    inFlightCount: 0,
    rounds: { isRunning: false, note: () => {} },
    submit: (op: BlockOp) => setTimeout(() => op.onDone(op), flushMs)
  }
  return stand as unknown as ShardClient<BlockOp>
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

test('on a slow disk the worker is not kept from reads by one flush after the other', async () => {
  const client = clientOf(30)
  const flushes = new NearFlushes(() => {})
  let byWorker = 0
  for (let flush = 0; flush < 8; flush++) {
    await new Promise<void>((resolve) => {
      if (flushes.take(client, () => resolve())) byWorker++
      else void sleep(30).then(resolve)
    })
    flushes.pause(performance.now()) // a read came: that makes no pause shorter
  }
  strictEqual(byWorker, 1)
})

test.run()
