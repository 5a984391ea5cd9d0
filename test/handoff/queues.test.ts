import { deepStrictEqual, strictEqual } from 'node:assert/strict'
import { availableParallelism } from 'node:os'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { QUEUE_SLOTS } from '../../src/core/limits.ts'
import { type ChannelMemory, createChannelMemory, entryAt } from '../../src/handoff/channel.ts'
import {
  ENTRY_WORDS,
  readCompletion,
  readSubmission,
  writeCompletion,
  writeSubmission
} from '../../src/handoff/entry.ts'
import { freeSpinner, MainBell, ringMain, SPINNER } from '../../src/handoff/main-bell.ts'
import { OpenFiles } from '../../src/handoff/open-files.ts'
import { ShardClient } from '../../src/handoff/shard-client.ts'
import { Spin } from '../../src/handoff/spin.ts'
import { SyncRounds } from '../../src/handoff/sync-rounds.ts'
import { WorkerLoop } from '../../src/handoff/worker-loop.ts'
import { BlockOp } from '../../src/replication/block-store.ts'
import { OpKind, ShardOp } from '../../src/shard/op.ts'

const test = suite('queues')

function extremeOp(): ShardOp {
  const op = new ShardOp()
  op.kind = 255
  op.flags = 0xffffff
  op.familyHigh = 0xffffffff
  op.familyLow = 0x80000000
  op.layerHigh = 0xfffffffe
  op.layerLow = 1
  op.chunk = 0xffffffff
  op.firstBlock = 1023
  op.blockCount = 1024
  op.payload = 0xffffffff * 4096
  op.writerEpoch = 0xffffffff
  op.sequence = 2 ** 40 - 1
  return op
}

test('a request has its place in the entry', () => {
  const words = new Uint32Array(2 * ENTRY_WORDS)
  writeSubmission(words, ENTRY_WORDS, 77, extremeOp())
  deepStrictEqual(
    [...words.slice(ENTRY_WORDS)],
    [
      0xffffffff, 77, 0xffffffff, 0x80000000, 0xfffffffe, 1, 0xffffffff, 0x040003ff, 0xffffffff,
      0xffffffff, 0xffffffff, 0xff, 0, 0, 0, 0
    ]
  )
  deepStrictEqual([...words.slice(0, ENTRY_WORDS)], new Array(ENTRY_WORDS).fill(0))
})

test('a request crosses whole, its last answer does not', () => {
  const words = new Uint32Array(ENTRY_WORDS)
  writeSubmission(words, 0, 1023, extremeOp())
  const received = new ShardOp()
  received.error = 5
  received.resultA = 6
  received.resultB = 7
  strictEqual(readSubmission(words, 0, received), 1023)
  deepStrictEqual(received, extremeOp())
})

test('an answer crosses whole', () => {
  const words = new Uint32Array(ENTRY_WORDS)
  const answered = extremeOp()
  answered.error = 19
  answered.resultA = 0xffffffff
  answered.resultB = 1
  writeCompletion(words, 0, 1023, answered)
  const op = extremeOp()
  readCompletion(words, 0, op)
  strictEqual(words[0], 1023)
  deepStrictEqual(op, answered)
})

test('positions wrap around the queue and around 32 bits', () => {
  strictEqual(entryAt(QUEUE_SLOTS), 0)
  strictEqual(entryAt(2 ** 31 - 1), (QUEUE_SLOTS - 1) * ENTRY_WORDS)
  strictEqual(entryAt((2 ** 31) | 0), 0)
  strictEqual(entryAt(-1), (QUEUE_SLOTS - 1) * ENTRY_WORDS)
})

/** A client and a worker loop in one thread: the loop runs until told to close. */
function oneThread() {
  const memory = createChannelMemory()
  const rounds = new SyncRounds(memory.syncBoard)
  const client = new ShardClient<BlockOp>(0, memory, rounds)
  client.prepareStart()
  return { client, memory, ...oneThreadOn(client, memory) }
}

function oneThreadOn(client: ShardClient<BlockOp>, memory: ChannelMemory) {
  const loop = new WorkerLoop(memory, new MainBell(() => false).shared, () => new ShardOp())
  const batches: number[] = []
  const engine = {
    execute(ops: readonly ShardOp[], count: number): void {
      batches.push(count)
      for (let at = 0; at < count; at++) ops[at]!.resultA = ops[at]!.chunk
    },
    background: () => false,
    nextWakeMs: () => Number.POSITIVE_INFINITY
  }
  const run = (): void => {
    client.sendClose()
    loop.run(engine)
  }
  return { batches, run }
}

test('large requests are answered a few at a time, and small ones together', () => {
  const { client, batches, run } = oneThread()
  const sizes = [100, 100, 100, 256, 1, 1, 1, 1]
  let answered = 0
  for (const blockCount of sizes) {
    const op = new BlockOp()
    op.kind = OpKind.Read
    op.blockCount = blockCount
    op.onDone = () => answered++
    client.submit(op)
  }
  client.ring()
  run()
  client.poll()
  strictEqual(answered, sizes.length)
  deepStrictEqual(batches, [3, 1, 4])
})

test('a full queue overflows into a list that keeps the order', () => {
  const { client, batches, run } = oneThread()
  const answers: number[] = []
  const total = 3 * QUEUE_SLOTS + 5
  for (let chunk = 0; chunk < total; chunk++) {
    const op = new BlockOp()
    op.chunk = chunk
    op.onDone = (done) => answers.push(done.resultA)
    client.submit(op)
  }
  while (answers.length < total) {
    client.ring()
    run()
    client.poll()
  }
  deepStrictEqual(
    answers,
    answers.map((_, at) => at)
  )
  strictEqual(
    batches.reduce((sum, count) => sum + count),
    total
  )
  strictEqual(client.inFlightCount, 0)
})

test('a request from inside an answer waits behind those that overflowed', () => {
  const { client, run } = oneThread()
  const answers: number[] = []
  let submitted = 0
  const submit = (): void => {
    const op = new BlockOp()
    op.chunk = submitted++
    op.onDone = (done) => {
      answers.push(done.resultA)
      if (submitted < 4 * QUEUE_SLOTS) submit()
    }
    client.submit(op)
  }
  while (submitted < 2 * QUEUE_SLOTS) submit()
  while (client.inFlightCount > 0) {
    client.ring()
    run()
    client.poll()
  }
  strictEqual(answers.length, 4 * QUEUE_SLOTS)
  deepStrictEqual(
    answers,
    answers.map((_, at) => at)
  )
})

test('after a death what was completed is answered, the rest queued in its order', async () => {
  const { client, memory, batches, run } = oneThread()
  const answers: number[] = []
  const submit = (chunk: number): void => {
    const op = new BlockOp()
    op.chunk = chunk
    op.onDone = (done) => answers.push(done.resultA)
    client.submit(op)
  }
  // Frees slots in an order of its own, so that slots and submissions differ in order.
  for (let chunk = 0; chunk < 50; chunk++) submit(chunk)
  client.ring()
  run()
  client.poll()
  for (let chunk = 50; chunk < 80; chunk++) submit(chunk)
  client.ring()
  run()
  for (let chunk = 80; chunk < 100; chunk++) submit(chunk)
  client.ring() // the worker dies before it sees these, and before the last answers were polled
  await new Promise<void>((resolve) => client.afterDeath(resolve))
  strictEqual(answers.length, 80)
  client.prepareStart()
  const next = oneThreadOn(client, memory)
  next.run()
  client.poll()
  deepStrictEqual(
    answers,
    Array.from({ length: 100 }, (_, at) => at)
  )
  deepStrictEqual([batches, next.batches], [[50, 30], [20]])
})

test('what a worker took that died between two polls is not durable', async () => {
  const { client, run } = oneThread()
  const op = new BlockOp()
  client.submit(op)
  client.ring()
  run()
  await new Promise<void>((resolve) => client.afterDeath(resolve)) // answers the op
  strictEqual(client.inFlightCount, 0)
  client.fail('its files cannot be opened', ErrorCode.DiskFailure)
  strictEqual(client.isClean, false)
  const flushed = new Promise<number>((resolve) => client.flush(resolve))
  strictEqual(await flushed, ErrorCode.ShardFailed)
})

test('an entry that comes while the worker falls asleep keeps it awake', () => {
  const { client, memory } = oneThread()
  const loop = new WorkerLoop(memory, new MainBell(() => false).shared, () => new ShardOp())
  let executed = 0
  let asked = 0
  const { wait } = Atomics
  Atomics.wait = () => {
    throw new Error('the worker slept')
  }
  try {
    loop.run({
      execute: () => {
        executed++
        client.sendClose()
      },
      background: () => false,
      // Asked after the first background slice, and as the last thing before the loop sleeps.
      nextWakeMs: () => {
        if (++asked === 2) client.submit(new BlockOp())
        client.ring()
        return Number.POSITIVE_INFINITY
      }
    })
  } finally {
    Atomics.wait = wait
  }
  strictEqual(executed, 1)
})

test('entries are not seen before they are published', () => {
  const { client, batches, run } = oneThread()
  client.submit(new BlockOp())
  run()
  deepStrictEqual(batches, [])
  client.ring()
  run()
  deepStrictEqual(batches, [1])
})

test('an idle worker does background work whenever the engine wants to be looked at', () => {
  const memory = createChannelMemory()
  const client = new ShardClient<BlockOp>(0, memory, new SyncRounds(memory.syncBoard))
  client.prepareStart()
  const loop = new WorkerLoop(memory, new MainBell(() => false).shared, () => new ShardOp())
  let slices = 0
  loop.run({
    execute: () => {},
    background: () => {
      if (++slices === 3) client.sendClose()
      return false
    },
    nextWakeMs: () => 2
  })
  strictEqual(slices, 3)
})

test('the main bell wakes once for many rings and has one wait out at most', async () => {
  let published = 0
  let drained = 0
  let drains = 0
  const bell = new MainBell(() => {
    drains++
    const any = published > drained
    drained = published
    return any
  })
  const word = new Int32Array(bell.shared)
  bell.arm()
  for (let round = 0; round < 1000; round++) {
    const before = drains
    for (let ring = 0; ring < 5; ring++) {
      published++
      ringMain(word)
    }
    bell.arm() // arming an armed bell changes nothing
    while (drained < published) await new Promise((resolve) => setImmediate(resolve))
    strictEqual(drains <= before + 3, true)
  }
  bell.close()
  await new Promise((resolve) => setImmediate(resolve))
  const before = drains
  ringMain(word)
  await new Promise((resolve) => setTimeout(resolve, 5))
  strictEqual(drains, before)
})

test('nobody is woken by workers while the main thread looks itself', async () => {
  let drains = 0
  const bell = new MainBell(() => {
    drains++
    return false
  })
  const word = new Int32Array(bell.shared)
  bell.arm()
  bell.disarm()
  const before = drains
  ringMain(word)
  await new Promise((resolve) => setTimeout(resolve, 5))
  strictEqual(drains, before)
  bell.arm()
  ringMain(word)
  while (drains < before + 2) await new Promise((resolve) => setImmediate(resolve))
  bell.close()
})

test('the place of a worker that died while it spun is free again', () => {
  const words = new Int32Array(new MainBell(() => false).shared)
  Atomics.store(words, SPINNER, 7)
  freeSpinner(words, 8) // of another worker
  strictEqual(words[SPINNER], 7)
  freeSpinner(words, 7)
  strictEqual(words[SPINNER], 0)
})

test('looking that does not pay is given up but for a probe now and then', () => {
  let looks = 0
  let news = false
  const spin = new Spin(1, () => {
    looks++
    return news
  })
  for (let run = 0; run < 100; run++) strictEqual(spin.run(), false)
  const before = looks
  for (let run = 0; run < 31; run++) spin.run()
  // At most one probe: a bounded burst of looks, not one for every run.
  strictEqual(looks - before < 31 * 50, true)
  news = true
  let found = 0
  for (let run = 0; run < 100; run++) if (spin.run()) found++
  strictEqual(found > 60 || availableParallelism() === 1, true)
})

test('open descriptors are remembered until they are closed or taken', () => {
  const files = new OpenFiles(createChannelMemory().openFiles)
  for (const descriptor of [0, 31, 32, 63, 1000, 1024 * 1024 - 1]) files.opened(descriptor)
  files.closing(32)
  const taken: number[] = []
  files.takeAll((descriptor) => taken.push(descriptor))
  deepStrictEqual(taken, [0, 31, 63, 1000, 1024 * 1024 - 1])
  files.takeAll(() => strictEqual(true, false))
})

test.run()
