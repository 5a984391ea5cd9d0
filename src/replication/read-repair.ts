import { errorCodeName, StoreError } from '../core/errors.ts'
import { READ_REPAIRS_WAITING_MAX } from '../core/limits.ts'
import { type CopyRange, copyBlocks } from './block-copy.ts'
import { isDamage, OpKind } from './block-store.ts'
import type { Boot } from './boots.ts'
import type { FamilyIo } from './family-io.ts'
import { type Pending, Sent } from './pending.ts'
import type { ReplicatedStore } from './replicated-store.ts'

interface Repair {
  readonly family: FamilyIo
  readonly boot: Boot
  readonly range: Omit<CopyRange, 'group' | 'groupEpoch' | 'fenceEpoch'>
}

/**
 * Gives a member its blocks back that failed their checksum there and were read from another one.
 * One at a time: a disk that fails has many of them, and what is not done here the scrub does. Only
 * what the layer itself has: what it is read from below it the member's Mender gets back, which its
 * shard told where (R32).
 */
export class ReadRepairs {
  readonly #store: ReplicatedStore
  readonly #waiting: Repair[] = []
  #isRunning = false

  constructor(store: ReplicatedStore) {
    this.#store = store
  }

  /** `read` was answered well: looks whose blocks were bad. */
  afterRead(read: Pending): void {
    if (read.request.kind !== OpKind.Read) return
    for (const [at, boot] of read.boots.entries()) {
      const isBad = isDamage(read.errors[at]!) && read.sent[at] === Sent.Failed
      if (!isBad || this.#waiting.length >= READ_REPAIRS_WAITING_MAX) continue
      const { request } = read
      const range = {
        familyHigh: request.familyHigh,
        familyLow: request.familyLow,
        layerHigh: request.layerHigh,
        layerLow: request.layerLow,
        chunk: request.chunk,
        firstBlock: request.firstBlock,
        blockCount: request.blockCount,
        pool: request.pool
      }
      this.#waiting.push({ family: read.family!, boot, range })
    }
    if (this.#waiting.length > 0 && !this.#isRunning) this.#start()
  }

  #start(): void {
    this.#isRunning = true
    this.#run()
      .catch((thrown: unknown) => {
        if (!(thrown instanceof StoreError)) throw thrown
        this.#store.trouble('repairing blocks', thrown)
      })
      .finally(() => {
        this.#isRunning = false
      })
  }

  async #run(): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      const { family, boot } = next
      // R43: not the group that was read from, if that was split since.
      const { familyHigh, familyLow, chunk } = next.range
      const group = family.pool.groupOf(familyHigh, familyLow, chunk)
      if (family.isClosed || boot.member === null) continue
      if (!group.isKnown || !group.isInSync(boot)) continue
      const good = group.targets.find(
        (other, at) => other !== boot && at < group.inSyncCount && other.member !== null
      )
      if (good === undefined) continue
      const under = { group: group.index, groupEpoch: group.epoch }
      const range = { ...next.range, ...under, fenceEpoch: family.writerEpoch }
      const failure = await copyBlocks(this.#store.arena, range, good.member!, [boot.member])
      const where = `blocks ${range.firstBlock}+${range.blockCount} of chunk ${range.chunk}`
      const how =
        failure === null
          ? 'what the layer has was copied again'
          : `not repaired: ${errorCodeName(failure.error)}`
      this.#store.trouble(`${where} at ${boot.peerId} failed their checksum: ${how}`, null)
    }
  }
}
