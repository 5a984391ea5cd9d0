import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BYTES } from '../../src/core/limits.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { BlockDevice } from '../../src/volume/block-device.ts'
import { RequestKind } from '../../src/volume/request.ts'
import { Volumes } from '../../src/volume/volumes.ts'
import type { WriterGate } from '../../src/volume/writer-gate.ts'
import { MemoryStore } from '../helpers/memory-store.ts'
import { until } from '../helpers/process.ts'
import { TestArena } from '../helpers/test-arena.ts'
import { ask, type Bench, failsWith, openBench } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const { Read, Write, Flush, Trim, WriteZeroes, Cache } = RequestKind

const write = (bench: Bench, device: BlockDevice, offset: number, data: Buffer) =>
  ask(bench, device, { kind: Write, offset, data })
const read = async (bench: Bench, device: BlockDevice, offset: number, length: number) =>
  (await ask(bench, device, { kind: Read, offset, length })).data

/** Another process on the same metadata and, as far as they were flushed, the same blocks. */
async function restart(bench: Bench, boot: number): Promise<Bench> {
  const arena = new TestArena(1024)
  const store = bench.store.afterPowerCut(arena, boot)
  await bench.metadata.close()
  return openBench({ tables: bench.tables, arena, store, boot })
}

test('volumes are made, listed, shown and promised by name', async () => {
  const bench = await openBench()
  const { volumes } = bench
  await volumes.create({ name: 'b', sizeBytes: MIB, description: 'second' })
  await volumes.create({ name: 'a', sizeBytes: 2 * MIB, labels: { rack: 'r1' } })
  deepStrictEqual(
    (await volumes.listAll()).map(({ name, sizeBytes, clients }) => [name, sizeBytes, clients]),
    [
      ['a', 2 * MIB, 0],
      ['b', MIB, 0]
    ]
  )
  deepStrictEqual(
    (await volumes.list()).map(({ name, readOnly, description }) => [name, readOnly, description]),
    [
      ['a', false, ''],
      ['b', false, 'second']
    ]
  )
  strictEqual(await volumes.promisedBytes(), 3 * MIB)
  const shown = await volumes.show('a')
  strictEqual(shown.type, 'block')
  deepStrictEqual(shown.labels, { rack: 'r1' })
  ok(/^[0-9a-f]{16}$/.test(shown.family))
  await rejects(volumes.show('c'), failsWith(ErrorCode.NotFound))
  await rejects(volumes.open('c', {}), failsWith(ErrorCode.NotFound))
  const again = volumes.create({ name: 'a', sizeBytes: MIB })
  await rejects(again, failsWith(ErrorCode.AlreadyExists))
  await bench.close()
})

test('names and sizes are checked where they come in', async () => {
  const bench = await openBench()
  const { volumes } = bench
  const names = ['', ' ', '.a', '-a', 'a/b', 'a b', 'ä', 'a@b', 'a\n', 'x'.repeat(129), '../a']
  for (const name of names) {
    const made = volumes.create({ name, sizeBytes: MIB })
    await rejects(made, failsWith(ErrorCode.InvalidArgument), JSON.stringify(name))
  }
  const sizes = [0, -4096, 1, 4095, 4097, Number.NaN, 2 ** 52 + 4096, Number.POSITIVE_INFINITY]
  for (const sizeBytes of sizes) {
    const made = volumes.create({ name: 'a', sizeBytes })
    await rejects(made, failsWith(ErrorCode.InvalidArgument), `${sizeBytes}`)
  }
  const unknown = volumes.create({ name: 'a', sizeBytes: MIB, type: 'tape' })
  await rejects(unknown, failsWith(ErrorCode.InvalidArgument))
  const settings = volumes.create({ name: 'a', sizeBytes: MIB, settings: { level: 1 } })
  await rejects(settings, failsWith(ErrorCode.InvalidArgument))
  await volumes.create({ name: 'x'.repeat(128), sizeBytes: 4096 })
  await volumes.create({ name: '0.a-b_C', sizeBytes: 2 ** 52 })
  strictEqual((await volumes.listAll()).length, 2)
  await bench.close()
})

test('several opens share a volume, and the last to close leaves none', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const first = await bench.volumes.open('v', {})
  const second = await bench.volumes.open('v', {})
  const third = await bench.volumes.open('v', { readOnly: true })
  strictEqual((await bench.volumes.show('v')).clients, 3)
  await write(bench, first, 0, Buffer.alloc(100, 1))
  deepStrictEqual(await read(bench, third, 0, 100), Buffer.alloc(100, 1))
  deepStrictEqual(await read(bench, second, 0, 100), Buffer.alloc(100, 1))
  await Promise.all([first.close(), first.close(), second.close(), third.close()])
  strictEqual((await bench.volumes.show('v')).clients, 0)
  strictEqual((await write(bench, first, 0, Buffer.alloc(1))).error, ErrorCode.Closed)
  await bench.close()
})

test('close waits for requests in flight', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', {})
  bench.store.paused = true
  let written = false
  const writing = write(bench, device, 10, Buffer.alloc(10)).then(() => {
    written = true
  })
  const closing = device.close().then(() => ok(written))
  await new Promise((resolve) => setTimeout(resolve, 20))
  bench.store.release()
  await Promise.all([writing, closing])
  await bench.close()
})

test('a read-only open changes nothing and takes no lease', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', { readOnly: true })
  ok(device.readOnly)
  for (const kind of [Write, Trim, WriteZeroes]) {
    const length = 4096
    strictEqual((await ask(bench, device, { kind, length })).error, ErrorCode.ReadOnly)
  }
  strictEqual((await ask(bench, device, { kind: Flush })).error, 0)
  strictEqual((await ask(bench, device, { kind: Cache, length: 4096 })).error, 0)
  const { entries } = await bench.metadata.range('/torus/v1/writers/')
  strictEqual(entries.length, 0)
  await bench.close()
})

test('each process writes under a writerEpoch above all before it', async () => {
  let bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const epochs: number[] = []
  for (let boot = 2; boot < 5; boot++) {
    let epoch = 0
    bench.store.failOp = (op) => {
      epoch = op.writerEpoch
      return 0
    }
    const device = await bench.volumes.open('v', {})
    const again = await bench.volumes.open('v', {})
    strictEqual((await write(bench, device, 0, Buffer.alloc(4096, boot))).error, 0)
    strictEqual((await write(bench, again, 0, Buffer.alloc(4096, boot))).error, 0)
    strictEqual((await ask(bench, device, { kind: Flush })).error, 0)
    epochs.push(epoch)
    bench = await restart(bench, boot)
    const device2 = await bench.volumes.open('v', { readOnly: true })
    deepStrictEqual(await read(bench, device2, 0, 4096), Buffer.alloc(4096, boot))
  }
  deepStrictEqual(epochs, [1, 2, 3])
  await bench.close()
})

test('a volume that another peer writes is busy, and free when that peer has gone', async () => {
  const tables = new MemoryTables()
  const other = await openBench({ tables, peerId: 'b'.repeat(32) })
  await other.volumes.create({ name: 'v', sizeBytes: MIB })
  await other.volumes.open('v', {})
  // The same metadata store serves a second peer.
  const { metadata } = other
  const { Cluster } = await import('../../src/cluster/cluster.ts')
  const { Session } = await import('../../src/cluster/session.ts')
  const { Volumes } = await import('../../src/volume/volumes.ts')
  const { clock } = other
  const self = { ...other.cluster.self, peerId: 'c'.repeat(32), bootId: 'd'.repeat(32) }
  const cluster = await Cluster.open(metadata, self, { clock, random: other.cluster.random })
  const session = await Session.open(metadata, clock)
  const arena = new TestArena(512)
  const store = new MemoryStore(arena)
  const volumes = new Volumes({ cluster, session, store, arena })
  await rejects(volumes.open('v', {}), failsWith(ErrorCode.Busy))
  await rejects(volumes.delete('v'), failsWith(ErrorCode.Busy))
  const reader = await volumes.open('v', { readOnly: true })
  await reader.close()
  await other.volumes.close()
  await other.session.close()
  const writer = await volumes.open('v', {})
  await writer.close()
  await session.close()
  await metadata.close()
})

test('while the metadata is away, a volume that is written here can be opened again', async () => {
  const bench = await openBench()
  for (const name of ['v', 'w']) await bench.volumes.create({ name, sizeBytes: MIB })
  await (await bench.volumes.open('v', {})).close()
  const { get, range } = bench.metadata
  bench.metadata.get = async () => {
    throw new StoreError(ErrorCode.Unavailable, 'away')
  }
  bench.metadata.range = bench.metadata.get as unknown as typeof range
  const known = (await bench.volumes.list()).map(({ name }) => name)
  strictEqual(known.join(), 'v')
  const device = await bench.volumes.open('v', {})
  strictEqual((await write(bench, device, 0, Buffer.alloc(4096, 1))).error, 0)
  await device.close()
  await rejects(bench.volumes.open('w', {}), failsWith(ErrorCode.Unavailable))
  // Once keepalives fail nobody waits for answers any more.
  let asked = 0
  bench.metadata.get = async () => {
    asked++
    throw new StoreError(ErrorCode.Unavailable, 'away')
  }
  Object.defineProperty(bench.session, 'isAnswered', { value: false })
  strictEqual((await bench.volumes.list()).length, 1)
  await (await bench.volumes.open('v', {})).close()
  strictEqual(asked, 0)
  Object.assign(bench.metadata, { get, range })
  await bench.close()
})

test('a lease that ended while the process was paused is taken anew', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', {})
  await write(bench, device, 0, Buffer.alloc(4096, 1))
  bench.clock.nowMs += 3_600_000
  const writers = '/torus/v1/writers/'
  strictEqual((await bench.metadata.range(writers)).entries.length, 0)
  await bench.session.renew()
  await new Promise((resolve) => setTimeout(resolve, 10))
  strictEqual((await bench.metadata.range(writers)).entries.length, 1)
  let epoch = 0
  bench.store.failOp = (op) => {
    epoch = op.writerEpoch
    return 0
  }
  strictEqual((await write(bench, device, 0, Buffer.alloc(4096, 2))).error, 0)
  strictEqual(epoch, 2)
  await bench.close()
})

test('a volume is renamed while it is open', async () => {
  const bench = await openBench()
  const { volumes } = bench
  await volumes.create({ name: 'v', sizeBytes: MIB })
  await volumes.create({ name: 'taken', sizeBytes: MIB })
  const device = await volumes.open('v', {})
  await rejects(volumes.rename('v', 'taken'), failsWith(ErrorCode.AlreadyExists))
  await rejects(volumes.rename('v', 'not valid'), failsWith(ErrorCode.InvalidArgument))
  await rejects(volumes.rename('nobody', 'x'), failsWith(ErrorCode.NotFound))
  strictEqual((await volumes.rename('v', 'w')).name, 'w')
  strictEqual(device.name, 'w')
  strictEqual((await write(bench, device, 0, Buffer.alloc(10, 1))).error, 0)
  await rejects(volumes.show('v'), failsWith(ErrorCode.NotFound))
  const again = await volumes.open('w', {})
  deepStrictEqual(await read(bench, again, 0, 10), Buffer.alloc(10, 1))
  await volumes.create({ name: 'v', sizeBytes: MIB })
  await bench.close()
})

test('growing shows zeroes, shrinking asks and loses the end for ever', async () => {
  const bench = await openBench()
  const { volumes } = bench
  await volumes.create({ name: 'v', sizeBytes: 2 * CHUNK_BYTES })
  const device = await volumes.open('v', {})
  await write(bench, device, CHUNK_BYTES - 8192, Buffer.alloc(3 * 8192, 7))
  await rejects(volumes.resize('v', CHUNK_BYTES), failsWith(ErrorCode.InvalidArgument))
  await rejects(volumes.resize('v', CHUNK_BYTES + 1), failsWith(ErrorCode.InvalidArgument))
  await rejects(volumes.resize('v', 0, { shrink: true }), failsWith(ErrorCode.InvalidArgument))
  strictEqual(device.sizeBytes, 2 * CHUNK_BYTES)
  await volumes.resize('v', CHUNK_BYTES - 4096, { shrink: true })
  strictEqual(device.sizeBytes, CHUNK_BYTES - 4096)
  const past = await ask(bench, device, { kind: Read, offset: CHUNK_BYTES - 4096, length: 1 })
  strictEqual(past.error, ErrorCode.OutOfRange)
  await volumes.resize('v', 3 * CHUNK_BYTES)
  const found = await read(bench, device, CHUNK_BYTES - 8192, 3 * 8192)
  deepStrictEqual(found.subarray(0, 4096), Buffer.alloc(4096, 7))
  deepStrictEqual(found.subarray(4096), Buffer.alloc(20_480))
  strictEqual((await volumes.show('v')).sizeBytes, 3 * CHUNK_BYTES)
  await bench.close()
})

test('a write in flight at a shrink does not come back when the volume grows', async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const bench = await openBench({ seed })
    const { volumes } = bench
    await volumes.create({ name: 'v', sizeBytes: 2 * MIB })
    const device = await volumes.open('v', {})
    bench.store.paused = true
    // Sub-block writes read first: they get their versions later than the shrink comes.
    const writes = [0, 100, 5000, 9000].map((at) =>
      write(bench, device, MIB + at, Buffer.alloc(3000, 9))
    )
    const shrinking = volumes.resize('v', MIB, { shrink: true })
    await new Promise((resolve) => setTimeout(resolve, 2))
    bench.store.release()
    await Promise.all([...writes, shrinking])
    await volumes.resize('v', 2 * MIB)
    deepStrictEqual(await read(bench, device, MIB, 16_384), Buffer.alloc(16_384))
    await bench.close()
  }
})

test('clients forbid a shrink, or are disconnected for it', async () => {
  const disconnected: string[] = []
  const disconnect = (name: string): void => void disconnected.push(name)
  const bench = await openBench({ volumes: { disconnect } })
  const { volumes } = bench
  await volumes.create({ name: 'v', sizeBytes: 2 * MIB })
  const device = await volumes.open('v', {})
  const shrink = { shrink: true, clients: 'refuse' } as const
  await rejects(volumes.resize('v', MIB, shrink), failsWith(ErrorCode.Busy))
  strictEqual((await volumes.show('v')).sizeBytes, 2 * MIB)
  // Growing never disturbs them.
  await volumes.resize('v', 3 * MIB, shrink)
  deepStrictEqual(disconnected, [])
  await volumes.resize('v', MIB, { shrink: true, clients: 'disconnect' })
  deepStrictEqual(disconnected, ['v'])
  strictEqual((await write(bench, device, 0, Buffer.alloc(10))).error, ErrorCode.Closed)
  strictEqual((await volumes.show('v')).sizeBytes, MIB)
  await bench.close()
})

test('a volume that becomes read-only takes no more changes, but for the own work', async () => {
  const bench = await openBench()
  const { volumes } = bench
  await volumes.create({ name: 'v', sizeBytes: MIB, labels: { a: '1', b: '2' } })
  const device = await volumes.open('v', {})
  const own = await volumes.openFile('v', { own: true })
  await volumes.change('v', { readOnly: true, labels: { a: null, c: '3' }, description: 'kept' })
  strictEqual((await write(bench, device, 0, Buffer.alloc(10))).error, ErrorCode.ReadOnly)
  strictEqual((await read(bench, device, 0, 4096)).length, 4096)
  ok((await volumes.open('v', {})).readOnly)
  await own.writeAt(0, Buffer.alloc(4096, 1))
  const { readOnly, labels, description } = await volumes.show('v')
  deepStrictEqual([readOnly, labels, description], [true, { b: '2', c: '3' }, 'kept'])
  await volumes.change('v', { readOnly: false })
  ok(!(await volumes.open('v', {})).readOnly)
  await rejects(volumes.change('v', { labels: { '': 'x' } }), failsWith(ErrorCode.InvalidArgument))
  await bench.close()
})

test('what happened to a volume is told, its newest events only, and goes with it', async () => {
  const bench = await openBench()
  const { volumes } = bench
  await volumes.create({ name: 'v', sizeBytes: MIB })
  for (let round = 0; round < 3; round++) await (await volumes.open('v', {})).close()
  await volumes.resize('v', 2 * MIB)
  for (let round = 0; round < 2; round++) await volumes.change('v', { description: 'again' })
  const kinds = (await volumes.events('v')).map(({ kind, count }) => `${kind} ${count}`)
  // It was noted on the side: not before or after what came next.
  deepStrictEqual(kinds.sort(), ['changed 2', 'created 1', 'resized 1', 'served 1'])
  for (let round = 0; round < 70; round++) await volumes.change('v', { description: `${round}` })
  const events = await volumes.events('v')
  strictEqual(events.length, 64)
  strictEqual(events.at(-1)!.details['description'], '69')
  await volumes.delete('v')
  strictEqual((await bench.metadata.range('/torus/v1/events/')).entries.length, 0)
  await bench.close()
})

test('a shrink that was cut off is finished by the next start', async () => {
  let bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: 2 * MIB })
  const device = await bench.volumes.open('v', {})
  await write(bench, device, MIB, Buffer.alloc(MIB, 5))
  strictEqual((await ask(bench, device, { kind: Flush })).error, 0)
  bench.store.failOp = (op) => (op.kind === 2 ? 0 : ErrorCode.ShardFailed)
  const shrinking = bench.volumes.resize('v', MIB, { shrink: true })
  await rejects(shrinking, failsWith(ErrorCode.ShardFailed))
  strictEqual(device.sizeBytes, MIB)
  bench = await restart(bench, 2)
  strictEqual((await bench.volumes.show('v')).sizeBytes, MIB)
  const before = bench.store.size
  await bench.volumes.resume()
  ok(bench.store.submitted > 0 && bench.store.flushes > 0 && bench.store.size === before)
  await bench.volumes.resize('v', 2 * MIB)
  const again = await bench.volumes.open('v', {})
  deepStrictEqual(await read(bench, again, MIB, MIB), Buffer.alloc(MIB))
  await bench.close()
})

test('a volume in use is deleted only by force, which disconnects its clients', async () => {
  const disconnected: string[] = []
  const disconnect = (name: string): void => void disconnected.push(name)
  const bench = await openBench({ volumes: { disconnect } })
  const { volumes } = bench
  const { family } = await volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await volumes.open('v', {})
  await write(bench, device, 0, Buffer.alloc(MIB / 2, 1))
  strictEqual((await ask(bench, device, { kind: Flush })).error, 0)
  await rejects(volumes.delete('v'), failsWith(ErrorCode.Busy))
  ok(bench.store.blockCount(family) > 0)
  bench.store.paused = true
  const late = write(bench, device, 0, Buffer.alloc(10, 1))
  const deleting = volumes.delete('v', { force: true })
  await new Promise((resolve) => setTimeout(resolve, 5))
  deepStrictEqual(disconnected, ['v'])
  bench.store.release()
  strictEqual((await late).error, 0)
  await deleting
  strictEqual((await write(bench, device, 0, Buffer.alloc(10))).error, ErrorCode.Closed)
  strictEqual(bench.store.blockCount(family), 0)
  await rejects(volumes.open('v', {}), failsWith(ErrorCode.NotFound))
  strictEqual((await bench.metadata.range('/torus/v1/deleted/')).entries.length, 0)
  strictEqual(bench.store.afterPowerCut(new TestArena(1), 1).blockCount(family), 0)
  // The name is free, and the new volume is another one.
  const made = await volumes.create({ name: 'v', sizeBytes: MIB })
  ok(made.family !== family)
  const fresh = await volumes.open('v', {})
  deepStrictEqual(await read(bench, fresh, 0, 4096), Buffer.alloc(4096))
  await bench.close()
})

test('blocks of a deleted volume are dropped by the next start if need be', async () => {
  const troubles: string[] = []
  const onTrouble = (what: string): void => void troubles.push(what)
  let bench = await openBench({ volumes: { onTrouble } })
  const { family } = await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', {})
  await write(bench, device, 0, Buffer.alloc(BLOCK_BYTES, 1))
  strictEqual((await ask(bench, device, { kind: Flush })).error, 0)
  await device.close()
  bench.store.failOp = () => ErrorCode.ShardFailed
  await bench.volumes.delete('v')
  strictEqual(troubles.length, 1)
  await rejects(bench.volumes.show('v'), failsWith(ErrorCode.NotFound))
  bench = await restart(bench, 2)
  strictEqual(bench.store.blockCount(family), 1)
  await bench.volumes.resume()
  strictEqual(bench.store.blockCount(family), 0)
  strictEqual((await bench.metadata.range('/torus/v1/deleted/')).entries.length, 0)
  await bench.close()
})

test('requests are counted by kind, with bytes, errors and latency', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  deepStrictEqual(bench.volumes.counters(), [])
  const device = await bench.volumes.open('v', {})
  await write(bench, device, 0, Buffer.alloc(5000))
  await read(bench, device, 0, 100)
  await read(bench, device, MIB, 100)
  const [counters] = bench.volumes.counters()
  const of = (kind: number) => counters?.operations.find((operation) => operation.kind === kind)
  strictEqual(of(Write)?.bytes, 5000)
  strictEqual(of(Read)?.count, 2)
  strictEqual(of(Read)?.errors, 1)
  strictEqual(
    of(Read)?.latency.counts.reduce((sum, count) => sum + count),
    2
  )
  strictEqual(counters?.inFlight, 0)
  await bench.close()
})

test('a flush waits without limit, or as long as its volume says', async () => {
  const bench = await openBench()
  const { volumes, clock } = bench
  await volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await volumes.open('v', {})
  await write(bench, device, 0, Buffer.alloc(4096, 1))
  bench.store.paused = true
  let answers = 0
  const count = (answer: { error: number }): { error: number } => {
    answers++
    return answer
  }
  const first = ask(bench, device, { kind: Flush }).then(count)
  await clock.advance(3600_000)
  await new Promise((resolve) => setTimeout(resolve, 300))
  strictEqual(answers, 0)
  strictEqual((await volumes.change('v', { unavailableMs: 60_000 })).unavailableMs, 60_000)
  await until(() => answers === 1, 'the first one ends')
  strictEqual((await first).error, ErrorCode.NoQuorum)
  const second = ask(bench, device, { kind: Flush }).then(count)
  await clock.advance(59_000)
  await new Promise((resolve) => setTimeout(resolve, 300))
  strictEqual(answers, 1)
  bench.store.release()
  strictEqual((await second).error, 0)
  strictEqual((await volumes.change('v', { unavailableMs: null })).unavailableMs, null)
  await bench.close()
})

test('what another process changes about a volume holds here at once', async () => {
  const noted: (number | null)[] = []
  const gate: WriterGate = {
    isShared: true,
    acquire: async () => 1,
    retake: async () => 2,
    release: async () => {},
    noteEpoch: () => {},
    offer: () => {},
    noteChange: ({ unavailableMs = null }) => void noted.push(unavailableMs)
  }
  const bench = await openBench({ volumes: { gate } })
  const { cluster, session, arena, store } = bench
  const other = new Volumes({ cluster, session, arena, store, gate: { ...gate, noteChange() {} } })
  await other.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', {})
  await other.change('v', { unavailableMs: 5000 })
  await other.resize('v', 2 * MIB)
  await until(async () => noted.at(-1) === 5000 && device.sizeBytes === 2 * MIB, 'it is told')
  await device.close()
  await other.resize('v', MIB, { shrink: true })
  const again = await bench.volumes.open('v', {})
  strictEqual(again.sizeBytes, MIB)
  await again.close()
  await other.close()
  await bench.close()
})

test('what each gateway goes on with gives way to whoever asks, but for clients', async () => {
  const offers: boolean[] = []
  const waits: boolean[] = []
  const gate: WriterGate = {
    isShared: true,
    acquire: async (_, options) => {
      waits.push(options.waits)
      return 1
    },
    retake: async () => 2,
    release: async () => {},
    noteEpoch: () => {},
    offer: (_, isOffered) => void offers.push(isOffered),
    noteChange: () => {}
  }
  const bench = await openBench({ volumes: { gate } })
  const { volumes } = bench
  await volumes.create({ name: 'v', sizeBytes: MIB })
  const own = await volumes.openOwn('v')
  strictEqual(offers.at(-1), true)
  const client = await volumes.open('v', {})
  strictEqual(offers.at(-1), false)
  await client.close()
  strictEqual(offers.at(-1), true)
  await own.device.close()
  deepStrictEqual([offers.at(-1), waits], [false, [true]])
  const taken = await volumes.open('v', {})
  deepStrictEqual([offers.at(-1), waits], [false, [true, false]])
  await taken.close()
  await bench.close()
})

test('a closed peer opens and makes nothing', async () => {
  const bench = await openBench()
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await bench.volumes.open('v', {})
  await bench.volumes.close()
  strictEqual((await write(bench, device, 0, Buffer.alloc(1))).error, ErrorCode.Closed)
  await rejects(bench.volumes.open('v', {}), failsWith(ErrorCode.Closed))
  const made = bench.volumes.create({ name: 'w', sizeBytes: MIB })
  await rejects(made, failsWith(ErrorCode.Closed))
  await bench.close()
})

test.run()
