/** Memory of the index is counted in bytes for each block, everything included. */
import { ok, strictEqual } from 'node:assert'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import { CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { ExtentIndex } from '../../src/shard/extent-index.ts'
import { LOCATION_HOLE } from '../../src/shard/run-list.ts'

const quiet = { onLive: () => {}, onDead: () => {} }
const crcs = new Uint32Array(CHUNK_BLOCKS)

/** Writes single blocks all over `chunks` chunks, a share of all their blocks. */
function scatter(index: ExtentIndex, chunks: number, share: number, epoch: number): void {
  const layer = index.layerIndex(1, 2, 3, 4, true)
  const places = chunks * CHUNK_BLOCKS
  const step = Math.floor(places * 0.381966) | 1
  for (let i = 0; i < Math.floor(places * share); i++) {
    const place = (i * step) % places
    index.put(layer, place >>> 10, place & 1023, 1, epoch, i, i, crcs, 0)
  }
}

const bytesPerEntry = (index: ExtentIndex): number => index.bytes / index.entries

// First, so that no earlier index is still being given back.
test('the bytes that the index tells are those that it holds', () => {
  setFlagsFromString('--expose-gc')
  const collect: () => void = runInNewContext('gc')
  collect()
  const before = process.memoryUsage().arrayBuffers
  const index = new ExtentIndex(quiet)
  scatter(index, 256, 1, 1)
  // Buffers are given back behind the collector's back: the second call waits for the first.
  collect()
  collect()
  const held = process.memoryUsage().arrayBuffers - before
  ok(held > 3_000_000 && Math.abs(held - index.bytes) < held * 0.05, `${held}, ${index.bytes}`)
})

test('a sequentially written block takes under 1 byte of mapping and 4 of checksum', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  for (let i = 0; i < 8192; i++) {
    index.put(layer, i >>> 2, (i & 3) * 256, 256, 1, i, i * 257, crcs, 0)
  }
  strictEqual(index.entries, 8192 * 256)
  ok(bytesPerEntry(index) < 5, `${bytesPerEntry(index)} bytes a block`)
})

test('a randomly written block takes at most 16 bytes, checksum included', () => {
  const index = new ExtentIndex(quiet)
  scatter(index, 512, 0.6, 1)
  ok(bytesPerEntry(index) <= 16, `${bytesPerEntry(index)} bytes a block in chunks filled to 60 %`)
  scatter(index, 512, 1, 1)
  strictEqual(index.entries, 512 * CHUNK_BLOCKS)
  ok(bytesPerEntry(index) <= 16, `${bytesPerEntry(index)} bytes a block in full chunks`)
  scatter(index, 512, 0.5, 2)
  ok(bytesPerEntry(index) <= 16, `${bytesPerEntry(index)} bytes a block of two writer epochs`)
})

test('a block in chunks filled to a tenth takes at most 18 bytes', () => {
  const index = new ExtentIndex(quiet)
  scatter(index, 2560, 0.1, 1)
  ok(bytesPerEntry(index) <= 18, `${bytesPerEntry(index)} bytes a block`)
})

test('one written block in a chunk takes under 100 bytes', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  for (let chunk = 0; chunk < 100_000; chunk++) {
    index.put(layer, chunk * 3, chunk & 1023, 1, 1, chunk, chunk, crcs, 0)
  }
  strictEqual(index.chunks, 100_000)
  ok(bytesPerEntry(index) < 100, `${bytesPerEntry(index)} bytes a block`)
})

test('memory goes back when data is deleted', () => {
  const index = new ExtentIndex(quiet)
  scatter(index, 256, 1, 1)
  const full = index.bytes
  const layer = index.layerIndex(1, 2, 3, 4, true)
  for (let chunk = 0; chunk < 256; chunk++) {
    index.putMark(layer, chunk, 0, CHUNK_BLOCKS, 2, 1, LOCATION_HOLE, true)
    if (chunk % 2 === 0) index.dropHoles(layer, chunk, 0, CHUNK_BLOCKS, 2, 1)
  }
  strictEqual(index.chunks, 128)
  ok(index.bytes < 400_000, `${index.bytes} bytes of ${full} left with 128 holes`)
  scatter(index, 256, 1, 3)
  index.dropLayer(layer)
  while (index.drops.reclaim(1000));
  strictEqual(index.entries, 0)
  ok(index.bytes < 2_000_000, `${index.bytes} bytes of ${full} left with nothing`)
})

test.run()
