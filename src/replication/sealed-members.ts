/**
 * A replicated store as encrypted volumes see it: blocks are sealed here, before they go to any
 * member, and opened here when they come back.
 *
 *   write   payload --seal--> run of the arena [ciphertext | tags] --> members
 *   read    members --> run [ciphertext | seal entries] --open--> payload
 *
 * Payloads are never sealed where they are: whoever gave one may send it again, and it would be
 * sealed twice. Ciphertext is sent as it is however often members ask for it. A block that does not
 * open counts like one that fails its checksum: another member is asked (`BlockOp.verify`).
 */
import type { Arena } from '../core/arena.ts'
import { assert } from '../core/assert.ts'
import { ErrorCode } from '../core/errors.ts'
import { withKin } from '../core/family-ids.ts'
import { BLOCK_BYTES, PIECE_BLOCKS_MAX } from '../core/limits.ts'
import { SEAL_TAG_BYTES } from '../format/batch.ts'
import { viewOf } from '../format/fields.ts'
import { BlockSeal } from '../seal/block-seal.ts'
import type { SealKeys } from '../seal/key-table.ts'
import { BlockViews } from '../shard/memory.ts'
import {
  SEAL_ENTRY_BYTES,
  SEAL_KIN_SHIFT,
  SEAL_KIND_MASK,
  SealKind,
  type ShardOp
} from '../shard/op.ts'
import {
  type BlockOp,
  type BlockStore,
  copyRequest,
  type FamilyKey,
  OpFlag,
  OpKind
} from './block-store.ts'
import type { FamilyKeys } from './sealed-store.ts'

export interface SealedMembersOptions {
  readonly store: BlockStore
  readonly arena: Arena
  readonly families: FamilyKeys
  readonly keys: SealKeys
  /** A member's bytes were whole, and not what was sealed there. */
  readonly onBroken: (what: string) => void
}

const TWO_32 = 2 ** 32
/** The largest op: blocks, and what opens each. */
const SPARE_PAGES = PIECE_BLOCKS_MAX + (PIECE_BLOCKS_MAX * SEAL_ENTRY_BYTES) / BLOCK_BYTES

export class SealedMembersStore implements BlockStore {
  readonly #store: BlockStore
  readonly #options: SealedMembersOptions
  readonly #arena: Arena
  readonly #views: BlockViews
  readonly #view: DataView
  readonly #seal = new BlockSeal()
  /** Ops that wait for pages, and all that came after them. */
  #waiting: BlockOp[] = []
  #refused: BlockOp[] = []
  /** Reads for which keys were fetched. */
  readonly #again = new Set<BlockOp>()
  /** A run for when the arena has none, so that one op can always go on; -1 while it is in use. */
  #spare: number
  #armed = false

  constructor(options: SealedMembersOptions) {
    this.#options = options
    this.#store = options.store
    this.#arena = options.arena
    this.#spare = options.arena.acquire(SPARE_PAGES)
    assert(this.#spare >= 0, 'the spare run is taken before others take theirs')
    this.#views = new BlockViews(options.arena.bytes)
    this.#view = viewOf(options.arena.bytes)
  }

  acquireOp(): BlockOp {
    return this.#store.acquireOp()
  }

  releaseOp(op: BlockOp): void {
    this.#store.releaseOp(op)
  }

  submit(op: BlockOp): void {
    if (this.#waiting.length > 0 || !this.#send(op)) this.#waiting.push(op)
  }

  /** Pages may be there. */
  readonly #proceed = (): void => {
    this.#armed = false
    if (this.#spare < 0) this.#spare = this.#arena.acquire(SPARE_PAGES)
    let sent = 0
    while (sent < this.#waiting.length && this.#send(this.#waiting[sent]!)) sent++
    this.#waiting.splice(0, sent)
    if (sent > 0) this.#store.ring()
  }

  /** -1: `#proceed` is called when there may be some. */
  #acquire(pages: number): number {
    const run = this.#arena.acquire(pages)
    if (run >= 0) return run
    const spare = this.#spare
    this.#spare = -1
    if (spare < 0 && !this.#armed) {
      this.#armed = true
      this.#arena.onFree(this.#proceed)
    }
    return spare
  }

  /**
   * Who still sends late copies of the run holds it too, so nothing else is put there meanwhile.
   * If nobody does it may be the spare one again, before anybody else has its pages.
   */
  #release(run: number): void {
    this.#arena.release(run)
    if (this.#spare < 0) this.#spare = this.#arena.acquire(SPARE_PAGES)
  }

  readNow(): number {
    return -1
  }

  ring(isLast?: boolean): void {
    this.#store.ring(isLast)
  }

  flush(done: (error: number) => void): void {
    this.#store.flush(done)
  }

  hasDetached(whose: FamilyKey): boolean {
    return this.#store.hasDetached?.(whose) ?? false
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    this.#store.broadcast(op, done)
  }

  /** False: it has to wait for pages. */
  #send(op: BlockOp): boolean {
    if (op.kind !== OpKind.Read && op.kind !== OpKind.Write) {
      this.#store.submit(op)
      return true
    }
    const isRead = op.kind === OpKind.Read
    const key = isRead ? null : this.#keyOf(op, op.familyLow, op.writerEpoch)
    const isLocked = isRead ? !this.#isUnlocked(op) : key === null
    if (isLocked) {
      this.#refuse(op)
      return true
    }
    const bytes = op.blockCount * (BLOCK_BYTES + (isRead ? SEAL_ENTRY_BYTES : SEAL_TAG_BYTES))
    const run = this.#acquire(Math.ceil(bytes / BLOCK_BYTES))
    if (run < 0) return false
    const inner = this.#store.acquireOp()
    copyRequest(op, inner)
    inner.flags |= OpFlag.Sealed
    inner.payload = run
    inner.tags = run + op.blockCount * BLOCK_BYTES
    inner.owner = op
    inner.onDone = this.#done
    if (isRead) inner.verify = this.#open
    else this.#sealInto(op, key!, inner)
    this.#store.submit(inner)
    return true
  }

  #sealInto(op: BlockOp, key: Buffer, inner: BlockOp): void {
    const { bytes } = this.#options.arena
    this.#seal.version(op.familyHigh, op.familyLow, op.writerEpoch, op.sequence)
    for (let i = 0; i < op.blockCount; i++) {
      const plain = this.#views.at(op.payload + i * BLOCK_BYTES)
      const cipher = this.#views.at(inner.payload + i * BLOCK_BYTES)
      const at = inner.tags + i * SEAL_TAG_BYTES
      const tag = bytes.subarray(at, at + SEAL_TAG_BYTES)
      this.#seal.seal(key, op.chunk, op.firstBlock + i, plain, cipher, tag)
    }
  }

  /** Opens what a member sent into the payload of who asked. */
  readonly #open = (inner: BlockOp): number => {
    const op = inner.owner as BlockOp
    const view = this.#view
    const { bytes } = this.#options.arena
    for (let i = 0; i < op.blockCount; i++) {
      const at = inner.tags + i * SEAL_ENTRY_BYTES
      const plain = this.#views.at(op.payload + i * BLOCK_BYTES)
      const kind = view.getUint32(at + 28, true)
      if ((kind & SEAL_KIND_MASK) === SealKind.Zeroes) {
        plain.fill(0)
        continue
      }
      const writerEpoch = view.getUint32(at + 16, true)
      const sequence = view.getUint32(at + 20, true) + view.getUint32(at + 24, true) * TWO_32
      const familyLow = withKin(op.familyLow, kind >>> SEAL_KIN_SHIFT)
      const key = this.#keyOf(op, familyLow, writerEpoch)
      if (key === null && this.#mayLack(op)) return ErrorCode.Locked
      const cipher = this.#views.at(inner.payload + i * BLOCK_BYTES)
      const tag = bytes.subarray(at, at + SEAL_TAG_BYTES)
      const block = op.firstBlock + i
      if (writerEpoch > 0 && key !== null) {
        this.#seal.version(op.familyHigh, familyLow, writerEpoch, sequence)
        if (this.#seal.open(key, op.chunk, block, cipher, tag, plain)) continue
        // It may be under a newer key than those that are here.
        if (this.#mayLack(op)) return ErrorCode.Locked
      }
      inner.resultA = block
      this.#options.onBroken(`block ${block} of chunk ${op.chunk} does not open`)
      return ErrorCode.SealBroken
    }
    return ErrorCode.Ok
  }

  #isUnlocked({ familyHigh, familyLow }: BlockOp): boolean {
    return this.#options.families.slotOf(familyHigh, familyLow) !== 0
  }

  /** For blocks of `family` among what the op is about. */
  #keyOf(op: BlockOp, family: number, writerEpoch: number): Buffer | null {
    const { families, keys } = this.#options
    const group = families.slotOf(op.familyHigh, op.familyLow)
    return group === 0 ? null : keys.keyOf(group, family, writerEpoch)
  }

  /** May there be a key which is not held yet? Not when the volume was locked meanwhile. */
  #mayLack(op: BlockOp): boolean {
    if (!this.#isUnlocked(op)) return true
    const { families } = this.#options
    return families.mayLack(op.familyHigh, op.familyLow) && !this.#again.has(op)
  }

  async #readAgain(op: BlockOp): Promise<void> {
    this.#again.add(op)
    await this.#options.families.fetch(op.familyHigh, op.familyLow)
    this.submit(op)
    this.ring()
  }

  readonly #done = (inner: BlockOp): void => {
    const op = inner.owner as BlockOp
    op.error = inner.error
    op.resultA = inner.resultA
    op.resultB = inner.resultB
    this.#release(inner.payload)
    inner.verify = null
    this.#store.releaseOp(inner)
    if (op.error === ErrorCode.Locked && this.#isUnlocked(op) && !this.#again.has(op)) {
      void this.#readAgain(op)
      return
    }
    this.#again.delete(op)
    op.onDone(op)
  }

  #refuse(op: BlockOp): void {
    this.#again.delete(op)
    op.error = ErrorCode.Locked
    op.resultA = 0
    op.resultB = 0
    if (this.#refused.push(op) === 1) queueMicrotask(this.#answerRefused)
  }

  readonly #answerRefused = (): void => {
    const refused = this.#refused
    this.#refused = []
    for (const op of refused) op.onDone(op)
  }
}
