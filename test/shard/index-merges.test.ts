import { strictEqual } from 'node:assert'
import { test } from 'uvu'
import { BASED_START, nextLayerLow } from '../../src/core/layer-ids.ts'
import { CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { ExtentIndex, SAVE_PIECE_BYTES_MIN } from '../../src/shard/extent-index.ts'
import { LOCATION_ABSENT, LOCATION_END, LOCATION_HOLE, RunList } from '../../src/shard/run-list.ts'

const FAMILY = { familyHigh: 7, familyLow: 1 }
const CHUNKS = 3
const BLOCKS = 24
const seed = Number(process.env['SEED'] ?? 20_261)

/** Layers of one branch and what each of those that are read shows, by block: a location. */
interface Line {
  readonly layerHigh: number
  /** From the lowest, the head last; those that are read. */
  lows: number[]
  readonly read: Map<number, Float64Array>
}

class Model {
  index: ExtentIndex
  live = 0
  readonly lines: Line[] = []
  private readonly crcs = new Uint32Array(CHUNK_BLOCKS)
  private readonly out = new RunList()
  private sequence = 1
  private state = seed

  constructor() {
    this.index = this.makeIndex()
    this.lines.push({ layerHigh: 9, lows: [5], read: new Map([[5, nothing()]]) })
  }

  makeIndex(): ExtentIndex {
    this.live = 0
    return new ExtentIndex({
      onLive: (_, count) => {
        this.live += count
      },
      onDead: (_, count) => {
        this.live -= count
      }
    })
  }

  below(end: number): number {
    this.state = (Math.imul(this.state, 1_103_515_245) + 12_345) >>> 0
    return Math.floor((this.state / 2 ** 32) * end)
  }

  write({ layerHigh, lows, read }: Line): void {
    const { familyHigh, familyLow } = FAMILY
    const head = lows.at(-1)!
    const layer = this.index.layerIndex(familyHigh, familyLow, layerHigh, head, true)
    const [chunk, block] = [this.below(CHUNKS), this.below(BLOCKS)]
    const count = 1 + this.below(Math.min(3, BLOCKS - block))
    const sequence = this.sequence++
    const seen = read.get(head)!.subarray(chunk * BLOCKS + block, chunk * BLOCKS + block + count)
    if (this.below(5) === 0) {
      const isTaken = head !== lows[0] || layerHigh !== 9
      this.index.putMark(layer, chunk, block, count, 1, sequence, LOCATION_HOLE, isTaken)
      seen.fill(isTaken ? LOCATION_HOLE : -1)
      return
    }
    const location = sequence * 4
    this.index.put(layer, chunk, block, count, 1, sequence, location, this.crcs, 0)
    for (let i = 0; i < count; i++) seen[i] = location + i
  }

  snapshot({ lows, read }: Line): void {
    const head = lows.at(-1)!
    const next = nextLayerLow(head)
    lows.push(next)
    read.set(next, read.get(head)!.slice())
  }

  /** Only some of the layers below the head are read from now on. */
  deleteSome({ layerHigh, lows, read }: Line, keep: (low: number) => boolean): void {
    const kept = lows.filter((low) => low === lows.at(-1) || keep(low))
    for (const low of lows) if (!kept.includes(low)) read.delete(low)
    for (const [place, low] of kept.entries()) {
      const lowest = place === 0 ? lows[0]! : nextLayerLow(kept[place - 1]!)
      if (lowest !== low) this.index.merges.add({ ...FAMILY, layerHigh, layerLow: low }, lowest)
    }
  }

  merge(): void {
    while (this.index.merges.step(64)) this.check()
  }

  clone(of: Line, low: number, layerHigh: number): void {
    this.lines.push({ layerHigh, lows: [BASED_START], read: new Map() })
    this.lines.at(-1)!.read.set(BASED_START, of.read.get(low)!.slice())
    this.index.setBase(
      { ...FAMILY, layerHigh },
      { ...FAMILY, layerHigh: of.layerHigh, layerLow: low }
    )
  }

  restart(bases: readonly [number, number, number][]): void {
    const saving = this.index.save()
    this.index = this.makeIndex()
    const piece = new Uint8Array(SAVE_PIECE_BYTES_MIN)
    for (let bytes = saving.next(piece); bytes > 0; bytes = saving.next(piece)) {
      this.index.load(piece, bytes)
    }
    for (const [layerHigh, high, low] of bases) {
      this.index.setBase({ ...FAMILY, layerHigh }, { ...FAMILY, layerHigh: high, layerLow: low })
    }
  }

  check(): void {
    for (const { layerHigh, read } of this.lines) {
      for (const [low, seen] of read) {
        for (let chunk = 0; chunk < CHUNKS; chunk++) this.checkChunk(layerHigh, low, chunk, seen)
      }
    }
  }

  private checkChunk(layerHigh: number, low: number, chunk: number, seen: Float64Array): void {
    const { familyHigh, familyLow } = FAMILY
    const layer = this.index.readIndex(familyHigh, familyLow, layerHigh, low)
    this.index.lookup(layer, chunk, 0, BLOCKS, this.out)
    for (let run = 0; run < this.out.length; run++) {
      for (let i = 0; i < this.out.counts[run]!; i++) {
        const at = this.out.locations[run]!
        const found = at === LOCATION_ABSENT ? -1 : at < LOCATION_END ? at + i : at
        const block = this.out.firsts[run]! + i
        strictEqual(found, seen[chunk * BLOCKS + block], `layer ${low} block ${chunk}.${block}`)
      }
    }
  }
}

const nothing = (): Float64Array => new Float64Array(CHUNKS * BLOCKS).fill(-1)

test(`hundreds of layers read as their model does while they merge (SEED=${seed})`, () => {
  const model = new Model()
  const [main] = model.lines as [Line]
  const bases: [number, number, number][] = []
  for (let round = 0; round < 12; round++) {
    for (let layers = 0; layers < 40; layers++) {
      for (const line of model.lines) for (let i = 0; i < 3; i++) model.write(line)
      for (const line of model.lines) model.snapshot(line)
    }
    model.check()
    const held = new Set(
      bases.filter(([, high]) => high === main.layerHigh).map(([, , low]) => low)
    )
    for (const line of model.lines) {
      model.deleteSome(line, (low) => held.has(low) || model.below(8) === 0)
      if (round % 2 === 0) model.merge()
    }
    if (round === 3 || round === 6) {
      const low = main.lows.findLast((each) => each !== main.lows.at(-1) && main.read.has(each))!
      bases.push([20 + round, main.layerHigh, low])
      model.clone(main, low, 20 + round)
    }
    if (round % 5 === 4) model.restart(bases)
    model.check()
  }
  model.merge()
  model.check()
})

test('deleted snapshots leave nothing in the index but blocks that are still seen', () => {
  const model = new Model()
  const [line] = model.lines as [Line]
  const layers = 6000
  let half = 0
  for (let at = 1; at <= layers; at++) {
    for (let i = 0; i < 2; i++) model.write(line)
    model.snapshot(line)
    if (at % 50 > 0) continue
    model.deleteSome(line, () => false)
    while (model.index.merges.step(64));
    // What the merges were told of is one layer for the model, too.
    line.lows = line.lows.slice(-1)
    line.lows.unshift(5)
    if (at === layers / 2) half = model.index.bytes
  }
  model.check()
  const seen = [...line.read.get(line.lows.at(-1)!)!].filter((at) => at >= 0 && at < LOCATION_END)
  strictEqual(model.live, seen.length)
  strictEqual(model.index.entries <= CHUNKS * BLOCKS, true)
  strictEqual(model.index.bytes <= half * 1.1, true, `${model.index.bytes} bytes, ${half} before`)
})

test('a merge ends with its volume, though its numbers are those of other layers by then', () => {
  const index = new Model().index
  const { familyHigh, familyLow } = FAMILY
  const crcs = new Uint32Array(CHUNK_BLOCKS)
  const chunks = 2000
  let sequence = 0
  const layerOf = (layerHigh: number, low: number): number =>
    index.layerIndex(familyHigh, familyLow, layerHigh, low, true)
  const fill = (layer: number): void => {
    for (let chunk = 0; chunk < chunks; chunk++) {
      index.put(layer, chunk, 0, 1, 1, ++sequence, sequence, crcs, 0)
    }
  }
  const lows = [0]
  while (lows.length < 4) lows.push(nextLayerLow(lows.at(-1)!))
  for (const low of lows) fill(layerOf(1, low))
  for (const low of lows.slice(0, 3)) fill(layerOf(2, low))
  index.merges.add({ ...FAMILY, layerHigh: 1, layerLow: lows[3]! }, lows[0]!)
  strictEqual(index.merges.step(16), true, 'the walk is under way')
  const top = layerOf(1, lows[3]!)
  for (const low of lows) index.dropLayer(layerOf(1, low))
  while (index.drops.reclaim(64));
  // The other volume's snapshots stay read, and its new layer gets a number of the deleted one.
  const head = layerOf(2, lows[3]!)
  strictEqual(head, top)
  fill(head)
  const entries = index.entries
  while (index.merges.step(64));
  strictEqual(index.entries, entries, 'nothing of the other volume went')
})

test.run()
