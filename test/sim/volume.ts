/**
 * A volume's clients, and what they may see. Every write has a number that only grows; a block's
 * value is the number of a write that covered it. What was acknowledged, or returned by a read,
 * is the block's floor: no read that begins later may return less.
 */
import { errorCodeName, ErrorCode } from '../../src/core/errors.ts'
import { randomFamily } from '../../src/core/family-ids.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { encodeRecord, type VolumeRecord } from '../../src/cluster/records.ts'
import { formatId64, parseId64, randomId64, randomRootLayer } from '../../src/cluster/ids.ts'
import { decodeHeld } from '../../src/replication/resync-plan.ts'
import { crc32c } from '../../src/core/checksum.ts'
import { BlockOp, OpKind } from '../../src/replication/block-store.ts'
import { askForTags, copyPages } from '../../src/replication/copied-tags.ts'
import { VersionKind } from '../../src/shard/op.ts'
import type { SimCluster } from './cluster.ts'
import { findChunks } from './finds.ts'
import type { Boot } from './peer.ts'
import { blockValue, fillBlock } from '../helpers/shard-rig.ts'
import {
  BLOCKS,
  BlockModel,
  type BlockRange,
  checkRead,
  CHUNK_BLOCKS_USED,
  CHUNKS,
  type Session,
  type View
} from './block-model.ts'
import { kinOf, newBranch, type Put, SimHistory } from './history.ts'
import type { World } from './world.ts'

export { CHUNK_BLOCKS_USED, CHUNKS, type Session }

export class SimVolume {
  readonly sim: SimCluster
  readonly record: VolumeRecord
  /** Of the head. */
  blocks: readonly BlockModel[] = Array.from({ length: BLOCKS }, () => new BlockModel())
  readonly history: SimHistory
  sessions: Session[] = []
  opening = false
  acknowledged = 0
  /** Chunks of which it was found that there is nothing. */
  absent = 0
  reads = 0
  opens = 0
  errors = 0
  isQuiet = false
  /** Members that lost power and stayed in sync, 'group/boot', since the last takeover. */
  readonly unproven: Set<string> = new Set()
  #next = 1

  /** With `origin` a clone of a snapshot of that. */
  constructor(
    sim: SimCluster,
    name: string,
    origin: { readonly volume: SimVolume; readonly view: View } | null = null
  ) {
    this.sim = sim
    const { random } = sim.world
    const layered = sim.options.layers === true
    const ofKin = origin === null ? randomFamily(random) : kinOf(origin.volume, random)
    this.record = {
      v: 1,
      id: randomId64(random),
      name,
      type: 'block',
      family: layered ? formatId64(ofKin.high, ofKin.low) : randomId64(random),
      headLayer: origin === null ? randomRootLayer(random) : newBranch(random),
      sizeBytes: 2 ** 30,
      touchedBytes: 2 ** 30,
      state: 'ready',
      readOnly: false,
      labels: {},
      description: '',
      settings: {},
      createdAt: '2026-01-31T12:00:00.000Z'
    }
    this.history = new SimHistory(this, origin?.view.depth ?? 0)
    if (origin === null) return
    this.blocks = origin.view.blocks.map((block) => block.copy())
    this.#next = origin.volume.#next
  }

  cloneAt(view: View, name: string): SimVolume {
    return new SimVolume(this.sim, name, { volume: this, view })
  }

  get #world(): World {
    return this.sim.world
  }

  /** `also` goes into the same transaction. */
  async create(also: readonly Put[] = []): Promise<void> {
    const { keys } = this.sim
    await this.sim.metadata.transact({
      success: [
        ...also,
        { put: keys.volume(this.record.id), value: encodeRecord('volume', this.record) },
        {
          put: keys.family(this.record.family),
          value: encodeRecord('family', { v: 1, writerEpoch: 0 })
        }
      ]
    })
  }

  groupOf(block: number): number {
    const { high, low } = parseId64(this.record.family)
    return this.sim.groupOfChunk(high, low, Math.floor(block / CHUNK_BLOCKS_USED))
  }

  /**
   * What a member has of the volume in a group, in all of its layers, holes left out; null of
   * blocks that are bad.
   */
  async heldBy(boot: Boot, group: number, groupEpoch: number): Promise<Map<string, string | null>> {
    const held = new Map<string, string | null>()
    for (const layer of this.history.layers) {
      await this.#heldInLayer(boot, { group, groupEpoch, layer }, held)
    }
    return held
  }

  async #heldInLayer(
    boot: Boot,
    under: { readonly group: number; readonly groupEpoch: number; readonly layer: string },
    held: Map<string, string | null>
  ): Promise<void> {
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      if (this.groupOf(chunk * CHUNK_BLOCKS_USED) !== under.group) continue
      const whole = { chunk, first: 0, count: CHUNK_BLOCKS_USED }
      if ((await this.#heldAt(boot, whole, under, held)) === ErrorCode.Ok) continue
      for (let first = 0; first < CHUNK_BLOCKS_USED; first++) {
        const error = await this.#heldAt(boot, { chunk, first, count: 1 }, under, held)
        const said = error === ErrorCode.ChecksumMismatch ? null : errorCodeName(error)
        if (error !== ErrorCode.Ok) held.set(`${under.layer}/${chunk}/${first}`, said)
      }
    }
  }

  async #heldAt(
    boot: Boot,
    { chunk, first, count }: BlockRange,
    { layer, ...under }: { readonly group: number; readonly groupEpoch: number; layer: string },
    held: Map<string, string | null>
  ): Promise<number> {
    const { bytes } = boot.arena
    const pages = boot.arena.acquire(copyPages(count))
    const op = this.#fill(new BlockOp(), OpKind.ReadVersions, { chunk, first, count }, layer)
    Object.assign(op, { payload: pages, pool: this.sim.pool.number, ...under })
    const { sealed } = this.sim.options
    if (sealed) askForTags(op)
    const textOf = (at: number): number =>
      sealed ? crc32c(bytes.subarray(at, at + BLOCK_BYTES)) : blockValue(bytes, at)
    await new Promise<void>((resolve) => {
      op.onDone = () => resolve()
      boot.service!.submit(op)
      boot.service!.ring()
    })
    const runs = op.error === ErrorCode.Ok ? decodeHeld(bytes, pages, op.resultA) : []
    for (const { firstBlock, blockCount, kind, writerEpoch, sequence } of runs) {
      if (kind === VersionKind.Hole) continue
      for (let block = firstBlock; block < firstBlock + blockCount; block++) {
        const at = pages + (1 + block - first) * BLOCK_BYTES
        const value = kind === VersionKind.Data ? textOf(at) : 0
        held.set(`${layer}/${chunk}/${block}`, `${writerEpoch}.${sequence} ${value}`)
      }
    }
    boot.arena.release(pages)
    return op.error
  }

  /** Nobody that has what was not flushed in this group, or any, is left. */
  onPowerLoss(group: number | null): void {
    for (let at = 0; at < BLOCKS; at++) {
      if (group !== null && this.groupOf(at) !== group) continue
      for (const { [at]: block } of this.history.views) {
        block!.floor = Math.min(block!.floor, block!.durable)
        block!.lostMs = this.#world.nowMs
      }
    }
  }

  onSessionReplaced(boot: Boot): void {
    for (const session of this.sessions) {
      if (session.boot !== boot || session.isOver) continue
      boot.writers!.retake(this.record).then(
        (epoch) => {
          this.#world.log(`${this.record.name}@${boot.place} retaken, epoch ${epoch}`)
          session.epoch = epoch
          session.sequence = 0
          boot.writers!.noteEpoch(this.record, epoch)
        },
        (thrown: unknown) => this.#over(session, `retake: ${(thrown as Error).message}`)
      )
    }
  }

  /** Opens that serve, as far as their gateways know. */
  get live(): Session[] {
    return this.sessions.filter(({ isOver, boot }) => !isOver && boot.process.isAlive)
  }

  /** Opens the volume at a gateway; clients follow it there. */
  open(boot: Boot, takeover: boolean): void {
    if (this.opening || boot.writers === null) return
    const known = this.sessions.find((each) => each.boot === boot && !each.isOver)
    if (known !== undefined) return
    this.opening = true
    const session: Session = { boot, epoch: 0, sequence: 0, isOver: false, inFlight: 0, why: '' }
    const startedMs = this.#world.nowMs
    let isOver = false
    const done = (): void => {
      if (!isOver) this.opening = false
      isOver = true
    }
    // A gateway that dies meanwhile answers nobody.
    const cancel = this.#world.after(20_000, done)
    boot.process.onKill(() => this.#world.after(100, done))
    boot.writers.acquire(this.record, { takeover, onLost: (why) => this.#lost(session, why) }).then(
      (epoch) => {
        cancel()
        done()
        session.epoch = epoch
        this.#prove(boot)
        const took = (this.#world.nowMs - startedMs).toFixed(0)
        this.#world.log(`${this.record.name} opens at ${boot.place}, epoch ${epoch}, ${took} ms`)
        this.opens++
        this.sessions = this.sessions.filter((each) => !each.isOver || each.inFlight > 0)
        this.sessions.push(session)
        if (!session.isOver) this.#step(session)
      },
      (thrown: unknown) => {
        cancel()
        done()
        this.#world.log(`${this.record.name} not at ${boot.place}: ${(thrown as Error).message}`)
      }
    )
  }

  /** A takeover made members in sync equal and flushed them. */
  #prove(boot: Boot): void {
    const families = [...boot.store!.families()]
    const mine = families.find(({ id }) => id === this.record.family)
    if (mine === undefined) return
    for (const key of [...this.unproven]) {
      const group = Number(key.split('/')[0])
      if (!mine.unsettled.has(mine.pool.covering(group).index)) this.unproven.delete(key)
    }
  }

  /** All clients leave a gateway that ends. */
  async leave(boot: Boot): Promise<void> {
    for (const session of this.sessions) {
      if (session.boot !== boot || session.isOver) continue
      this.#over(session, 'released')
      for (let waits = 0; session.inFlight > 0 && waits < 200; waits++) {
        await new Promise<void>((resolve) => void boot.process.start(5, resolve))
      }
    }
    await boot.writers?.release(this.record).catch(ignore)
  }

  /** Ends the session at a gateway in an orderly way. */
  release(session: Session): void {
    if (session.isOver) return
    this.#over(session, 'released')
    const { boot } = session
    let waits = 0
    const wait = (): void => {
      if (session.inFlight > 0 && waits++ < 200) boot.process.start(5, wait)
      else boot.writers!.release(this.record).catch(ignore)
    }
    wait()
  }

  #lost(session: Session, why: string): void {
    this.#world.log(`${this.record.name} at ${session.boot.place}: ${why}`)
    if (why === 'wanted') this.release(session)
    else this.#over(session, why)
  }

  #over(session: Session, why: string): void {
    if (session.isOver) return
    session.isOver = true
    session.why = why
    if (why !== 'released') session.boot.writers?.release(this.record).catch(ignore)
  }

  /** Clients do something now and then. */
  #step(session: Session): void {
    const { process } = session.boot
    const world = this.#world
    process.start(world.between(0.1, 12), () => {
      if (session.isOver || this.isQuiet) return
      if (session.inFlight < 6) this.#doSomething(session)
      this.#step(session)
    })
  }

  #doSomething(session: Session): void {
    const { random } = this.#world
    if (this.sim.options.finds === true && this.#world.chance(5)) {
      findChunks(this, session)
      const chunk = random.below(CHUNKS)
      const whole = { chunk, first: 0, count: CHUNK_BLOCKS_USED }
      if (this.#world.chance(2)) this.write(session, OpKind.Trim, whole)
    }
    const choice = random.below(20)
    if (choice < 9) this.write(session, OpKind.Write)
    else if (choice < 11) this.write(session, OpKind.Trim)
    else if (choice < 12) this.write(session, OpKind.WriteZeroes)
    else if (choice < 15) this.read(session)
    else if (choice < 18) this.read(session, this.#range(), this.history.someView())
    else this.flush(session)
    session.boot.store!.ring()
  }

  #range(): BlockRange {
    const { random } = this.#world
    const chunk = random.below(CHUNKS)
    const first = random.below(CHUNK_BLOCKS_USED)
    const count = 1 + random.below(Math.min(3, CHUNK_BLOCKS_USED - first))
    return { first, count, chunk }
  }

  write(session: Session, kind: number, range: BlockRange = this.#range()): void {
    if (this.sim.options.layers === true) this.history.step(session)
    if (this.history.isChanging) return
    const { boot } = session
    const { first, count, chunk } = range
    const number = this.#next++
    const pages = kind === OpKind.Write ? boot.arena.acquire(count) : 0
    if (pages < 0) return
    const isZero = kind !== OpKind.Write
    const start = chunk * CHUNK_BLOCKS_USED + first
    const covered = this.blocks.slice(start, start + count)
    for (const block of covered) {
      block.writes.push({ number, isZero })
      block.pending.set(number, session)
    }
    if (!isZero) {
      for (let i = 0; i < count; i++) fillBlock(boot.arena.bytes, pages + i * BLOCK_BYTES, number)
    }
    const sinceMs = this.#world.nowMs
    const op = this.#op(session, kind, range)
    op.payload = pages
    op.writerEpoch = session.epoch
    op.sequence = ++session.sequence
    this.#world.log(
      `${this.record.name}@${boot.place} ${isZero ? 'zero' : 'write'} ${number} ` +
        `(${op.writerEpoch},${op.sequence}) at ${start}+${count}`
    )
    op.onDone = () => {
      if (!isZero) boot.arena.release(pages)
      for (const block of covered) block.pending.delete(number)
      const { error } = op
      this.#ended(session, op)
      if (error !== 0) {
        this.#failed(session, error, `write ${number}`, { group: this.groupOf(start), sinceMs })
        return
      }
      this.acknowledged++
      this.#world.log(`${this.record.name}@${boot.place} acked ${number}`)
      for (const block of covered) {
        block.raise(number, sinceMs, session)
        block.prune()
      }
    }
    boot.blocks!.submit(op)
  }

  /** Of the head, or of a snapshot. */
  read(session: Session, range: BlockRange = this.#range(), view: View | null = null): void {
    const { boot } = session
    const blocks = view?.blocks ?? this.blocks
    const { first, count, chunk } = range
    const pages = boot.arena.acquire(count)
    if (pages < 0) return
    boot.arena.bytes.fill(0xee, pages, pages + count * BLOCK_BYTES)
    const op = this.#op(session, OpKind.Read, range, view?.layer)
    op.payload = pages
    const start = chunk * CHUNK_BLOCKS_USED + first
    const sinceMs = this.#world.nowMs
    const asked = blocks.slice(start, start + count)
    const floors = asked.map(({ floor }) => floor)
    for (const block of asked) block.reading.push(block.floor)
    op.onDone = () => {
      const { error } = op
      for (const [i, { reading }] of asked.entries()) {
        reading.splice(reading.indexOf(floors[i]!), 1)
      }
      const values = Array.from({ length: count }, (_, i) =>
        blockValue(boot.arena.bytes, pages + i * BLOCK_BYTES)
      )
      boot.arena.release(pages)
      this.#ended(session, op)
      if (error !== 0) {
        this.#failed(session, error, 'read', { group: this.groupOf(start), sinceMs })
        // Nobody has these bytes any more: a client writes others.
        if (error === ErrorCode.ChecksumMismatch && !session.isOver && view === null) {
          this.write(session, OpKind.Write, { chunk, first, count })
        }
        return
      }
      this.reads++
      for (const [i, block] of asked.entries()) {
        const where = view === null ? `${start + i}` : `${start + i} of ${view.layer}`
        checkRead(this, block, values[i]!, { floor: floors[i]!, sinceMs, session, where })
      }
    }
    op.error = 0
    const isAtHand = this.#world.chance(2) && boot.blocks!.readNow(op, boot.arena.bytes, pages) >= 0
    if (isAtHand) op.onDone(op)
    else boot.blocks!.submit(op)
  }

  flush(session: Session, then: () => void = ignore): void {
    const all = [...this.history.views].flat()
    const floors = all.map(({ floor }) => floor)
    const sinceMs = this.#world.nowMs
    session.inFlight++
    const { high: familyHigh, low: familyLow } = parseId64(this.record.family)
    const done = (error: number): void => {
      session.inFlight--
      if (error !== 0) {
        this.#failed(session, error, 'flush', { group: -1, sinceMs })
        return
      }
      if (session.isOver) return
      this.#world.log(`${this.record.name}@${session.boot.place} flushed`)
      for (const [at, block] of all.entries()) {
        block.durable = Math.max(block.durable, Math.min(floors[at]!, block.floor))
      }
      then()
    }
    session.boot.store!.flush(done, { familyHigh, familyLow })
  }

  #op(session: Session, kind: number, range: BlockRange, layer?: string): BlockOp {
    session.inFlight++
    return this.#fill(session.boot.blocks!.acquireOp(), kind, range, layer)
  }

  #fill(
    op: BlockOp,
    kind: number,
    { chunk, first, count }: BlockRange,
    ofLayer: string = this.record.headLayer
  ): BlockOp {
    const family = parseId64(this.record.family)
    const layer = parseId64(ofLayer)
    op.kind = kind
    op.flags = 0
    op.familyHigh = family.high
    op.familyLow = family.low
    op.layerHigh = layer.high
    op.layerLow = layer.low
    op.chunk = chunk
    op.firstBlock = first
    op.blockCount = count
    op.writerEpoch = 0
    op.sequence = 0
    op.payload = 0
    return op
  }

  #ended(session: Session, op: BlockOp): void {
    session.inFlight--
    session.boot.blocks!.releaseOp(op)
  }

  #failed(
    session: Session,
    error: number,
    what: string,
    { group, sinceMs }: { readonly group: number; readonly sinceMs: number }
  ): void {
    this.errors++
    if (error === ErrorCode.Closed) {
      this.#over(session, 'closed')
      return
    }
    if (this.sim.mayFail(error, group, sinceMs)) return
    this.#world.fail(`${this.record.name}@${session.boot.place}: ${what}: ${errorCodeName(error)}`)
  }
}

function ignore(): void {}
