import { ErrorCode } from '../core/errors.ts'
import type { ShardOp } from '../shard/op.ts'
import { type BlockOp, type BlockStore, OpFlag, OpKind } from './block-store.ts'

/** The data keys of families. */
export interface FamilyKeys {
  /** Group of the keys (seal/keyring.ts) for all that is read of a family; 0: it is locked. */
  slotOf(familyHigh: number, familyLow: number): number
  /**
   * May some of them be missing? Those of what a clone stands on change while that is rekeyed, by
   * whomever: then an older one is taken for the new one, and opens nothing.
   */
  mayLack(familyHigh: number, familyLow: number): boolean
  /** Resolves when all that the metadata has are in the group, or it does not answer. */
  fetch(familyHigh: number, familyLow: number): Promise<void>
}

/**
 * The store of this process's shards as encrypted volumes see it: shards seal what they write and
 * open what they read. What is locked is neither read nor written.
 */
export class SealedStore implements BlockStore {
  readonly #store: BlockStore
  readonly #keys: FamilyKeys
  #refused: BlockOp[] = []
  /** Reads for which keys were fetched. */
  readonly #again = new Set<BlockOp>()

  constructor(store: BlockStore, keys: FamilyKeys) {
    this.#store = store
    this.#keys = keys
  }

  acquireOp(): BlockOp {
    return this.#store.acquireOp()
  }

  releaseOp(op: BlockOp): void {
    op.keySlot = 0
    this.#store.releaseOp(op)
  }

  submit(op: BlockOp): void {
    if (op.kind === OpKind.Read || op.kind === OpKind.Write) {
      op.keySlot = this.#keys.slotOf(op.familyHigh, op.familyLow)
      if (op.keySlot === 0) {
        this.#refuse(op)
        return
      }
      if (op.kind === OpKind.Read && this.#keys.mayLack(op.familyHigh, op.familyLow)) {
        op.onOpened = op.onDone
        op.onDone = this.#done
        if (!this.#again.has(op)) op.flags |= OpFlag.StaleKeys
      }
    }
    this.#store.submit(op)
  }

  readNow(op: BlockOp, into: Buffer, start: number): number {
    op.keySlot = this.#keys.slotOf(op.familyHigh, op.familyLow)
    return op.keySlot === 0 ? -1 : this.#store.readNow(op, into, start)
  }

  ring(isLast?: boolean): void {
    this.#store.ring(isLast)
  }

  flush(done: (error: number) => void): void {
    this.#store.flush(done)
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    this.#store.broadcast(op, done)
  }

  readonly #done = (op: BlockOp): void => {
    op.onDone = op.onOpened
    op.flags &= ~OpFlag.StaleKeys
    const isLacking = op.error === ErrorCode.Locked
    if (isLacking && !this.#again.has(op)) {
      this.#again.add(op)
      void this.#readAgain(op)
      return
    }
    this.#again.delete(op)
    // All keys that there are do not open it.
    if (isLacking) op.error = ErrorCode.SealBroken
    op.onDone(op)
  }

  async #readAgain(op: BlockOp): Promise<void> {
    await this.#keys.fetch(op.familyHigh, op.familyLow)
    this.submit(op)
    this.ring()
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
