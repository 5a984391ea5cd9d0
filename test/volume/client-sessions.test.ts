/** R35: who wrote a volume last, and may write it again. */
import { deepStrictEqual, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import type { BlockDevice } from '../../src/volume/block-device.ts'
import { RequestKind } from '../../src/volume/request.ts'
import { ask, type Bench, failsWith, openBench } from '../helpers/volume-bench.ts'

const BYTES = 1024 * 1024
const [ONE, OTHER] = ['1'.repeat(16), '2'.repeat(16)]

async function withVolume(body: (bench: Bench) => Promise<void>): Promise<void> {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: BYTES })
  await body(bench)
  await bench.close()
}

const begin = ({ volumes }: Bench, id: string): Promise<BlockDevice> =>
  volumes.open('v', { session: { id, goesOn: false } })
const goOn = ({ volumes }: Bench, id: string): Promise<BlockDevice> =>
  volumes.open('v', { session: { id, goesOn: true } })
const isRefused = (bench: Bench, id: string): Promise<void> =>
  rejects(goOn(bench, id), failsWith(ErrorCode.StaleEpoch))

async function write(bench: Bench, device: BlockDevice, value: number): Promise<void> {
  const data = Buffer.alloc(4096, value)
  const all = [0, 1].map((at) =>
    ask(bench, device, { kind: RequestKind.Write, offset: at * 4096, data })
  )
  deepStrictEqual(
    (await Promise.all(all)).map(({ error }) => error),
    [0, 0]
  )
}

test('a session goes on as long as it alone writes, also after others looked', async () => {
  await withVolume(async (bench) => {
    const first = await begin(bench, ONE)
    await write(bench, first, 1)
    await first.close()
    const again = await goOn(bench, ONE)
    const reader = await bench.volumes.open('v', {})
    await ask(bench, reader, { kind: RequestKind.Read, length: 4096 })
    await ask(bench, reader, { kind: RequestKind.Flush })
    await reader.close()
    await again.close()
    await (await goOn(bench, ONE)).close()
    await isRefused(bench, OTHER)
  })
})

test('it is over when a client without one changes something, before that is done', async () => {
  await withVolume(async (bench) => {
    const first = await begin(bench, ONE)
    const plain = await bench.volumes.open('v', {})
    const change = ask(bench, plain, { kind: RequestKind.Trim, length: 4096 })
    await isRefused(bench, ONE)
    strictEqual((await change).error, 0)
    await write(bench, plain, 2)
    await first.close()
    await plain.close()
  })
})

test('it is over when another begins, also where it is open', async () => {
  await withVolume(async (bench) => {
    const first = await begin(bench, ONE)
    const plain = await bench.volumes.open('v', {})
    const second = await begin(bench, OTHER)
    await isRefused(bench, ONE)
    await write(bench, second, 3)
    await (await goOn(bench, OTHER)).close()
    const data = Buffer.alloc(4096, 4)
    const { error } = await ask(bench, first, { kind: RequestKind.Write, data })
    strictEqual(error, ErrorCode.Closed)
    await (await goOn(bench, OTHER)).close()
    await write(bench, plain, 4)
    await isRefused(bench, OTHER)
    for (const each of [first, plain, second]) await each.close()
    const third = await begin(bench, OTHER)
    await third.close()
    const late = await bench.volumes.open('v', {})
    await write(bench, late, 5)
    await late.close()
    await isRefused(bench, OTHER)
  })
})

test('the next process that serves the volume knows', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: BYTES })
  await (await begin(bench, ONE)).close()
  await bench.close()
  const { tables, arena, store } = bench
  const next = await openBench({ tables, arena, store, boot: 2 })
  await isRefused(next, OTHER)
  const again = await goOn(next, ONE)
  await again.close()
  await next.volumes.delete('v')
  strictEqual((await next.metadata.range('/torus/v1/clients/')).entries.length, 0)
  await next.close()
})

test.run()
