/** Deleted volumes: restored, deleted for good, and their names used again. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { changeSettings } from '../../src/cluster/settings.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { RequestKind } from '../../src/volume/request.ts'
import { Volumes } from '../../src/volume/volumes.ts'
import type { WriterGate } from '../../src/volume/writer-gate.ts'
import { until } from '../helpers/process.ts'
import { ask, type Bench, failsWith, openBench } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const DAY_MS = 24 * 3600 * 1000
const data = Buffer.alloc(MIB / 2, 7)

/** A volume with data, as it was deleted. Returns its family. */
async function discarded(bench: Bench, name: string): Promise<string> {
  const { volumes } = bench
  const { family } = await volumes.create({ name, sizeBytes: MIB })
  const file = await volumes.openFile(name)
  await file.writeAt(0, data)
  await file.close()
  ok((await volumes.discard(name)) !== null)
  return family
}

test('a deleted volume is in the trash with its data, and comes back with it', async () => {
  const bench = await openBench()
  const { volumes, store } = bench
  const family = await discarded(bench, 'v')
  for (const gone of [volumes.show('v'), volumes.open('v', {}), volumes.discard('v')]) {
    await rejects(gone, failsWith(ErrorCode.NotFound))
  }
  deepStrictEqual([(await volumes.list()).length, (await volumes.listAll()).length], [0, 0])
  const [entry] = await volumes.trash.list()
  strictEqual(Date.parse(entry!.hidden.until) - Date.parse(entry!.hidden.since), DAY_MS)
  ok(store.blockCount(family) > 0)
  await volumes.resume()
  strictEqual((await volumes.trash.restore('v')).family, family)
  const file = await volumes.openFile('v')
  deepStrictEqual(await file.readAt(0, data.length), data)
  await file.writeAt(0, data)
  await file.close()
  deepStrictEqual(
    (await volumes.events('v')).map(({ kind }) => kind).filter((kind) => kind !== 'served'),
    ['created', 'deleted', 'restored']
  )
  await bench.close()
})

test('the name is free at once, and a restore asks for another where it was taken', async () => {
  const bench = await openBench()
  const { volumes } = bench
  await discarded(bench, 'v')
  await discarded(bench, 'v')
  const { family } = await volumes.create({ name: 'v', sizeBytes: MIB })
  await rejects(volumes.trash.restore('v'), failsWith(ErrorCode.Conflict))
  const [first] = await volumes.trash.list()
  await rejects(volumes.trash.restore(first!.id), failsWith(ErrorCode.AlreadyExists))
  await rejects(volumes.trash.restore(first!.id, 'a/b'), failsWith(ErrorCode.InvalidArgument))
  await rejects(volumes.trash.restore('nobody'), failsWith(ErrorCode.NotFound))
  strictEqual((await volumes.trash.restore(first!.id, 'old')).family, first!.family)
  await volumes.trash.delete('v')
  strictEqual((await volumes.show('v')).family, family)
  strictEqual((await volumes.listAll()).length, 2)
  await bench.close()
})

test('space comes back when the trash is emptied, or when the time is over', async () => {
  const bench = await openBench()
  const { volumes, store, clock, cluster } = bench
  const families = [await discarded(bench, 'a'), await discarded(bench, 'b')]
  await clock.advance(DAY_MS / 2)
  families.push(await discarded(bench, 'c'))
  await volumes.trash.delete('a')
  const blocks = () => families.map((family) => store.blockCount(family) > 0)
  deepStrictEqual(blocks(), [false, true, true])
  strictEqual(await volumes.trash.removeExpired(), 0)
  await clock.advance(DAY_MS / 2)
  strictEqual(await volumes.trash.removeExpired(), 1)
  deepStrictEqual(blocks(), [false, false, true])
  await rejects(volumes.trash.restore('b'), failsWith(ErrorCode.NotFound))
  deepStrictEqual(await volumes.trash.empty(), { removed: ['c'], kept: 0 })
  deepStrictEqual(blocks(), [false, false, false])
  await rejects(changeSettings(cluster, { trashMs: -1 }), failsWith(ErrorCode.InvalidArgument))
  await changeSettings(cluster, { trashMs: 0 })
  await volumes.create({ name: 'd', sizeBytes: MIB })
  strictEqual(await volumes.discard('d'), null)
  strictEqual((await volumes.trash.list()).length, 0)
  await bench.close()
})

test('a volume in use is deleted by force, and an encrypted one keeps its keys', async () => {
  const disconnected: string[] = []
  const bench = await openBench({ volumes: { disconnect: (name) => void disconnected.push(name) } })
  const { volumes } = bench
  const secret = { kind: 'passphrase', secret: Buffer.from('correct horse') } as const
  const encrypt = { ...secret, label: '' }
  await volumes.create({ name: 'v', sizeBytes: MIB, encrypt })
  const device = await volumes.open('v', {})
  await rejects(volumes.discard('v'), failsWith(ErrorCode.Busy))
  await volumes.discard('v', { force: true })
  deepStrictEqual(disconnected, ['v'])
  const late = await ask(bench, device, { kind: RequestKind.Write, data: Buffer.alloc(4096) })
  strictEqual(late.error, ErrorCode.Closed)
  await volumes.trash.restore('v')
  await rejects(volumes.open('v', {}), failsWith(ErrorCode.Locked))
  await bench.close()
})

test('a gateway lets a volume go that another peer put into the trash', async () => {
  const disconnected: string[] = []
  const bench = await openBench()
  const released: string[] = []
  const gate: WriterGate = {
    isShared: true,
    acquire: async () => 1,
    retake: async () => 2,
    noteEpoch: () => {},
    offer: () => {},
    noteChange: () => {},
    release: async ({ name }) => void released.push(name)
  }
  const gateway = new Volumes({
    cluster: bench.cluster,
    session: bench.session,
    store: bench.store,
    arena: bench.arena,
    gate,
    disconnect: (name) => void disconnected.push(name)
  })
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  const device = await gateway.open('v', {})
  await bench.volumes.discard('v', { force: true })
  await until(() => released.includes('v'), 'the gateway lets it go')
  deepStrictEqual(disconnected, ['v'])
  const late = await ask(bench, device, { kind: RequestKind.Write, data: Buffer.alloc(4096) })
  strictEqual(late.error, ErrorCode.Closed)
  await bench.volumes.trash.restore('v')
  // It is opened anew, not as what was given up.
  const again = await gateway.open('v', {})
  const read = await ask(bench, again, { kind: RequestKind.Read, length: 4096 })
  strictEqual(read.error, 0)
  await again.close()
  await gateway.close()
  await bench.close()
})

test('protected snapshots keep a volume in the trash until somebody insists', async () => {
  const bench = await openBench()
  const { volumes, clock } = bench
  const { snapshots, trash } = volumes
  for (const name of ['a', 'b', 'c']) {
    await volumes.create({ name, sizeBytes: MIB })
    await snapshots.create(name, 's')
    if (name !== 'a') await snapshots.change(name, 's', { protected: true })
    await volumes.discard(name)
  }
  await clock.advance(2 * DAY_MS)
  strictEqual(await trash.removeExpired(), 1)
  await rejects(trash.delete('b'), failsWith(ErrorCode.Busy))
  deepStrictEqual(await trash.empty(), { removed: [], kept: 2 })
  await trash.delete('b', { force: true })
  const [left] = await trash.list()
  deepStrictEqual([left?.name, await trash.protectedSnapshots(left!)], ['c', 1])
  deepStrictEqual(await trash.empty(true), { removed: ['c'], kept: 0 })
  await bench.close()
})

test.run()
