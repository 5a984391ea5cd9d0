/** Imports: nobody sees a volume before all of it came and was compared. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { exportVolume } from '../../src/backup/exporter.ts'
import { Imports } from '../../src/coordinator/imports.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { type Bench, failsWith, openBench } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const SIZE = 2 * MIB
const whole = { snapshot: null, base: null }

/** The stream of a volume with data in its middle, and its digest. */
async function exported(bench: Bench): Promise<{ stream: Buffer; digest: string }> {
  await bench.volumes.create({ name: 'source', sizeBytes: SIZE })
  const file = await bench.volumes.openFile('source')
  await file.writeAt(MIB / 2, Buffer.alloc(MIB, 5))
  const parts: Buffer[] = []
  for await (const part of exportVolume(file, { ...whole, startBytes: 0 })) parts.push(part)
  const stream = Buffer.concat(parts)
  return { stream, digest: stream.toString('hex', stream.length - 40, stream.length - 8) }
}

/** Asks all the time: at every moment until the end it is known how the import stands. */
const finished = async (imports: Imports, id: string): Promise<string> => {
  for (;;) {
    const { state } = await imports.show(id)
    if (state === 'done' || state === 'failed') return state
    await new Promise(setImmediate)
  }
}

test('an imported volume has its name when all of it is there and compared', async () => {
  const bench = await openBench()
  const { stream, digest } = await exported(bench)
  const imports = new Imports(bench.volumes, bench.cluster)
  const { id } = await imports.begin({ name: 'v', sizeBytes: SIZE })
  await rejects(imports.begin({ name: 'v', sizeBytes: SIZE }), failsWith(ErrorCode.AlreadyExists))
  await rejects(imports.finish(id, { digest }), failsWith(ErrorCode.InvalidArgument))
  await rejects(bench.volumes.open('v', {}), failsWith(ErrorCode.NotFound))
  strictEqual((await bench.volumes.listAll()).length, 1)
  strictEqual((await imports.write(id, stream, SIZE)).doneBytes, SIZE)
  // An answer of the metadata takes its time.
  const reveal = bench.volumes.reveal.bind(bench.volumes)
  bench.volumes.reveal = async (...named) => {
    const info = await reveal(...named)
    await new Promise((resolve) => setTimeout(resolve, 10))
    return info
  }
  await imports.finish(id, { digest })
  strictEqual(await finished(imports, id), 'done')
  const file = await bench.volumes.openFile('v')
  deepStrictEqual(await file.readAt(MIB / 2, MIB), Buffer.alloc(MIB, 5))
  await file.writeAt(0, Buffer.alloc(4096, 1))
  await file.close()
  deepStrictEqual(await imports.list(), [])
  await bench.close()
})

test('what cannot be made durable is told, comes again, and nothing stays open', async () => {
  const bench = await openBench()
  const { stream, digest } = await exported(bench)
  const imports = new Imports(bench.volumes, bench.cluster)
  const { id } = await imports.begin({ name: 'v', sizeBytes: SIZE })
  const open = bench.volumes.openHidden.bind(bench.volumes)
  let isFull = true
  let opened = 0
  bench.volumes.openHidden = async (hidden) => {
    const file = await open(hidden)
    const { flush, close } = { flush: file.flush.bind(file), close: file.close.bind(file) }
    file.flush = () => {
      if (!isFull) return flush()
      return Promise.reject(new StoreError(ErrorCode.OutOfSpace, 'the disk is full'))
    }
    file.close = () => {
      opened--
      return close()
    }
    opened++
    return file
  }
  await imports.write(id, stream, SIZE)
  await imports.finish(id, { digest })
  strictEqual(await finished(imports, id), 'failed')
  const { error, doneBytes } = await imports.show(id)
  deepStrictEqual([error?.code, doneBytes], ['OutOfSpace', 0])
  await rejects(bench.volumes.open('v', {}), failsWith(ErrorCode.NotFound))
  await rejects(imports.finish(id, { digest }), failsWith(ErrorCode.InvalidArgument))
  isFull = false
  await imports.write(id, stream, SIZE)
  await imports.finish(id, { digest })
  strictEqual(await finished(imports, id), 'done')
  strictEqual(opened, 0)
  // Room is wanted most when there is none.
  isFull = true
  const other = await imports.begin({ name: 'w', sizeBytes: SIZE })
  await imports.write(other.id, stream, SIZE)
  await imports.abandon(other.id)
  strictEqual(opened, 0)
  await bench.close()
})

test('pieces that are damaged, of another size or leave a gap are refused', async () => {
  const bench = await openBench()
  const { stream, digest } = await exported(bench)
  const imports = new Imports(bench.volumes, bench.cluster)
  const { id } = await imports.begin({ name: 'v', sizeBytes: SIZE })
  const file = await bench.volumes.openFile('source', { readOnly: true })
  const rest: Buffer[] = []
  for await (const part of exportVolume(file, { ...whole, startBytes: MIB })) rest.push(part)
  const gap = imports.write(id, Buffer.concat(rest), SIZE)
  await rejects(gap, failsWith(ErrorCode.InvalidArgument))
  const far = imports.write(id, stream, SIZE + 4096)
  await rejects(far, failsWith(ErrorCode.InvalidArgument))
  await rejects(imports.write(id, stream.subarray(0, MIB), SIZE), failsWith(ErrorCode.Corrupt))
  const damaged = Buffer.from(stream)
  damaged[MIB]! ^= 1
  await rejects(imports.write(id, damaged, SIZE), failsWith(ErrorCode.Corrupt))
  await imports.write(id, stream, SIZE)
  const other = digest.replace(/^./, (first) => (first === '0' ? '1' : '0'))
  await imports.finish(id, { digest: other })
  strictEqual(await finished(imports, id), 'failed')
  strictEqual((await imports.show(id)).error?.code, 'ChecksumMismatch')
  await rejects(bench.volumes.show('v'), failsWith(ErrorCode.NotFound))
  await bench.close()
})

test('an import goes on in another process from what is durable', async () => {
  const bench = await openBench()
  const { stream, digest } = await exported(bench)
  const first = new Imports(bench.volumes, bench.cluster, 0)
  const { id } = await first.begin({ name: 'v', sizeBytes: SIZE })
  await bench.clock.advance(6 * 24 * 3600 * 1000)
  const half = 3 * (MIB / 4)
  strictEqual((await first.write(id, stream, half)).doneBytes, half)
  const second = new Imports(bench.volumes, bench.cluster)
  deepStrictEqual(
    (await second.list()).map(({ doneBytes }) => doneBytes),
    [half]
  )
  // Who goes on with it has a week from then on.
  await bench.clock.advance(6 * 24 * 3600 * 1000)
  strictEqual(await bench.volumes.trash.removeExpired(), 0)
  const file = await bench.volumes.openFile('source', { readOnly: true })
  const rest: Buffer[] = []
  for await (const part of exportVolume(file, { ...whole, startBytes: half })) rest.push(part)
  await second.write(id, Buffer.concat(rest), SIZE)
  await second.finish(id, { digest })
  strictEqual(await finished(second, id), 'done')
  await bench.close()
})

test('an import that is abandoned, or that nobody goes on with, leaves nothing', async () => {
  const bench = await openBench()
  const { stream } = await exported(bench)
  const imports = new Imports(bench.volumes, bench.cluster)
  const { family } = await bench.volumes.show('source')
  const { id } = await imports.begin({ name: 'v', sizeBytes: SIZE })
  await imports.write(id, stream, SIZE)
  await imports.abandon(id)
  await rejects(imports.show(id), failsWith(ErrorCode.NotFound))
  strictEqual(bench.store.size, bench.store.blockCount(family))
  await imports.begin({ name: 'w', sizeBytes: SIZE })
  // It is no volume of the trash.
  deepStrictEqual(await bench.volumes.trash.list(), [])
  await bench.clock.advance(8 * 24 * 3600 * 1000)
  strictEqual(await bench.volumes.trash.removeExpired(), 1)
  ok((await imports.list()).length === 0)
  await bench.close()
})

test.run()
