/** Snapshots of volumes on real shards, taken while clients write. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { until } from '../helpers/process.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { withPeer } from '../helpers/own-peer.ts'
import { failsWith } from '../helpers/volume-bench.ts'
import { changeAtRandom, readAll, usedBytes } from '../helpers/volume-peer.ts'

const SIZE = 8 * 1024 * 1024
const seed = Number(process.env['SEED'] ?? 1)

test(`snapshots read the same for ever, over restarts and deletes (SEED=${seed})`, () =>
  withPeer(async (open) => {
    const random = new SeededRandom(seed)
    let peer = await open()
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    const model = Buffer.alloc(SIZE)
    const kept = new Map<string, Buffer>()
    for (let round = 0; round < 9; round++) {
      const file = await peer.volumes.openFile('v')
      for (let i = 0; i < 12; i++) await changeAtRandom(file, model, random)
      ok((await file.readAt(0, SIZE)).equals(model))
      const { snapshots } = peer.volumes
      await snapshots.create('v', `s${round}`)
      kept.set(`s${round}`, Buffer.from(model))
      await file.close()
      if (round % 4 === 2) {
        const gone = [...kept.keys()][random.below(kept.size)]!
        await snapshots.delete('v', gone)
        kept.delete(gone)
      }
      if (round % 3 === 1) {
        await peer.stop()
        peer = await open()
      }
      for (const [name, expected] of kept) {
        ok((await readAll(peer, `v@${name}`)).equals(expected), `${name} in round ${round}`)
      }
      ok((await readAll(peer, 'v')).equals(model))
    }
    const names = (await peer.volumes.snapshots.list('v')).map(({ name }) => name)
    deepStrictEqual(names, [...kept.keys()])
    await rejects(peer.volumes.delete('v'), failsWith(ErrorCode.Busy))
    await peer.volumes.delete('v', { force: true })
    await peer.stop()
  }))

test('a snapshot is one moment: what was acknowledged before, nothing begun after', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    const file = await volumes.openFile('v')
    const lanes = 6
    const acked = new Array<number>(lanes).fill(0)
    const begun = new Array<number>(lanes).fill(0)
    let running = true
    // A lane counts in one place, then in another: unaligned, so that blocks are merged too.
    const lane = async (at: number): Promise<void> => {
      for (let n = 1; running; n++) {
        const bytes = Buffer.alloc(8)
        bytes.writeUInt32LE(n)
        begun[at] = n
        await file.writeAt(at * 5000 + 100, bytes)
        await file.writeAt(SIZE / 2 + at * 5000, bytes)
        acked[at] = n
      }
    }
    const lanesRun = Array.from({ length: lanes }, (_, at) => lane(at))
    for (let i = 0; i < 25; i++) {
      const before = [...acked]
      await volumes.snapshots.create('v', `s${i}`)
      const after = [...begun]
      const then = await volumes.openFile(`v@s${i}`)
      for (let at = 0; at < lanes; at++) {
        const first = (await then.readAt(at * 5000 + 100, 4)).readUInt32LE()
        const second = (await then.readAt(SIZE / 2 + at * 5000, 4)).readUInt32LE()
        ok(first >= before[at]! && first <= after[at]!, `${before[at]} ${first} ${after[at]}`)
        ok(second === first || second === first - 1, `lane ${at}: ${first} and then ${second}`)
      }
      await then.close()
    }
    running = false
    await Promise.all(lanesRun)
    await file.close()
    await peer.stop()
  }))

test('what a deleted snapshot alone had is given back, also after a restart', () =>
  withPeer(async (open) => {
    let peer = await open()
    await peer.volumes.create({ name: 'v', sizeBytes: SIZE })
    const { snapshots } = peer.volumes
    const file = await peer.volumes.openFile('v')
    for (let i = 0; i < 4; i++) {
      await file.writeAt(0, Buffer.alloc(1024 * 1024, i + 1))
      await file.writeAt((i + 1) * 1024 * 1024, Buffer.alloc(1024 * 1024, i + 1))
      await snapshots.create('v', `s${i}`)
    }
    await file.close()
    const usesMib = (mib: number): Promise<void> =>
      until(async () => (await usedBytes(peer)) === mib * 1024 * 1024, `${mib} MiB in use`)
    await usesMib(8)
    await snapshots.delete('v', 's1')
    await snapshots.delete('v', 's2')
    await usesMib(6)
    await peer.stop()
    peer = await open()
    await usesMib(6)
    ok((await readAll(peer, 'v@s0')).subarray(0, 1024 * 1024).every((byte) => byte === 1))
    ok((await readAll(peer, 'v@s3')).subarray(0, 1024 * 1024).every((byte) => byte === 4))
    ok((await readAll(peer, 'v')).subarray(2 ** 21, 2 ** 21 + 4096).every((byte) => byte === 2))
    await peer.stop()
  }))

test('snapshots are named, shown, changed and refused as their names say', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    const { snapshots } = volumes
    await volumes.create({ name: 'v', sizeBytes: SIZE })
    const made = await snapshots.create('v', 'one', { description: 'first', labels: { a: 'b' } })
    strictEqual(made.volume, 'v')
    strictEqual(made.sizeBytes, SIZE)
    await rejects(snapshots.create('v', 'one'), failsWith(ErrorCode.AlreadyExists))
    await rejects(snapshots.create('v', 'a b'), failsWith(ErrorCode.InvalidArgument))
    await rejects(snapshots.create('w', 'one'), failsWith(ErrorCode.NotFound))
    await rejects(volumes.openFile('v@two'), failsWith(ErrorCode.NotFound))
    const renamed = await snapshots.rename('v', 'one', 'uno')
    strictEqual(renamed.id, made.id)
    strictEqual((await snapshots.change('v', 'uno', { labels: {} })).description, 'first')
    const file = await volumes.openFile('v@uno')
    ok(file.readOnly)
    strictEqual(file.name, 'v@uno')
    await rejects(file.writeAt(0, Buffer.alloc(1)), failsWith(ErrorCode.ReadOnly))
    await rejects(snapshots.delete('v', 'uno'), failsWith(ErrorCode.Busy))
    await volumes.resize('v', 2 * SIZE)
    strictEqual(file.sizeBytes, SIZE, 'the size is what it was')
    await file.close()
    await volumes.change('v', { readOnly: true })
    await rejects(volumes.resize('v', 4096, { shrink: true }), failsWith(ErrorCode.ReadOnly))
    await volumes.change('v', { readOnly: false })
    await volumes.resize('v', 4096, { shrink: true })
    strictEqual((await readAll(peer, 'v@uno')).length, SIZE)
    await snapshots.delete('v', 'uno')
    await rejects(snapshots.delete('v', 'uno'), failsWith(ErrorCode.NotFound))
    strictEqual((await snapshots.list('v')).length, 0)
    await peer.stop()
  }))

test.run()
