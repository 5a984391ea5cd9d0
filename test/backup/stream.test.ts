/** A volume as a stream: what goes in comes out, and nothing of it can be changed or lost. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { digestOf, exportVolume } from '../../src/backup/exporter.ts'
import { StreamReader, VolumeDigest } from '../../src/backup/stream-format.ts'
import { StoreError } from '../../src/core/errors.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { type Bench, openBench } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const SIZE = 6 * MIB

/** A volume with runs of data, single blocks, written zeroes and holes. */
async function made(bench: Bench): Promise<Buffer> {
  await bench.volumes.create({ name: 'v', sizeBytes: SIZE })
  const file = await bench.volumes.openFile('v')
  const expected = Buffer.alloc(SIZE)
  const random = new SeededRandom(7)
  const write = async (at: number, bytes: Buffer): Promise<void> => {
    bytes.copy(expected, at)
    await file.writeAt(at, bytes)
  }
  await write(0, Buffer.from(Array.from({ length: 5 * 4096 }, () => random.u32() & 0xff)))
  await write(MIB, Buffer.alloc(2 * MIB, 3))
  await write(2 * MIB, Buffer.alloc(8192))
  await write(5 * MIB + 100, Buffer.alloc(10, 9))
  await file.close()
  return expected
}

async function streamOf(bench: Bench, start = 0): Promise<Buffer> {
  const parts: Buffer[] = []
  const file = await bench.volumes.openFile('v', { readOnly: true })
  for await (const part of exportVolume(file, { snapshot: null, base: null, startBytes: start }))
    parts.push(part)
  return Buffer.concat(parts)
}

async function* inPieces(bytes: Buffer, pieceBytes: number): AsyncIterable<Buffer> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
}

/** What a stream holds; the digest is checked. */
async function contentsOf(stream: Buffer, pieceBytes = 10_000): Promise<Buffer> {
  const reader = new StreamReader(inPieces(stream, pieceBytes))
  const { sizeBytes, startBytes } = await reader.header()
  const contents = Buffer.alloc(sizeBytes)
  const digest = new VolumeDigest()
  for (;;) {
    const part = await reader.next()
    if (part.kind === 'end') {
      if (startBytes === 0) deepStrictEqual(digest.end(), part)
      return contents
    }
    digest.addPart(part)
    if (part.kind === 'data') part.blocks.copy(contents, part.offset)
  }
}

test('a volume comes out of its stream as it went in, sparse', async () => {
  const bench = await openBench()
  const expected = await made(bench)
  const stream = await streamOf(bench)
  ok(stream.length < 3 * MIB)
  for (const pieceBytes of [977, MIB]) {
    ok((await contentsOf(stream, pieceBytes)).equals(expected))
  }
  const file = await bench.volumes.openFile('v', { readOnly: true })
  const { digest, blocks } = await digestOf(file, () => {})
  strictEqual(digest, stream.toString('hex', stream.length - 40, stream.length - 8))
  // Zeroes that were written are left out like those that were not.
  strictEqual(blocks, 5 + 510 + 1)
  await file.close()
  await bench.close()
})

test('a stream goes on from any block, under the same digest', async () => {
  const bench = await openBench()
  const expected = await made(bench)
  const whole = await streamOf(bench)
  for (const start of [4096, MIB + 40_960, 5 * MIB, SIZE]) {
    const rest = await streamOf(bench, start)
    deepStrictEqual(rest.subarray(-56), whole.subarray(-56))
    const contents = await contentsOf(rest)
    ok(contents.subarray(start).equals(expected.subarray(start)), `from ${start}`)
    ok(contents.subarray(0, start).equals(Buffer.alloc(start)))
  }
  await bench.close()
})

test('a stream that was cut off, changed or added to is refused', async () => {
  const bench = await openBench()
  await made(bench)
  const stream = await streamOf(bench)
  const isStoreError = (thrown: unknown): boolean => thrown instanceof StoreError
  for (const length of [0, 10, 64, 70, 5000, MIB, stream.length - 1]) {
    await rejects(contentsOf(stream.subarray(0, length)), isStoreError, `${length} bytes`)
  }
  await rejects(contentsOf(Buffer.concat([stream, Buffer.from([0])])), isStoreError)
  const random = new SeededRandom(3)
  const places = [0, 9, 20, 30, 61, 64, 70, 78, 82, 86, 90, 100, stream.length - 1]
  for (let more = 0; more < 40; more++) places.push(random.u32() % stream.length)
  for (const at of places) {
    const changed = Buffer.from(stream)
    changed[at]! ^= 1 << (at % 8)
    await rejects(contentsOf(changed, MIB), isStoreError, `byte ${at}`)
  }
  await bench.close()
})

test.run()
