import { ok, strictEqual } from 'node:assert/strict'
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

/** A client whose flushes end when told to. */
function slowClient(): { client: ShardClient<BlockOp>; submitted: BlockOp[]; end(): void } {
  const submitted: BlockOp[] = []
  const stand = {
    state: 'serving',
    inFlightCount: 0,
    rounds: { isRunning: false, note: () => {} },
    submit: (op: BlockOp) => submitted.push(op)
  }
  const end = (): void => {
    const op = submitted.pop()!
    op.onDone(op)
  }
  return { client: stand as unknown as ShardClient<BlockOp>, submitted, end }
}

/** A change and the flush behind it, several times: from then on both come together. */
function pairUp(flushes: NearFlushes, { client, submitted, end }: ReturnType<typeof slowClient>) {
  for (let pair = 0; pair < 4; pair++) {
    flushes.noteChange()
    flushes.changeDone(client)
    strictEqual(submitted.length, 0)
    flushes.noteFlush()
    ok(flushes.take(client, () => {}))
    end()
  }
}

test('a change that a flush will follow is synced at once, and the flush waits for that', () => {
  const rig = slowClient()
  const flushes = new NearFlushes(() => ok(false, 'no other flush is needed'))
  pairUp(flushes, rig)
  flushes.noteChange()
  flushes.changeDone(rig.client)
  strictEqual(rig.submitted.length, 1)
  let answered = 0
  flushes.noteFlush()
  ok(flushes.take(rig.client, () => answered++))
  strictEqual(answered, 0)
  strictEqual(rig.submitted.length, 1)
  rig.end()
  strictEqual(answered, 1)
})

test('a flush behind a change that began during such a sync waits for another one', () => {
  const rig = slowClient()
  const again: ((error: number) => void)[] = []
  const flushes = new NearFlushes((done) => again.push(done))
  pairUp(flushes, rig)
  flushes.noteChange()
  flushes.changeDone(rig.client)
  flushes.noteChange()
  let answered = 0
  flushes.noteFlush()
  ok(flushes.take(rig.client, () => answered++))
  rig.end()
  strictEqual(answered, 0)
  strictEqual(again.length, 1)
  again[0]!(0)
  strictEqual(answered, 1)
})

test('after two changes in a row nothing is synced ahead', () => {
  const rig = slowClient()
  const flushes = new NearFlushes(() => {})
  pairUp(flushes, rig)
  for (let change = 0; change < 2; change++) flushes.noteChange()
  flushes.changeDone(rig.client)
  flushes.noteFlush()
  ok(flushes.take(rig.client, () => {}))
  rig.end()
  flushes.noteChange()
  flushes.changeDone(rig.client)
  strictEqual(rig.submitted.length, 0)
})

test.run()
