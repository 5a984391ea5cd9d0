import { ErrorCode } from '../core/errors.ts'
import type { ShardOp } from '../shard/op.ts'
import { type BlockOp, type BlockStore, OpKind } from './block-store.ts'

/** The data keys of families. */
export interface FamilyKeys {
  /** Slot of the key for blocks of versions with `writerEpoch`, and before; 0: it is locked. */
  slotOf(familyHigh: number, familyLow: number, writerEpoch: number): number
  /** May blocks of the family with the lower half `fromLow` be among what this one reads? */
  readsFrom(familyHigh: number, familyLow: number, fromLow: number): boolean
}

/** No version has a higher one: its key's slot leads to those of all lower ones. */
export const ANY_EPOCH = 2 ** 32 - 1

/**
 * The store of this process's shards as encrypted volumes see it: shards seal what they write and
 * open what they read. What is locked is neither read nor written.
 */
export class SealedStore implements BlockStore {
  readonly #store: BlockStore
  readonly #keys: FamilyKeys
  #refused: BlockOp[] = []

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
      const writerEpoch = op.kind === OpKind.Read ? ANY_EPOCH : op.writerEpoch
      op.keySlot = this.#keys.slotOf(op.familyHigh, op.familyLow, writerEpoch)
      if (op.keySlot === 0) {
        this.#refuse(op)
        return
      }
    }
    this.#store.submit(op)
  }

  readNow(op: BlockOp, into: Buffer, start: number): number {
    op.keySlot = this.#keys.slotOf(op.familyHigh, op.familyLow, ANY_EPOCH)
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

  #refuse(op: BlockOp): void {
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
