/** Volumes with snapshots, clones and restores on one shard, beside arrays of their blocks. */
import * as assert from 'uvu/assert'
import { formatId64, parseId64 } from '../../src/cluster/ids.ts'
import {
  layersOf,
  linesOf,
  lowestRead,
  mergedLayers,
  withoutDead
} from '../../src/cluster/layer-lines.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { BASED_START, isBasedLayer, nextLayerLow } from '../../src/core/layer-ids.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { OpFlag, OpKind, type ShardOp, StatusExtent } from '../../src/shard/op.ts'
import { FaultyFiles } from './faulty-files.ts'
import { blockValue, fillBlock, seededRandom, ShardRig } from './shard-rig.ts'

export const BLOCKS = 40
export const CHUNKS = 2
/** Allocated zeroes; 0 is a hole. */
export const ZERO = -1
/** Families of one kin, so that what is sealed for one is not what is sealed for another. */
const FAMILY_HIGH = 0xb10c5000

/** Value of each block of each chunk. */
type Blocks = number[][]

interface Layer {
  readonly family: number
  readonly layer: string
}

interface Snapshot {
  readonly layer: string
  readonly blocks: Blocks
}

interface Volume {
  readonly family: number
  rootLayer: string
  headLayer: string
  branches: { root: string; last: string }[]
  blocks: Blocks
  snapshots: Snapshot[]
  /** With the lowest layer of the volume, which stands on it. */
  base: (Layer & { readonly root: string }) | null
}

export class BranchModel {
  readonly files: FaultyFiles
  readonly rig: ShardRig
  readonly volumes: Volume[] = []
  current: Volume
  private readonly bases = new Map<string, Layer | null>()
  private ids = 1
  nextValue = 1

  constructor(isSealed: boolean) {
    const random = seededRandom(3)
    this.files = new FaultyFiles(random)
    this.rig = new ShardRig({
      files: this.files,
      random,
      memoryBytes: BLOCKS * BLOCK_BYTES,
      sealed: isSealed,
      config: {
        segmentBytes: 64 * 1024,
        capacityBytes: 16 * 1024 * 1024,
        openFilesMax: 3,
        tagBytesMax: 2048
      }
    })
    const blocks = Array.from({ length: CHUNKS }, () => new Array<number>(BLOCKS).fill(0))
    this.current = this.add(formatId64(this.ids++, 77), blocks, null)
  }

  private add(root: string, blocks: Blocks, base: Layer | null): Volume {
    const volume: Volume = {
      family: this.ids++,
      ...{ rootLayer: root, headLayer: root, branches: [], blocks, snapshots: [] },
      base: base === null ? null : { ...base, root }
    }
    this.volumes.push(volume)
    if (base !== null) this.bases.set(nameOf(volume.family, root), base)
    return volume
  }

  snapshot(): void {
    const { current } = this
    current.snapshots.push({ layer: current.headLayer, blocks: structuredClone(current.blocks) })
    this.advance(current)
  }

  private advance(volume: Volume): void {
    const { high, low } = parseId64(volume.headLayer)
    volume.headLayer = formatId64(high, nextLayerLow(low))
  }

  /** Of any snapshot of any volume. */
  clone(at: number): void {
    const [source, from] = this.anySnapshot(at)
    if (source === null || this.volumes.length > 5) return
    const base = { family: source.family, layer: from.layer }
    const root = formatId64(this.ids++, BASED_START)
    this.current = this.add(root, structuredClone(from.blocks), base)
  }

  restore(at: number): void {
    const { current } = this
    const from = current.snapshots[at % current.snapshots.length]
    if (from === undefined) return
    const root = formatId64(this.ids++, BASED_START)
    this.bases.set(nameOf(current.family, root), { family: current.family, layer: from.layer })
    current.branches = linesOf(current)
    current.rootLayer = root
    current.headLayer = root
    current.blocks = structuredClone(from.blocks)
    this.dropDead(current)
  }

  deleteSnapshot(at: number): void {
    const { current } = this
    const from = current.snapshots[at % current.snapshots.length]
    if (from === undefined || this.hasClones(current, from)) return
    current.snapshots.splice(current.snapshots.indexOf(from), 1)
    this.dropDead(current)
    this.merge()
  }

  /** A volume that no clone stands on; one always stays. */
  remove(): void {
    const { current } = this
    if (this.volumes.length === 1 || this.hasClones(current, null)) return
    for (const layer of layersOf(current)) this.drop(current.family, layer)
    for (const { root } of linesOf(current)) this.bases.delete(nameOf(current.family, root))
    this.volumes.splice(this.volumes.indexOf(current), 1)
    this.current = this.volumes[0]!
  }

  switchTo(at: number): void {
    this.current = this.volumes[at % this.volumes.length]!
  }

  /** What the current volume reads from its base is copied, and the base is cut. */
  flatten(): void {
    const { current } = this
    const { base } = current
    if (base === null) return
    if (current.headLayer === base.root) this.advance(current)
    const read = lowestRead(current, base.root, this.readLayers(current))
    for (let chunk = 0; chunk < CHUNKS && read !== null; chunk++) {
      const own = this.status(current.family, read, chunk, base.root)
      const shown = this.status(current.family, read, chunk)
      for (let block = 0; block < BLOCKS; block++) {
        if (own[block] !== StatusExtent.Unchanged || shown[block] !== StatusExtent.Data) continue
        const from = this.op(OpKind.Read, current.family, read, chunk, block, 1)
        assert.is(this.ask(from), 0)
        const to = this.op(OpKind.Write, current.family, base.root, chunk, block, 1)
        assert.is(this.ask(to), 0)
      }
    }
    current.base = null
    this.bases.set(nameOf(current.family, base.root), null)
    this.tell(current.family, base.root)
  }

  change(kind: 'write' | 'trim' | 'zeroes' | 'noHole', chunk: number, at: number, n: number): void {
    const { rig, current } = this
    const count = Math.min(n, BLOCKS - at)
    const opKind =
      kind === 'write' ? OpKind.Write : kind === 'trim' ? OpKind.Trim : OpKind.WriteZeroes
    const op = this.op(opKind, current.family, current.headLayer, chunk, at, count)
    op.flags = kind === 'noHole' ? OpFlag.NoHole : 0
    const value = kind === 'write' ? this.nextValue++ : kind === 'noHole' ? ZERO : 0
    for (let i = 0; i < count; i++) fillBlock(rig.memory, i * BLOCK_BYTES, Math.max(0, value))
    assert.is(this.ask(op), 0)
    current.blocks[chunk]!.fill(value, at, at + count)
  }

  /**
   * A resync brings a block that the first volume had when it took a snapshot, and this shard had
   * not; what stands on that shows it too.
   */
  bring(at: number, chunk: number, block: number): void {
    const [{ family, snapshots }] = this.volumes as [Volume]
    const op = this.op(OpKind.Write, family, snapshots[at]!.layer, chunk, block, 1)
    const value = this.nextValue++
    fillBlock(this.rig.memory, 0, value)
    assert.is(this.ask(op), 0)
    for (const { blocks } of [...snapshots.slice(at), ...this.volumes]) {
      blocks[chunk]![block] = value
    }
  }

  /** As peers do that look at the metadata. */
  merge(): void {
    for (const volume of this.volumes) {
      for (const { branch, lowest, highest } of mergedLayers(volume, this.readLayers(volume))) {
        const layer = formatId64(branch, highest)
        assert.is(this.ask(this.op(OpKind.MergeLayers, volume.family, layer, lowest, 0, 0)), 0)
      }
    }
  }

  compare(): void {
    for (const volume of this.volumes) {
      for (const { layer, blocks } of volume.snapshots) this.compareLayer(volume, layer, blocks)
      this.compareLayer(volume, volume.headLayer, volume.blocks)
    }
  }

  compareHead(): void {
    this.compareLayer(this.current, this.current.headLayer, this.current.blocks)
  }

  /** Blocks with data that somebody can read, each of them in one layer. */
  readableData(): number {
    const seen = new Set<number>()
    for (const { blocks, snapshots } of this.volumes) {
      for (const each of [blocks, ...snapshots.map((one) => one.blocks)]) {
        each.forEach((values, chunk) => {
          values.forEach((value, block) => {
            if (value > 0) seen.add((value * CHUNKS + chunk) * BLOCKS + block)
          })
        })
      }
    }
    return seen.size
  }

  private compareLayer({ family }: Volume, layer: string, blocks: Blocks): void {
    const { rig } = this
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      const expected = blocks[chunk]!
      assert.is(this.ask(this.op(OpKind.Read, family, layer, chunk, 0, BLOCKS)), 0)
      const values = expected.map((_, i) => blockValue(rig.memory, i * BLOCK_BYTES))
      const wanted = expected.map((value) => Math.max(0, value))
      assert.equal(values, wanted, `chunk ${chunk} of layer ${layer} of ${family}`)
      const kinds = this.status(family, layer, chunk)
      // What was copied keeps its bytes, but zeroes that a base had become a hole.
      const isSame = expected.every((value, i) => value === ZERO || kinds[i] === statusOf(value))
      assert.ok(isSame, `status of chunk ${chunk} of layer ${layer} of ${family}`)
    }
  }

  /** Kind of each block; with `root` what is from below the branch that it begins is Unchanged. */
  private status(family: number, layer: string, chunk: number, root: string | null = null) {
    const op = this.op(OpKind.BlockStatus, family, layer, chunk, 0, BLOCKS)
    if (root !== null) {
      op.flags = OpFlag.Since
      op.writerEpoch = parseId64(root).high
      op.sequence = BASED_START - 1
    }
    assert.is(this.ask(op), 0)
    const { memory } = this.rig
    const words = new Uint32Array(memory.buffer, memory.byteOffset, 2 * op.resultA)
    const kinds: number[] = []
    for (let i = 0; i < words.length; i += 2) {
      for (let n = 0; n < words[i]!; n++) kinds.push(words[i + 1]!)
    }
    return kinds
  }

  private hasClones({ family }: Volume, snapshot: Snapshot | null): boolean {
    return this.volumes.some(
      ({ base }) => base?.family === family && (snapshot === null || base.layer === snapshot.layer)
    )
  }

  private anySnapshot(at: number): [Volume, Snapshot] | [null, null] {
    const all = this.volumes.flatMap((volume) =>
      volume.snapshots.map((snapshot): [Volume, Snapshot] => [volume, snapshot])
    )
    return all[at % all.length] ?? [null, null]
  }

  private readLayers({ family, snapshots }: Volume): string[] {
    const below = [...this.bases.values()].filter((base) => base?.family === family)
    return [...snapshots.map(({ layer }) => layer), ...below.map((base) => base!.layer)]
  }

  private dropDead(volume: Volume): void {
    // A base goes when what stands on it does, which may leave others dead.
    for (;;) {
      const { kept, dead } = withoutDead(volume, this.readLayers(volume))
      for (const layer of dead) this.drop(volume.family, layer)
      const gone = volume.branches.filter(({ root }) => !kept.some((line) => line.root === root))
      for (const { root } of gone) this.bases.delete(nameOf(volume.family, root))
      volume.branches = kept
      if (dead.length === 0) return
    }
  }

  private drop(family: number, layer: string): void {
    assert.is(this.ask(this.op(OpKind.DeleteLayer, family, layer, 0, 0, 0)), 0)
  }

  private op(
    kind: number,
    family: number,
    layer: string,
    chunk: number,
    first: number,
    count: number
  ): ShardOp {
    const op = this.rig.op(kind, chunk, first, count)
    const { high, low } = parseId64(layer)
    op.familyHigh = FAMILY_HIGH
    op.familyLow = family
    op.layerHigh = high
    op.layerLow = low
    return op
  }

  /** Teaches the shard what it does not know, as its process does. */
  private ask(op: ShardOp): number {
    if (this.rig.run(op) !== ErrorCode.BaseUnknown) return op.error
    const layer = formatId64(op.layerHigh, op.layerLow)
    for (let at: Layer | null = { family: op.familyLow, layer }; at !== null; ) {
      if (!isBasedLayer(parseId64(at.layer).low)) break
      this.tell(at.family, at.layer)
      at = this.bases.get(nameOf(at.family, at.layer)) ?? null
    }
    return this.rig.run(op)
  }

  private tell(family: number, layer: string): void {
    const base = this.bases.get(nameOf(family, layer)) ?? null
    const op = this.op(OpKind.SetBase, family, layer, 0, 0, 0)
    const { high, low } = parseId64(base?.layer ?? '0000000000000000')
    op.chunk = base === null ? 0 : FAMILY_HIGH
    op.writerEpoch = base?.family ?? 0
    op.sequence = high
    op.layerLow = low
    assert.is(this.rig.run(op), 0)
  }
}

const nameOf = (family: number, layer: string): string => `${family}/${layer.slice(0, 8)}`

const statusOf = (value: number): number => (value === 0 ? StatusExtent.Hole : StatusExtent.Data)
