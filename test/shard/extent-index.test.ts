import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ExtentIndex, SAVE_PIECE_BYTES_MIN } from '../../src/shard/extent-index.ts'
import { LOCATION_ABSENT, LOCATION_HOLE, RunList } from '../../src/shard/run-list.ts'

const quiet = { onLive: () => {}, onDead: () => {} }
const crcs = Uint32Array.from({ length: 1024 }, (_, index) => index * 2654435761)

test('a newer version wins, an older one loses, an equal one gives way', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  strictEqual(index.put(layer, 7, 10, 4, 1, 5, 100, crcs, 0), 4)
  strictEqual(index.put(layer, 7, 12, 4, 1, 4, 200, crcs, 0), 2)
  strictEqual(index.put(layer, 7, 10, 1, 1, 5, 300, crcs, 0), 1)
  const out = new RunList()
  index.lookup(layer, 7, 9, 8, out)
  deepStrictEqual([...out.firsts.subarray(0, out.length)], [9, 10, 11, 14, 16])
  deepStrictEqual(
    [...out.locations.subarray(0, out.length)],
    [LOCATION_ABSENT, 300, 101, 202, LOCATION_ABSENT]
  )
})

test('what was saved in pieces loads as it was', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  index.put(layer, 7, 10, 4, 1, 2 ** 39 + 5, 100, crcs, 0)
  index.putMark(layer, 8, 0, 1024, 1, 6, LOCATION_HOLE, true)
  const loaded = new ExtentIndex(quiet)
  const piece = new Uint8Array(SAVE_PIECE_BYTES_MIN)
  const save = index.save()
  for (let bytes = save.next(piece); bytes > 0; bytes = save.next(piece)) loaded.load(piece, bytes)
  strictEqual(loaded.entries, 1028)
  strictEqual(loaded.put(0, 7, 10, 4, 1, 2 ** 39 + 4, 900, crcs, 0), 0)
})

test.run()
