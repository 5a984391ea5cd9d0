import { deepStrictEqual, strictEqual, throws } from 'node:assert'
import fc from 'fast-check'
import { test } from 'uvu'
import { CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { ExtentIndex } from '../../src/shard/extent-index.ts'
import { SAVE_PIECE_BYTES_MIN } from '../../src/shard/extent-index-save.ts'
import { LOCATION_ABSENT, LOCATION_HOLE, LOCATION_ZERO, RunList } from '../../src/shard/run-list.ts'
import { IndexPair, MODEL_CHUNKS, MODEL_LAYERS, type Place } from '../helpers/index-model.ts'

const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
const quiet = { onLive: () => {}, onDead: () => {} }
const crcs = Uint32Array.from({ length: CHUNK_BLOCKS }, (_, at) => Math.imul(at, 0x9e3779b1))

type Step = (pair: IndexPair) => void

const someBlocks = fc.tuple(
  fc.nat(CHUNK_BLOCKS - 1),
  fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: 1, max: 4 }) },
    fc.integer({ min: 1, max: 64 }),
    fc.integer({ min: 1, max: CHUNK_BLOCKS })
  )
)
const somePlace: fc.Arbitrary<Place> = fc
  .tuple(fc.nat(MODEL_LAYERS - 1), fc.nat(MODEL_CHUNKS - 1), someBlocks)
  .map(([layer, chunk, [first, count]]) => {
    return { layer, chunk, first, count: Math.min(count, CHUNK_BLOCKS - first) }
  })
const someEpoch = fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 2 ** 32 - 1 }))
const someSequence = fc.oneof(
  fc.integer({ min: 1, max: 20 }),
  fc.integer({ min: 2 ** 32 - 5, max: 2 ** 32 + 5 }),
  fc.integer({ min: 0, max: 2 ** 40 - 1 })
)

const placed = (act: (pair: IndexPair, place: Place) => void): fc.Arbitrary<Step> =>
  somePlace.map((place) => (pair: IndexPair) => {
    act(pair, place)
    pair.check(place)
  })

/** Many single blocks, in an order that is not theirs: what makes a chunk packed. */
const scatter: fc.Arbitrary<Step> = fc
  .record({
    place: somePlace,
    epoch: fc.integer({ min: 1, max: 3 }),
    writes: fc.integer({ min: 1, max: 600 }),
    step: fc.integer({ min: 1, max: 1023 }),
    often: fc.integer({ min: 3, max: 50 })
  })
  .map(({ place, epoch: main, writes, step, often }) => (pair: IndexPair) => {
    for (let i = 0; i < writes; i++) {
      const first = (place.first + i * (step | 1)) % CHUNK_BLOCKS
      const count = Math.min(i % often === 0 ? 1 + (i % 31) : 1, CHUNK_BLOCKS - first)
      const epoch = i % 5 === 0 ? 2 : main
      const sequence = i % 7 === 0 ? 2 ** 20 - i : 2 ** 20 + i
      if (i % 11 === 0) pair.putMark({ ...place, first, count }, epoch, sequence, true, i % 2 === 0)
      else pair.put({ ...place, first, count }, epoch, sequence)
    }
    pair.check({ ...place, first: 0, count: CHUNK_BLOCKS })
  })

/** Puts that wait and go in together. */
const replays: fc.Arbitrary<Step> = fc
  .record({
    place: somePlace,
    epoch: fc.integer({ min: 1, max: 3 }),
    sequence: fc.integer({ min: 2 ** 20 - 300, max: 2 ** 20 }),
    writes: fc.integer({ min: 1, max: 600 }),
    step: fc.integer({ min: 1, max: 1023 }),
    often: fc.integer({ min: 3, max: 50 })
  })
  .map(({ place, epoch: main, sequence, writes, step, often }) => (pair: IndexPair) => {
    for (let i = 0; i < writes; i++) {
      const first = (place.first + i * step) % CHUNK_BLOCKS
      const count = Math.min(i % often === 0 ? 1 + (i % 18) : 1, CHUNK_BLOCKS - first)
      const chunk = i % 3 === 0 ? (place.chunk + i) % MODEL_CHUNKS : place.chunk
      pair.replay({ ...place, chunk, first, count }, i % 7 === 0 ? 2 : main, sequence + (i >> 1))
    }
    pair.index.endReplay()
    pair.check({ ...place, first: 0, count: CHUNK_BLOCKS })
  })

const someStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.tuple(someEpoch, someSequence, somePlace).map(([epoch, sequence, place]) => {
      return (pair: IndexPair): void => {
        pair.put(place, epoch, sequence)
        pair.check(place)
      }
    })
  },
  {
    weight: 6,
    arbitrary: fc
      .tuple(someEpoch, someSequence, somePlace, fc.boolean(), fc.boolean())
      .map(([epoch, sequence, place, isHole, keepHole]) => (pair: IndexPair) => {
        pair.putMark(place, epoch, sequence, isHole, keepHole)
        pair.check(place)
      })
  },
  { weight: 4, arbitrary: scatter },
  { weight: 3, arbitrary: replays },
  { weight: 6, arbitrary: placed((pair, place) => pair.move(place)) },
  { weight: 4, arbitrary: placed((pair, place) => pair.dropHoles(place)) },
  { weight: 2, arbitrary: placed((pair, place) => pair.findSegment(place)) },
  { weight: 2, arbitrary: placed((pair, place) => pair.relocate(place)) },
  { weight: 1, arbitrary: placed((pair, place) => pair.dropLayer(place.layer)) },
  { weight: 2, arbitrary: fc.constant((pair: IndexPair) => pair.restart()) }
)

test(`the index answers as an array of blocks does (SEED=${seed})`, () => {
  fc.assert(
    fc.property(fc.array(someStep, { minLength: 1, maxLength: 60, size: 'max' }), (steps) => {
      const pair = new IndexPair()
      for (const step of steps) step(pair)
      pair.checkAll()
      pair.restart()
      pair.checkAll()
    }),
    { seed, numRuns: 60, endOnFailure: process.env['SHRINK'] === undefined }
  )
})

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

test('more puts may wait than there is room for', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  const puts = 600_000
  for (let i = 0; i < puts; i++) {
    const place = (i * 40_503) % 2 ** 19
    index.replayPut(layer, place >>> 10, place & 1023, 1, 1, i, i, crcs, 0)
  }
  index.endReplay()
  strictEqual(index.entries, 2 ** 19)
  const out = new RunList()
  for (let i = puts - 2 ** 19; i < puts; i += 97) {
    const place = (i * 40_503) % 2 ** 19
    index.lookup(layer, place >>> 10, place & 1023, 1, out)
    strictEqual(out.locations[0], i)
  }
})

test('every writer epoch of a chunk may be another one', () => {
  const pair = new IndexPair()
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < CHUNK_BLOCKS; i++) {
      const first = (i * 401) % CHUNK_BLOCKS
      pair.put({ layer: 0, chunk: 0, first, count: 1 }, 1 + i + round * CHUNK_BLOCKS, 1)
    }
    pair.check({ layer: 0, chunk: 0, first: 0, count: CHUNK_BLOCKS })
  }
  pair.restart()
  pair.checkAll()
})

test('a trim of what was never written leaves nothing behind', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  strictEqual(index.putMark(layer, 7, 0, CHUNK_BLOCKS, 1, 1, LOCATION_HOLE, false), 0)
  strictEqual(index.entries, 0)
  strictEqual(index.chunks, 0)
  strictEqual(index.countFilled(layer, 7, 0, CHUNK_BLOCKS), 0)
})

test('a thousand layers have numbers of their own, and dropped ones are not found again', () => {
  const index = new ExtentIndex(quiet)
  const numbers: number[] = []
  for (let id = 0; id < 1000; id++) numbers.push(index.layerIndex(id % 7, 5, id % 3, id, true))
  strictEqual(new Set(numbers).size, 1000)
  for (let id = 0; id < 1000; id += 2) index.dropLayer(numbers[id]!)
  for (let id = 0; id < 1000; id++) {
    const found = index.layerIndex(id % 7, 5, id % 3, id, false)
    strictEqual(found, id % 2 === 0 ? -1 : numbers[id])
  }
  deepStrictEqual(index.layerKey(numbers[11]!), {
    familyHigh: 4,
    familyLow: 5,
    layerHigh: 2,
    layerLow: 11
  })
  strictEqual(index.layerIndex(0, 5, 0, 0, true), 1000)
  strictEqual(index.layerIndex(0, 5, 0, 0, false), 1000)
})

test('a dropped layer is unknown at once, and given back bit by bit', () => {
  const index = new ExtentIndex(quiet)
  const kept = index.layerIndex(1, 2, 3, 4, true)
  const dropped = index.layerIndex(1, 2, 3, 5, true)
  for (let chunk = 0; chunk < 2000; chunk++) {
    index.put(kept, chunk, 5, 3, 1, 1, chunk * 10, crcs, 0)
    index.put(dropped, chunk, 5, 3, 1, 1, chunk * 10 + 5, crcs, 0)
  }
  index.dropLayer(dropped)
  strictEqual(index.layerIndex(1, 2, 3, 5, false), -1)
  let calls = 1
  while (index.drops.reclaim(64)) calls++
  strictEqual(index.entries, 6000)
  strictEqual(index.chunks, 2000)
  strictEqual(calls > 10, true)
  strictEqual(index.drops.reclaim(64), false)
  strictEqual(index.countFilled(kept, 1999, 0, 8), 3)
  index.dropLayer(kept)
  while (index.drops.reclaim(64));
  strictEqual(index.chunks, 0)
})

test(`chunks by the thousand grow, shrink, come and go (SEED=${seed})`, () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  const chunks = 12_000
  const slots = 8
  // Location by chunk and slot, 0 is none; slots are far apart, or next to each other.
  const model = new Uint32Array(chunks * slots)
  const blockOf = (chunk: number, slot: number): number => (chunk % 2 === 0 ? slot * 100 : slot)
  let state = seed | 1
  const below = (limit: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
  for (let step = 1; step <= 160_000; step++) {
    // The chunks in use wander, so that most of them empty again.
    const chunk = Math.min(chunks - 1, Math.floor((step / 160_000) * chunks * 0.8) + below(2000))
    const slot = below(slots)
    if (below(3) > 0) {
      index.put(layer, chunk, blockOf(chunk, slot), 1, 1, step, step, crcs, slot)
      model[chunk * slots + slot] = step
    } else {
      index.putMark(layer, chunk, 0, CHUNK_BLOCKS, 1, step, LOCATION_HOLE, false)
      index.dropHoles(layer, chunk, 0, CHUNK_BLOCKS, 1, step)
      model.fill(0, chunk * slots, (chunk + 1) * slots)
    }
  }
  const out = new RunList()
  let entries = 0
  for (let chunk = 0; chunk < chunks; chunk++) {
    for (let slot = 0; slot < slots; slot++) {
      index.lookup(layer, chunk, blockOf(chunk, slot), 1, out)
      const location = model[chunk * slots + slot]!
      strictEqual(out.locations[0], location === 0 ? LOCATION_ABSENT : location)
      if (location !== 0) entries++
    }
  }
  strictEqual(index.entries, entries)
})

test('a save that runs while the index changes has every chunk that stays', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  const chunks = 20_000
  for (let chunk = 0; chunk < chunks; chunk++) index.put(layer, chunk, 0, 1, 1, 1, chunk, crcs, 0)
  const save = index.save()
  const loaded = new ExtentIndex(quiet)
  const piece = new Uint8Array(SAVE_PIECE_BYTES_MIN)
  let added = chunks
  let random = seed
  for (let bytes = save.next(piece); bytes > 0; bytes = save.next(piece)) {
    loaded.load(piece, bytes)
    // Chunks grow, are added and go; odd ones stay.
    for (let i = 0; i < 2000; i++) {
      random = (Math.imul(random, 1664525) + 1013904223) >>> 0
      const chunk = random % chunks
      index.put(layer, chunk, 1 + ((random >>> 20) % 900), 1, 1, 2, random >>> 8, crcs, 0)
      if (i % 4 === 0) index.put(layer, added++, 0, 1, 1, 1, 1, crcs, 0)
      if (chunk % 2 === 0) {
        index.putMark(layer, chunk, 0, CHUNK_BLOCKS, 1, 3, LOCATION_HOLE, false)
        index.dropHoles(layer, chunk, 0, CHUNK_BLOCKS, 1, 3)
      }
    }
  }
  const out = new RunList()
  for (let chunk = 1; chunk < chunks; chunk += 2) {
    loaded.lookup(0, chunk, 0, 1, out)
    strictEqual(out.locations[0], chunk)
  }
})

test('pieces of a save are these bytes', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(0x01020304, 0x05060708, 0x090a0b0c, 0x0d0e0f10, true)
  index.put(layer, 0x11121314, 0x20, 2, 0x21222324, 0x2526272829, 0x31323334, crcs, 1)
  index.putMark(layer, 0x11121314, 0x30, 0x10, 0x21222324, 0x252627282a, LOCATION_ZERO, true)
  const piece = new Uint8Array(SAVE_PIECE_BYTES_MIN)
  const save = index.save()
  strictEqual(
    Buffer.from(piece.buffer, 0, save.next(piece))
      .toString('hex')
      .replace(/.{32}(?=.)/g, '$& '),
    [
      'fffffffe00000001ffffffff00000000',
      '0102030405060708090a0b0c0d0e0f10',
      '00000000111213140000100200120002',
      '21222324000000250002002031323334',
      '262728290000000000100030fffffffe',
      '2627282a000200009e3779b13c6ef362'
    ].join(' ')
  )
  strictEqual(save.next(piece), 0)
})

test('a packed chunk is saved as these bytes', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  for (let block = 0; block < 80; block += 2) {
    index.put(layer, 9, block, 1, 1 + (block & 1), block, 1000 + block, crcs, block)
  }
  index.put(layer, 9, 700, 1, 2, 1, 5000, crcs, 0)
  const piece = new Uint8Array(SAVE_PIECE_BYTES_MIN)
  const bytes = index.save().next(piece)
  const words = new DataView(piece.buffer, 8 * 4, bytes - 8 * 4)
  const at = (word: number): number => words.getUint32(word * 4)
  strictEqual(words.byteLength, (4 + 4 + 32 + 41 * 3 + 21) * 4)
  deepStrictEqual([0, 1, 2, 3].map(at), [
    0,
    9,
    41 | (2 << 12) | (1 << 24),
    40 | (40 << 10) | (41 << 20)
  ])
  deepStrictEqual([4, 5, 6, 7].map(at), [1, 0, 2, 0])
  deepStrictEqual([8, 9, 10, 11].map(at), [0x55555555, 0x55555555, 0x5555, 0])
  strictEqual(at(8 + (700 >>> 5)), 1 << (700 & 31))
  deepStrictEqual([40, 41, 42].map(at), [1000, 0, 0])
  deepStrictEqual([160, 161, 162].map(at), [5000, 1, 0])
  deepStrictEqual([163, 182, 183].map(at), [0, 0, 1])
})

test('a piece with any word changed loads or is refused, and never breaks the index', () => {
  const index = new ExtentIndex(quiet)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  for (let i = 0; i < 300; i++) index.put(layer, 1, (i * 7) % 1024, 1, 1 + (i % 2), i, i, crcs, 0)
  for (let i = 0; i < 9; i++) index.put(layer, 2, i * 100, 20 + i, 1, i, 1000 * i, crcs, 0)
  const saved = new Uint8Array(SAVE_PIECE_BYTES_MIN)
  const bytes = index.save().next(saved)
  const property = fc.property(fc.nat(bytes / 4 - 1), fc.integer(), (word, value) => {
    const piece = saved.slice()
    new DataView(piece.buffer).setInt32(word * 4, value)
    const loaded = new ExtentIndex(quiet)
    try {
      loaded.load(piece, bytes)
    } catch (error) {
      strictEqual((error as Error).name, 'StoreError')
      return
    }
    const out = new RunList()
    loaded.lookup(0, 1, 0, CHUNK_BLOCKS, out)
    loaded.relocate((location) => location ^ 1)
  })
  fc.assert(property, { seed, numRuns: 400 })
  throws(() => new ExtentIndex(quiet).load(saved.slice(), bytes - 4), /index checkpoint/)
})

test.run()
