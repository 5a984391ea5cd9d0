/** Volumes that begin on snapshots: clones, and volumes that were restored, on real shards. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { withPeer } from '../helpers/own-peer.ts'
import { until } from '../helpers/process.ts'
import { failsWith } from '../helpers/volume-bench.ts'
import { changeAtRandom, readAll, usedBytes } from '../helpers/volume-peer.ts'

const SIZE = 8 * 1024 * 1024
const MIB = 1024 * 1024
const seed = Number(process.env['SEED'] ?? 1)

test(`clones, restored volumes and all snapshots read as they should (SEED=${seed})`, () =>
  withPeer(async (open) => {
    const random = new SeededRandom(seed)
    let peer = await open()
    await peer.volumes.create({ name: 'v0', sizeBytes: SIZE })
    const volumes = new Map([['v0', Buffer.alloc(SIZE)]])
    const shown = new Map<string, Buffer>()
    const compare = async (): Promise<void> => {
      for (const [name, expected] of [...volumes, ...shown]) {
        ok((await readAll(peer, name)).equals(expected), name)
      }
    }
    for (let round = 0; round < 10; round++) {
      const name = [...volumes.keys()][random.below(volumes.size)]!
      const model = volumes.get(name)!
      const file = await peer.volumes.openFile(name)
      for (let i = 0; i < 8; i++) await changeAtRandom(file, model, random)
      await file.close()
      const { snapshots, clones } = peer.volumes
      await snapshots.create(name, `s${round}`)
      shown.set(`${name}@s${round}`, Buffer.from(model))
      const from = [...shown.keys()][random.below(shown.size)]!
      const [volume, snapshot] = from.split('@') as [string, string]
      if (round % 3 === 0) {
        await clones.clone(volume, snapshot, { name: `v${round + 1}` })
        volumes.set(`v${round + 1}`, Buffer.from(shown.get(from)!))
      } else if (round % 3 === 1) {
        await snapshots.restore(volume, snapshot)
        volumes.set(volume, Buffer.from(shown.get(from)!))
      } else if ((await clones.children(volume, snapshot)).length > 0) {
        await rejects(snapshots.delete(volume, snapshot), failsWith(ErrorCode.Busy))
      } else {
        await snapshots.delete(volume, snapshot)
        shown.delete(from)
      }
      if (round % 5 === 4) {
        await peer.stop()
        peer = await open()
      }
      await compare()
    }
  }))

test('a restore gives back what nobody shows any more, and what later snapshots show stays', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    const { snapshots } = volumes
    const usesMib = (mib: number): Promise<void> =>
      until(async () => (await usedBytes(peer)) === mib * MIB, `${mib} MiB in use`)
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    let file = await volumes.openFile('v')
    for (const [at, name] of ['a', 'b', 'c'].entries()) {
      await file.writeAt(at * MIB, Buffer.alloc(MIB, at + 1))
      await snapshots.create('v', name)
    }
    await file.writeAt(3 * MIB, Buffer.alloc(MIB, 9))
    await rejects(snapshots.restore('v', 'a'), failsWith(ErrorCode.Busy))
    await file.close()
    await usesMib(4)
    await volumes.resize('v', 2 * SIZE)
    await snapshots.restore('v', 'a')
    strictEqual((await volumes.show('v')).sizeBytes, SIZE)
    await usesMib(3)
    const one = await readAll(peer, 'v')
    ok(one.subarray(0, MIB).every((byte) => byte === 1))
    ok(one.subarray(MIB).every((byte) => byte === 0))
    ok((await readAll(peer, 'v@c')).subarray(2 * MIB, 3 * MIB).every((byte) => byte === 3))
    file = await volumes.openFile('v')
    await file.writeAt(0, Buffer.alloc(MIB, 7))
    await file.close()
    await snapshots.delete('v', 'c')
    await usesMib(3)
    await snapshots.restore('v', 'b')
    ok((await readAll(peer, 'v')).subarray(MIB, 2 * MIB).every((byte) => byte === 2))
    await usesMib(2)
    deepStrictEqual(
      (await snapshots.list('v')).map(({ name }) => name),
      ['a', 'b']
    )
  }))

test('what stands on a snapshot keeps it and its volume, and is named', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    const { snapshots, clones } = volumes
    await volumes.create({ name: 'v', sizeBytes: SIZE, labels: { a: 'b' } })
    await snapshots.create('v', 's')
    const only = { addresses: ['10.0.0.0/8'], tlsNames: ['backup'] }
    await peer.volumes.change('v', { access: { ...only, readOnly: true } })
    await clones.clone('v', 's', { name: 'c', labels: { x: 'y' } })
    const { access } = await peer.volumes.show('c')
    const wanted = { ...only, readOnly: false, listSnapshots: false }
    deepStrictEqual(access, wanted, 'whom its origin keeps out, it keeps out')
    await rejects(clones.clone('v', 's', { name: 'c' }), failsWith(ErrorCode.AlreadyExists))
    await rejects(clones.clone('v', 's', { name: 'a b' }), failsWith(ErrorCode.InvalidArgument))
    await rejects(clones.clone('v', 'no', { name: 'd' }), failsWith(ErrorCode.NotFound))
    await rejects(clones.clone('w', 's', { name: 'd' }), failsWith(ErrorCode.NotFound))
    await rejects(snapshots.restore('v', 'no'), failsWith(ErrorCode.NotFound))
    await rejects(snapshots.delete('v', 's'), /stands on: c;/)
    await rejects(volumes.delete('v', { force: true }), /that 1 clone stands on: c;/)
    await rejects(volumes.discard('v', { force: true }), /that 1 clone stands on: c;/)
    const [child] = await clones.children('v', 's')
    strictEqual(child?.name, 'c')
    deepStrictEqual((await volumes.show('c')).labels, { x: 'y' })
    await volumes.discard('c')
    await rejects(snapshots.delete('v', 's'), /c \(in the trash, \w+\)/)
    await volumes.trash.restore('c')
    strictEqual((await readAll(peer, 'c')).length, SIZE)
    await volumes.delete('c')
    deepStrictEqual(await clones.children('v', null), [])
    await volumes.discard('v', { force: true })
    await rejects(clones.clone('v', 's', { name: 'd' }), /in the trash/)
    await volumes.trash.restore('v')
    await snapshots.delete('v', 's')
    await volumes.delete('v')
  }))

test('an encrypted clone reads its base, writes apart, and stays when that goes', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    const { snapshots, clones, flattener } = volumes
    const encrypt = { kind: 'key-file', secret: Buffer.alloc(32, 7), label: '' } as const
    await volumes.create({ name: 'v', sizeBytes: SIZE, encrypt })
    const random = new SeededRandom(seed)
    const model = Buffer.alloc(SIZE)
    let file = await volumes.openFile('v')
    for (let i = 0; i < 12; i++) await changeAtRandom(file, model, random)
    await snapshots.create('v', 's')
    const shown = Buffer.from(model)
    await file.writeAt(0, Buffer.alloc(SIZE, 0xaa))
    await file.close()
    await clones.clone('v', 's', { name: 'c' })
    file = await volumes.openFile('c')
    for (let i = 0; i < 6; i++) await changeAtRandom(file, model, random)
    // Twice: the second time from the main thread's maps.
    for (let round = 0; round < 2; round++) {
      for (let at = 0; at < SIZE; at += 8192) {
        ok((await file.readAt(at, 8192)).equals(model.subarray(at, at + 8192)), `at ${at}`)
      }
    }
    await file.close()
    await snapshots.restore('v', 's')
    ok((await readAll(peer, 'v')).equals(shown))
    await flattener.start('c')
    await until(async () => (await volumes.baseOf('c')).base === null, 'flattened')
    await volumes.delete('v', { force: true })
    ok((await readAll(peer, 'c')).equals(model))
  }))

for (const withSnapshot of [false, true]) {
  const kind = withSnapshot ? 'with a snapshot' : 'without snapshots'
  test(`a clone ${kind} that was flattened while it was written stands on no other`, () =>
    withPeer(async (open) => {
      const random = new SeededRandom(seed)
      let peer = await open()
      const { snapshots, clones, flattener } = peer.volumes
      await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
      const model = Buffer.alloc(SIZE)
      let file = await peer.volumes.openFile('v')
      for (let i = 0; i < 12; i++) await changeAtRandom(file, model, random)
      await snapshots.create('v', 's')
      await file.writeAt(0, Buffer.alloc(SIZE, 0xaa))
      await file.close()
      await clones.clone('v', 's', { name: 'c' })
      await rejects(flattener.start('v'), failsWith(ErrorCode.InvalidArgument))
      file = await peer.volumes.openFile('c')
      for (let i = 0; i < 6; i++) await changeAtRandom(file, model, random)
      const shown = Buffer.from(model)
      if (withSnapshot) await snapshots.create('c', 't')
      await flattener.start('c')
      for (let i = 0; i < 12; i++) await changeAtRandom(file, model, random)
      await until(async () => (await peer.volumes.baseOf('c')).base === null, 'flattened')
      await file.close()
      await snapshots.delete('v', 's')
      await peer.volumes.delete('v')
      for (let round = 0; round < 2; round++) {
        ok((await readAll(peer, 'c')).equals(model))
        if (withSnapshot) ok((await readAll(peer, 'c@t')).equals(shown))
        await peer.stop()
        peer = await open()
      }
      await rejects(peer.volumes.flattener.start('c'), /stands on no other/)
    }))
}

test.run()
