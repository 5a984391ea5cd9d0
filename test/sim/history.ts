/**
 * Snapshots of a simulated volume, and what stands on them: the volume itself, that goes back to
 * one, and clones. All are read for ever.
 */
import { encodeRecord } from '../../src/cluster/records.ts'
import { formatId64, parseId64 } from '../../src/cluster/ids.ts'
import type { Random } from '../../src/core/clock.ts'
import { randomKinOf } from '../../src/core/family-ids.ts'
import type { Id64 } from '../../src/core/id64.ts'
import { BASED_START, nextLayerLow } from '../../src/core/layer-ids.ts'
import type { BlockModel, Session, View } from './block-model.ts'
import type { SimVolume } from './volume.ts'

/** Of requests that change something one in so many takes a snapshot, or goes back to one. */
const CHANGE_EVERY = 12
/** Nothing is merged here: more would fill the small disks. */
const LAYERS_MAX = 6
const VOLUMES_MAX = 4

export interface Put {
  readonly put: string
  readonly value: Buffer
}

export const newBranch = (random: Random): string => formatId64(random.u32(), BASED_START)

export const kinOf = ({ record }: SimVolume, random: Random): Id64 =>
  randomKinOf(parseId64(record.family), random)

export class SimHistory {
  readonly #volume: SimVolume
  readonly #snapshots: View[] = []
  /** All that were written to. */
  readonly layers: string[]
  /** Branches below the head. */
  #depth: number
  /** The head is about to be another one. */
  isChanging = false
  #bases: Put[] = []

  constructor(volume: SimVolume, depth: number) {
    this.#volume = volume
    this.#depth = depth
    this.layers = [volume.record.headLayer]
  }

  /** Models of all that can be read. */
  get views(): (readonly BlockModel[])[] {
    return [this.#volume.blocks, ...this.#snapshots.map(({ blocks }) => blocks)]
  }

  get snapshots(): readonly View[] {
    return this.#snapshots
  }

  /** Null for the head. */
  someView(): View | null {
    const { random } = this.#volume.sim.world
    return this.#snapshots[random.below(this.#snapshots.length + 1)] ?? null
  }

  /** Before a change by the writer: now and then it does something else first. */
  step(session: Session): void {
    const { sim, record } = this.#volume
    const { random } = sim.world
    if (random.below(CHANGE_EVERY) > 0 || this.isChanging || !this.#isWriter(session)) return
    const view = this.#snapshots[random.below(this.#snapshots.length + 1)]
    if (view?.isFlushed === true && sim.mayClone && sim.volumes.length < VOLUMES_MAX) {
      this.#clone(view)
    } else if (this.layers.length === LAYERS_MAX) return
    else if (view !== undefined) this.#goBack(session, view)
    else {
      const { high, low } = parseId64(record.headLayer)
      this.#freeze(session)
      this.#begin(formatId64(high, nextLayerLow(low)))
    }
  }

  /** Who has it: versions of others are refused by members, or void. */
  #isWriter(session: Session): boolean {
    const { sessions, opening } = this.#volume
    return !opening && session.inFlight === 0 && !session.isOver && sessions.at(-1) === session
  }

  #freeze(session: Session): void {
    const { record, blocks, sim } = this.#volume
    const copies = blocks.map((block) => block.copy())
    const view = { layer: record.headLayer, blocks: copies, depth: this.#depth, isFlushed: false }
    this.#snapshots.push(view)
    sim.world.log(`${record.name} has a snapshot, ${view.layer}`)
    this.#volume.flush(session, () => {
      view.isFlushed = true
    })
    session.boot.store!.ring()
  }

  #begin(layer: string): void {
    const { record, sim } = this.#volume
    record.headLayer = layer
    this.layers.push(layer)
    sim.world.log(`${record.name} writes to layer ${layer}`)
  }

  #goBack(session: Session, view: View): void {
    const { sim, record } = this.#volume
    const root = newBranch(sim.world.random)
    const entry = baseOf(this.#volume, { ...view, of: this.#volume, root })
    const { headLayer } = record
    this.isChanging = true
    void sim.metadata.transact({ success: [entry] }).then(() => {
      this.isChanging = false
      if (!this.#isWriter(session) || record.headLayer !== headLayer) return
      this.#bases.push(entry)
      this.#depth = view.depth + 1
      this.#volume.blocks = view.blocks.map((block) => block.copy())
      sim.world.log(`${record.name} goes back to ${view.layer}`)
      this.#begin(root)
    })
  }

  #clone(view: View): void {
    const { sim, record } = this.#volume
    const clone = this.#volume.cloneAt(view, `c${sim.volumes.length}`)
    const root = clone.record.headLayer
    const entry = baseOf(clone, { ...view, of: this.#volume, root })
    clone.history.#bases.push(entry)
    clone.history.#depth = view.depth + 1
    sim.volumes.push(clone)
    sim.world.log(`${clone.record.name} is a clone of ${record.name} at ${view.layer}`)
    clone.opening = true
    void clone.create([entry]).then(() => {
      clone.opening = false
    })
  }

  /** The metadata was put back to an earlier moment. */
  async writeBases(): Promise<void> {
    await this.#volume.sim.metadata.transact({ success: this.#bases })
  }
}

/** The record by which members know on what the branch that begins with `root` stands. */
function baseOf(
  { sim, record }: SimVolume,
  base: { readonly of: SimVolume; readonly layer: string; depth: number; readonly root: string }
): Put {
  const { family } = base.of.record
  const { layer, root } = base
  const value = { v: 1 as const, volume: record.id, family, layer, depth: base.depth + 1 }
  return { put: sim.keys.base(record.family, root), value: encodeRecord('base', value) }
}
