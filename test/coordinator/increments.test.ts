/** Increments: a volume elsewhere follows another, snapshot by snapshot. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import {
  encodeEnd,
  encodeHeader,
  encodePart,
  StreamReader,
  type StreamSnapshot,
  VolumeDigest
} from '../../src/backup/stream-format.ts'
import { torusStream } from '../../src/cli/import-sources.ts'
import { exportOf } from '../../src/coordinator/exports.ts'
import { Increments } from '../../src/coordinator/increments.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import type { RunningPeer } from '../../src/index.ts'
import type { Volumes } from '../../src/volume/volumes.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { withPeer } from '../helpers/own-peer.ts'
import { failsWith } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const SIZE = 12 * MIB
const BLOCK = 4096

async function streamOf(volumes: Volumes, snapshot: string, from?: string, start = 0) {
  const parts: Buffer[] = []
  for await (const part of await exportOf(volumes, 'v', { snapshot, from, start })) {
    parts.push(part as Buffer)
  }
  return Buffer.concat(parts)
}

async function* once(stream: Buffer) {
  yield stream
}

async function headerOf(stream: Buffer) {
  const header = await new StreamReader(once(stream)).header()
  const snapshot = header.snapshot as StreamSnapshot & { base: string }
  const digest = stream.toString('hex', stream.length - 40, stream.length - 8)
  return { ...header, snapshot, digest }
}

async function bytesOf(volumes: Volumes, name: string): Promise<Buffer> {
  const file = await volumes.openFile(name, { readOnly: true, own: true })
  const bytes = await file.readAt(0, file.sizeBytes)
  await file.close()
  return bytes
}

/** `v` with snapshots a, b, c, and `w`, which is what `v@a` was. */
async function made({ volumes }: RunningPeer): Promise<void> {
  const random = new SeededRandom(5)
  await volumes.create({ name: 'v', sizeBytes: SIZE })
  const file = await volumes.openFile('v')
  for (const name of ['a', 'b', 'c']) {
    for (let i = 0; i < 12; i++) {
      const first = random.below(SIZE / BLOCK - 30)
      const count = 1 + random.below(30)
      if (name !== 'a' && i % 3 === 0) await file.trim(first * BLOCK, count * BLOCK)
      else await file.writeAt(first * BLOCK, Buffer.alloc(count * BLOCK, 1 + random.below(255)))
    }
    // Zeroes among data, over what was data.
    await file.writeAt(MIB, Buffer.alloc(8 * BLOCK, name === 'b' ? 0 : 7))
    await file.writeAt(MIB + BLOCK, Buffer.alloc(BLOCK, 9))
    if (name === 'b') await file.resize(SIZE + MIB)
    if (name === 'c') await file.resize(SIZE - MIB, { shrink: true })
    await volumes.snapshots.create('v', name)
  }
  await file.close()
  await volumes.create({ name: 'w', sizeBytes: SIZE })
  const copy = await volumes.openFile('w')
  await copy.writeAt(0, await bytesOf(volumes, 'v@a'))
  await copy.close()
  const { id } = await volumes.snapshots.show('v', 'a')
  await volumes.snapshots.create('w', 'first', { labels: { 'torus.origin': id } })
}

async function finished(increments: Increments): Promise<string> {
  for (;;) {
    const { state, error } = await increments.show('w')
    if (state === 'done' || state === 'failed') return error?.code ?? state
    await new Promise(setImmediate)
  }
}

test('increments bring a copy from snapshot to snapshot', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    await made(peer)
    const increments = new Increments(volumes)
    for (const [from, to] of [
      ['a', 'b'],
      ['b', 'c']
    ] as const) {
      const stream = await streamOf(volumes, to, from)
      const { sizeBytes, snapshot, digest } = await headerOf(stream)
      ok(stream.length < 4 * MIB)
      await increments.begin('w', { sizeBytes, snapshot })
      await increments.write('w', stream, sizeBytes)
      await increments.finish('w', digest)
      strictEqual(await finished(increments), 'done')
      const [copy, original] = [
        await bytesOf(volumes, `w@${to}`),
        await bytesOf(volumes, `v@${to}`)
      ]
      ok(copy.equals(original), to)
      ok((await bytesOf(volumes, 'w')).equals(original), 'the head is as the snapshot')
      const again = increments.begin('w', { sizeBytes, snapshot })
      await rejects(again, failsWith(ErrorCode.AlreadyExists))
    }
    const { labels, readOnly } = await volumes.show('w')
    deepStrictEqual([labels, readOnly], [{}, true])
    // A copy of the copy takes increments of either.
    const twice = await headerOf(await streamOf(volumes, 'c'))
    strictEqual(twice.snapshot.id, (await volumes.snapshots.show('v', 'c')).id)
  }))

test('an increment on what is not its base, or not whole, makes no snapshot', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    await made(peer)
    const increments = new Increments(volumes)
    const [first, second] = [await streamOf(volumes, 'b', 'a'), await streamOf(volumes, 'c', 'b')]
    const [toB, toC] = [await headerOf(first), await headerOf(second)]
    await rejects(increments.begin('w', toC), failsWith(ErrorCode.NotFound))
    const head = exportOf(volumes, 'v', { from: 'a', start: 0 })
    await rejects(head, failsWith(ErrorCode.InvalidArgument))
    const backwards = streamOf(volumes, 'a', 'b')
    await rejects(backwards, failsWith(ErrorCode.InvalidArgument))
    const file = await volumes.openFile('w')
    await file.writeAt(0, Buffer.alloc(1, 1))
    await file.close()
    await rejects(increments.begin('w', toB), failsWith(ErrorCode.Conflict))
    strictEqual((await volumes.show('w')).readOnly, false)
    await volumes.snapshots.create('w', 'second', { labels: { 'torus.origin': toB.snapshot.base } })
    await volumes.snapshots.delete('w', 'first')
    // The byte that differs is in no part of the increment, and so in the snapshot that is taken.
    await increments.begin('w', toB)
    await rejects(
      increments.write('w', first.subarray(0, -1), toB.sizeBytes),
      failsWith(ErrorCode.Corrupt)
    )
    const damaged = Buffer.from(first)
    damaged[5000]! ^= 1
    await rejects(increments.write('w', damaged, toB.sizeBytes), failsWith(ErrorCode.Corrupt))
    await rejects(increments.finish('w', toB.digest), failsWith(ErrorCode.InvalidArgument))
    // Half of it is there: another one does not go onto that, this one does.
    const other = { ...toB, snapshot: { ...toB.snapshot, id: 'f'.repeat(16), name: 'x' } }
    const elsewhere = new Increments(volumes)
    await rejects(elsewhere.begin('w', other), failsWith(ErrorCode.Conflict))
    await elsewhere.begin('w', toB)
    await elsewhere.write('w', first, toB.sizeBytes)
    await elsewhere.finish(
      'w',
      toB.digest.replace(/^./, (digit) => (digit === '0' ? '1' : '0'))
    )
    strictEqual(await finished(elsewhere), 'ChecksumMismatch')
    deepStrictEqual(
      (await volumes.snapshots.list('w')).map(({ name }) => name),
      ['second']
    )
    await elsewhere.write('w', first, toB.sizeBytes)
    await elsewhere.finish('w', toB.digest)
    strictEqual(await finished(elsewhere), 'done')
  }))

test('an increment from which a part was taken out is refused by who reads it', () =>
  withPeer(async (open) => {
    const peer = await open()
    await made(peer)
    const whole = await streamOf(peer.volumes, 'b', 'a')
    const at = whole.indexOf('ZERO')
    const read = async (stream: Buffer): Promise<void> => {
      const source = await torusStream(once(stream))
      for await (const _ of source.parts());
    }
    await read(whole)
    const without = Buffer.concat([whole.subarray(0, at), whole.subarray(at + 24)])
    await rejects(read(without), /it has/)
  }))

/** The parts of a stream before and after a block, as streams of their own. */
async function cutAt(stream: Buffer, cut: number): Promise<[Buffer, Buffer]> {
  const reader = new StreamReader(once(stream))
  const { sizeBytes, snapshot } = await reader.header()
  const pieces = [0, cut].map((startBytes) => ({
    parts: [encodeHeader({ sizeBytes, startBytes, snapshot })],
    digest: new VolumeDigest()
  }))
  for (let part = await reader.next(); part.kind !== 'end'; part = await reader.next()) {
    const { parts, digest } = pieces[part.offset < cut ? 0 : 1]!
    parts.push(...encodePart(part).map((bytes) => Buffer.from(bytes)))
    digest.addPart(part)
  }
  const [first, second] = pieces.map(({ parts, digest }) =>
    Buffer.concat([...parts, encodeEnd(digest.end())])
  )
  return [first!, second!]
}

test('an increment goes on where it was, in another process too', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    await made(peer)
    const whole = await streamOf(volumes, 'b', 'a')
    const { sizeBytes, snapshot, digest } = await headerOf(whole)
    const cut = 5 * MIB
    const [first, second] = await cutAt(whole, cut)
    const increments = new Increments(volumes, 0)
    await increments.begin('w', { sizeBytes, snapshot })
    await rejects(increments.write('w', second, sizeBytes), failsWith(ErrorCode.InvalidArgument))
    await rejects(increments.write('w', whole, cut), failsWith(ErrorCode.InvalidArgument))
    await increments.write('w', first, cut)
    const successor = new Increments(volumes, 0)
    strictEqual((await successor.begin('w', { sizeBytes, snapshot })).doneBytes, cut)
    await successor.write('w', second, sizeBytes)
    await successor.finish('w', digest)
    strictEqual(await finished(successor), 'done')
    ok((await bytesOf(volumes, 'w@b')).equals(await bytesOf(volumes, 'v@b')))
    deepStrictEqual((await volumes.show('w')).labels, {})
    const kinds = (await volumes.events('w')).map(({ kind }) => kind)
    ok(kinds.filter((kind) => kind === 'changed').length <= 3, kinds.join())
  }))

test('what is read from a block on has a digest of its own, if that is wanted', () =>
  withPeer(async (open) => {
    const peer = await open()
    const { volumes } = peer
    await made(peer)
    const whole = await streamOf(volumes, 'b', 'a')
    const cut = 5 * MIB + 3 * BLOCK
    const rest = await streamOf(volumes, 'b', 'a', cut)
    deepStrictEqual(rest.subarray(-56), whole.subarray(-56))
    for (const [snapshot, from] of [
      ['b', 'a'],
      ['b', undefined]
    ] as const) {
      const parts: Buffer[] = []
      const wanted = { snapshot, from, start: cut, digest: 'rest' as const }
      for await (const part of await exportOf(volumes, 'v', wanted)) parts.push(part as Buffer)
      const reader = new StreamReader(once(Buffer.concat(parts)))
      await reader.header()
      const digest = new VolumeDigest()
      let part = await reader.next()
      for (; part.kind !== 'end'; part = await reader.next()) digest.addPart(part)
      deepStrictEqual(digest.end(), part)
      ok(digest.blocks > 0)
    }
  }))

test.run()
