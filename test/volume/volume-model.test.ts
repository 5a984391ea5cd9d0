/**
 * A volume against an array of bytes. Each step sends a batch of requests at once; every request
 * writes bytes of its own value, so that after the batch each byte tells who wrote it last: one of
 * those that covered it, or, if nobody did, whoever was there before. Lost updates of sub-block
 * writes, wrong edges and wrong payload offsets all show as a byte that nobody may have written.
 * fast-check shrinks a failure and prints the seed and path that replay it.
 */
import { ok, strictEqual } from 'node:assert'
import fc from 'fast-check'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BYTES } from '../../src/core/limits.ts'
import type { BlockDevice } from '../../src/volume/block-device.ts'
import { RequestFlag, RequestKind } from '../../src/volume/request.ts'
import { MemoryStore } from '../helpers/memory-store.ts'
import { TestArena } from '../helpers/test-arena.ts'
import { ask, type Bench, openBench } from '../helpers/volume-bench.ts'

const SIZE = CHUNK_BYTES + 64 * 1024
/** Where things happen: at the start, and on both sides of a chunk border. */
const WINDOWS = [0, CHUNK_BYTES - 32 * 1024]
const WINDOW_BYTES = 64 * 1024

interface Step {
  readonly kind: number
  readonly window: number
  readonly at: number
  readonly length: number
  readonly fua: boolean
  readonly noHole: boolean
}

const stepArb: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    RequestKind.Write,
    RequestKind.Write,
    RequestKind.Write,
    RequestKind.WriteZeroes,
    RequestKind.Trim,
    RequestKind.Read
  ),
  window: fc.nat(1),
  at: fc.oneof(
    fc.nat(WINDOW_BYTES - 1),
    fc.nat(WINDOW_BYTES / BLOCK_BYTES - 1).map((block) => block * BLOCK_BYTES),
    // Many meet in the same two blocks.
    fc.nat(2 * BLOCK_BYTES)
  ),
  length: fc.oneof(
    fc.integer({ min: 1, max: 600 }),
    fc.integer({ min: 1, max: 40_000 }),
    fc.constantFrom(BLOCK_BYTES, 2 * BLOCK_BYTES, 5 * BLOCK_BYTES)
  ),
  fua: fc.boolean(),
  noHole: fc.boolean()
})

/** The bytes of the windows, as they were found last. */
class Model {
  readonly bytes = WINDOWS.map(() => Buffer.alloc(WINDOW_BYTES))
}

interface Sent {
  readonly step: Step
  readonly value: number
  readonly start: number
  readonly end: number
  /** Bytes that it changes: a trim only whole blocks. */
  readonly changeStart: number
  readonly changeEnd: number
  failed: boolean
}

function plan(step: Step, value: number): Sent {
  const start = step.at
  const end = Math.min(WINDOW_BYTES, start + step.length)
  const trims = step.kind === RequestKind.Trim
  const changeStart = trims ? Math.ceil(start / BLOCK_BYTES) * BLOCK_BYTES : start
  const changeEnd = trims ? Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES : end
  const written = step.kind === RequestKind.Write ? value : 0
  return { step, value: written, start, end, changeStart, changeEnd, failed: false }
}

async function send(bench: Bench, device: BlockDevice, sent: Sent): Promise<Buffer> {
  const { step } = sent
  const base = { kind: step.kind, offset: WINDOWS[step.window]! + sent.start }
  const length = sent.end - sent.start
  const flags =
    (step.fua && step.kind !== RequestKind.Read ? RequestFlag.Fua : 0) |
    (step.noHole && step.kind === RequestKind.WriteZeroes ? RequestFlag.NoHole : 0)
  const writes = step.kind === RequestKind.Write
  const request = writes ? { ...base, data: Buffer.alloc(length, sent.value) } : { ...base, length }
  const answer = await ask(bench, device, { ...request, flags })
  sent.failed = answer.error !== 0
  return answer.data
}

const changes = (sent: Sent, window: number): boolean =>
  sent.step.kind !== RequestKind.Read && sent.step.window === window

/** Values that the byte may have after the batch. */
function allowed(model: Model, batch: readonly Sent[], window: number, at: number) {
  const values = new Set<number>()
  let settled = false
  for (const sent of batch) {
    if (!changes(sent, window) || at < sent.changeStart || at >= sent.changeEnd) continue
    values.add(sent.value)
    if (!sent.failed) settled = true
  }
  const old = model.bytes[window]![at]!
  return { values, old, mayBeOld: !settled }
}

function checkRead(model: Model, batch: readonly Sent[], read: Sent, data: Buffer): void {
  for (let at = read.start; at < read.end; at++) {
    const found = data[at - read.start]!
    const { values, old } = allowed(model, batch, read.step.window, at)
    if (found !== old && !values.has(found)) ok(false, `read ${found} at ${at}, was ${old}`)
  }
}

async function readWindow(bench: Bench, device: BlockDevice, window: number): Promise<Buffer> {
  const length = Math.min(WINDOW_BYTES, device.sizeBytes - WINDOWS[window]!)
  const offset = WINDOWS[window]!
  if (length <= 0) return Buffer.alloc(WINDOW_BYTES)
  const answer = await ask(bench, device, { kind: RequestKind.Read, offset, length })
  strictEqual(answer.error, 0)
  return Buffer.concat([answer.data, Buffer.alloc(WINDOW_BYTES - length)])
}

/** Takes over what the batch left, after checking that it may be so. */
async function settle(
  bench: Bench,
  device: BlockDevice,
  model: Model,
  batch: readonly Sent[]
): Promise<void> {
  for (const window of WINDOWS.keys()) {
    const found = await readWindow(bench, device, window)
    for (let at = 0; at < WINDOW_BYTES; at++) {
      const { values, old, mayBeOld } = allowed(model, batch, window, at)
      const value = found[at]!
      if ((mayBeOld && value === old) || values.has(value)) continue
      ok(false, `window ${window}, byte ${at}: ${value}, was ${old}, may be ${[...values]}`)
    }
    found.copy(model.bytes[window]!)
  }
}

async function runBatch(bench: Bench, device: BlockDevice, model: Model, steps: readonly Step[]) {
  const batch = steps.map((step, index) => plan(step, index + 1))
  const answers = await Promise.all(batch.map((sent) => send(bench, device, sent)))
  bench.store.failOp = () => 0
  for (const [index, sent] of batch.entries()) {
    if (sent.step.kind !== RequestKind.Read || sent.failed) continue
    checkRead(model, batch, sent, answers[index]!)
  }
  await settle(bench, device, model, batch)
}

async function resize(bench: Bench, device: BlockDevice, model: Model, keep: number) {
  const smaller = Math.floor((SIZE * keep) / 256 / BLOCK_BYTES + 1) * BLOCK_BYTES
  await bench.volumes.resize('v', smaller, { shrink: true })
  strictEqual(device.sizeBytes, smaller)
  await bench.volumes.resize('v', SIZE)
  for (const [window, start] of WINDOWS.entries()) {
    model.bytes[window]!.fill(0, Math.min(WINDOW_BYTES, Math.max(0, smaller - start)))
  }
  await settle(bench, device, model, [])
}

/** Flushes, cuts the power, and looks at what another process finds. */
async function powerCut(bench: Bench, device: BlockDevice, model: Model, boot: number) {
  bench.store.failFlush = () => 0
  strictEqual((await ask(bench, device, { kind: RequestKind.Flush })).error, 0)
  const arena = new TestArena(1024)
  const store = bench.store.afterPowerCut(arena, boot)
  await bench.metadata.close()
  const next = await openBench({ tables: bench.tables, arena, store, boot })
  await next.volumes.resume()
  const reopened = await next.volumes.open('v', {})
  await settle(next, reopened, model, [])
  return { bench: next, device: reopened }
}

const batches = fc.array(
  fc.record({
    steps: fc.array(stepArb, { minLength: 1, maxLength: 24 }),
    /** One op in so many fails; 0 for none. */
    failOneIn: fc.constantFrom(0, 0, 0, 3, 10),
    /** Then shrink to so many 256ths, and grow again; 256 leaves it. */
    keep: fc.constantFrom(256, 256, 256, 0, 100, 254)
  }),
  { minLength: 1, maxLength: 4 }
)

test('a volume answers as an array of bytes does, with errors and many requests', async () => {
  await fc.assert(
    fc.asyncProperty(batches, fc.nat(1_000_000), async (rounds, seed) => {
      const arena = new TestArena(1024)
      const store = new MemoryStore(arena, seed)
      let bench = await openBench({ arena, store, seed, scratchPages: 2 + (seed % 7) })
      await bench.volumes.create({ name: 'v', sizeBytes: SIZE })
      let device = await bench.volumes.open('v', {})
      const model = new Model()
      for (const { steps, failOneIn, keep } of rounds) {
        let count = seed
        bench.store.failOp = () =>
          failOneIn > 0 && count++ % failOneIn === 0 ? ErrorCode.DiskFailure : 0
        await runBatch(bench, device, model, steps)
        if (keep < 256) await resize(bench, device, model, keep)
      }
      ;({ bench, device } = await powerCut(bench, device, model, 2))
      await runBatch(bench, device, model, rounds[0]!.steps)
      await device.close()
      strictEqual(bench.store.opsInUse, 0)
      await bench.close()
    }),
    { numRuns: 60, timeout: 20_000 }
  )
})

test.run()
