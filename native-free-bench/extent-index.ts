/**
 * How much time and memory does the extent index take for each block?
 *
 * usage: node dist/native-free-bench/extent-index.js [--blocks N]   (default 4 million)
 * exit:  0 done
 *
 * One case a row: blocks written, nanoseconds a put, a second put of the same blocks, a lookup, a
 * block saved and loaded, and bytes a block. Random cases write single blocks in random order.
 */
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { CHUNK_BLOCKS } from '../src/core/limits.ts'
import { ExtentIndex } from '../src/shard/extent-index.ts'
import { RunList } from '../src/shard/run-list.ts'

const { values } = parseArgs({ options: { blocks: { type: 'string', default: '4000000' } } })
const blocks = Number(values.blocks)

/** As the engine has it: live blocks of each segment. */
class Counter {
  readonly live = new Int32Array(1 << 17)
  onLive(location: number, count: number): void {
    this.live[location >>> 15]! += count
  }
  onDead(location: number, count: number): void {
    this.live[location >>> 15]! -= count
  }
}

interface Case {
  readonly name: string
  /** Blocks a put. */
  readonly run: number
  /** Chunks that the blocks are spread over. */
  readonly chunks: number
  readonly isRandom: boolean
}

const cases: Case[] = [
  { name: 'sequential 1 MiB', run: 256, chunks: blocks / CHUNK_BLOCKS, isRandom: false },
  { name: 'sequential 64 KiB', run: 16, chunks: blocks / CHUNK_BLOCKS, isRandom: false },
  { name: 'random 64 KiB', run: 16, chunks: blocks / CHUNK_BLOCKS, isRandom: true },
  { name: 'random 8 KiB', run: 2, chunks: blocks / CHUNK_BLOCKS, isRandom: true },
  { name: 'random 4 KiB, full', run: 1, chunks: blocks / CHUNK_BLOCKS, isRandom: true },
  { name: 'random 4 KiB, 10 %', run: 1, chunks: (blocks / CHUNK_BLOCKS) * 10, isRandom: true },
  { name: 'one block a chunk', run: 1, chunks: blocks, isRandom: true }
]

const nanoseconds = (from: number, count: number): number =>
  Math.round(((performance.now() - from) * 1e6) / count)

/** Place of the `i`th put: each place once, all over, by a step near the golden section. */
function placeOf(i: number, places: number, isRandom: boolean): number {
  return isRandom ? (i * (Math.floor(places * 0.381966) | 1) + 12_345) % places : i
}

function measure({ name, run, chunks: wanted, isRandom }: Case): void {
  const chunks = Math.ceil(wanted)
  const perChunk = CHUNK_BLOCKS / run
  // Places in a chunk, spread evenly when it is not to be filled.
  const places = chunks * perChunk
  const puts = Math.floor(blocks / run)
  const counter = new Counter()
  const index = new ExtentIndex(counter)
  const layer = index.layerIndex(1, 2, 3, 4, true)
  const crcs = Uint32Array.from({ length: 256 }, (_, at) => at)
  const put = (i: number, location: number, epoch: number): void => {
    const place = placeOf(i, places, isRandom)
    const chunk = Math.floor(place / perChunk)
    index.put(layer, chunk, (place % perChunk) * run, run, epoch, i, location, crcs, 0)
  }
  let start = performance.now()
  for (let i = 0; i < puts; i++) put(i, i * run, 1)
  const first = nanoseconds(start, puts)
  const bytes = index.bytes
  start = performance.now()
  for (let i = 0; i < puts; i++) put(i, (puts + i) * run, 1)
  const second = nanoseconds(start, puts)
  start = performance.now()
  for (let i = 0; i < puts; i++) put(i, (puts + i) * run, 2)
  const third = nanoseconds(start, puts)
  const mixedBytes = index.bytes
  const out = new RunList()
  start = performance.now()
  for (let i = 0; i < puts; i++) {
    const place = placeOf(i, places, isRandom)
    index.lookup(layer, Math.floor(place / perChunk), (place % perChunk) * run, run, out)
  }
  const lookup = nanoseconds(start, puts)
  const { save, load } = saveAndLoad(index)
  console.log(
    `${name.padEnd(20)} ${index.entries.toString().padStart(9)}` +
      [first, second, third, lookup, save, load].map((ns) => ns.toString().padStart(8)).join('') +
      [bytes, mixedBytes].map((all) => (all / index.entries).toFixed(2).padStart(8)).join('')
  )
}

function saveAndLoad(index: ExtentIndex): { save: number; load: number } {
  const pieces: Uint8Array[] = []
  const piece = new Uint8Array(1 << 20)
  let saving = 0
  const walk = index.save()
  for (;;) {
    const start = performance.now()
    const bytes = walk.next(piece)
    saving += performance.now() - start
    if (bytes === 0) break
    pieces.push(piece.slice(0, bytes))
  }
  const loaded = new ExtentIndex(new Counter())
  const start = performance.now()
  for (const saved of pieces) loaded.load(saved, saved.byteLength)
  return {
    save: Math.round((saving * 1e6) / index.entries),
    load: nanoseconds(start, loaded.entries)
  }
}

console.log(`extent index, Node ${process.version}, ${cpus()[0]?.model}, ${blocks} blocks`)
console.log(
  'case                    blocks ns: put   again   epoch  lookup    save    load    bytes  mixed'
)
for (const one of cases) measure(one)
