/** A process that is killed anywhere in a shrink, and what the next one finds. */
import { match, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode, type StoreError } from '../../src/core/errors.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { Tables } from '../../src/metadata/tables.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { TestArena } from '../helpers/test-arena.ts'
import { type Bench, openBench } from '../helpers/volume-bench.ts'

const SIZE = 64 * 4096
const SMALL = 20 * 4096
const KILLS = 40

async function copyOf(tables: Tables): Promise<MemoryTables> {
  const copy = new MemoryTables()
  const all = tables.read((each) => each.range('', '\uffff', 1e6))
  await copy.write((each) => {
    for (const [key, value] of all) each.put(key, value)
  })
  return copy
}

async function readAll({ volumes }: Bench, name: string): Promise<Buffer> {
  const file = await volumes.openFile(name)
  const bytes = await file.readAt(0, file.sizeBytes)
  await file.close()
  return bytes
}

async function write({ volumes }: Bench, offset: number, bytes: Buffer): Promise<void> {
  const file = await volumes.openFile('v')
  await file.writeAt(offset, bytes)
  await file.flush()
  await file.close()
}

/** Kills it after so many turns; returns whether the shrink had taken effect. */
async function killAfter(turns: number): Promise<boolean> {
  const bench = await openBench({ seed: turns + 1 })
  const { volumes, store } = bench
  await volumes.create({ name: 'v', sizeBytes: SIZE })
  await write(bench, 0, Buffer.alloc(SIZE, 1))
  await volumes.snapshots.create('v', 's')
  await write(bench, SIZE / 2, Buffer.alloc(SIZE / 4, 2))
  const before = await readAll(bench, 'v')
  const shrinking = volumes.resize('v', SMALL, { shrink: true })
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve))
  const arena = new TestArena(1024)
  const tables = await copyOf(bench.tables)
  const next = await openBench({ tables, store: store.afterPowerCut(arena, 1), arena, boot: 2 })
  await shrinking
  await bench.close()

  await next.volumes.resume()
  const { sizeBytes } = await next.volumes.show('v')
  const isSmall = sizeBytes === SMALL
  ok(isSmall || sizeBytes === SIZE, `${sizeBytes} bytes`)
  ok((await readAll(next, 'v')).equals(before.subarray(0, sizeBytes)), 'what is left is as it was')
  await next.volumes.resize('v', SIZE)
  const grown = await readAll(next, 'v')
  ok(grown.subarray(0, SMALL).equals(before.subarray(0, SMALL)))
  if (isSmall)
    ok(
      grown.subarray(SMALL).every((byte) => byte === 0),
      'nothing comes back'
    )
  else ok(grown.equals(before))
  ok((await readAll(next, 'v@s')).equals(Buffer.alloc(SIZE, 1)), 'the snapshot has it all')
  await next.close()
  return isSmall
}

test('a shrink that is killed took effect or did not, and nothing else', async () => {
  let small = 0
  for (let turns = 0; turns < KILLS; turns++) if (await killAfter(turns)) small++
  ok(small > 0 && small < KILLS, `${small} of ${KILLS} had taken effect`)
  strictEqual(await killAfter(1000), true)
})

test('what a shrink could not free it says, and the same shrink frees it', async () => {
  const bench = await openBench({ seed: 1 })
  const { volumes, store } = bench
  await volumes.create({ name: 'v', sizeBytes: SIZE })
  const file = await volumes.openFile('v')
  await file.writeAt(0, Buffer.alloc(SIZE, 1))
  await file.close()
  let trims = 0
  store.failOp = ({ kind }) => (kind === OpKind.Trim ? ErrorCode.OutOfSpace : 0)
  await rejects(volumes.resize('v', SMALL, { shrink: true }), ({ code, message }: StoreError) => {
    match(message, /volume v has 81920 bytes now, .* not freed yet \(OutOfSpace\): resize it/)
    return code === ErrorCode.OutOfSpace
  })
  strictEqual((await volumes.show('v')).sizeBytes, SMALL)
  store.failOp = ({ kind }) => {
    if (kind === OpKind.Trim) trims++
    return 0
  }
  await volumes.resize('v', SMALL)
  ok(trims > 0, 'it is freed')
  trims = 0
  await volumes.resize('v', SMALL)
  strictEqual(trims, 0)
  await volumes.resize('v', SIZE)
  const grown = await volumes.openFile('v')
  ok((await grown.readAt(SMALL, SIZE - SMALL)).equals(Buffer.alloc(SIZE - SMALL)))
  await grown.close()
  await bench.close()
})

test.run()
