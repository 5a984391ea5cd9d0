import { parseId64 } from '../cluster/ids.ts'
import type { VolumeKeysRecord } from '../cluster/records.ts'
import type { VolumeKeys } from '../cluster/volume-keys.ts'
import { openGeneration } from '../seal/key-slots.ts'
import type { KeyRing } from '../seal/keyring.ts'
import { wipe } from '../seal/secret.ts'

/** The metadata is away: asked again after, and so often. */
const FETCH_RETRY_MS = 1000
const FETCHES_MAX = 30

/** A data key in the KeyRing. */
interface HeldKey {
  /** Whose blocks it is for. */
  readonly family: string
  readonly generation: number
  readonly fromEpoch: number
}

interface Unlocked {
  readonly family: string
  readonly master: Buffer
  /** Other families whose blocks it reads. */
  readonly readsFrom: readonly string[]
  /** In the KeyRing. */
  group: number
  keys: readonly HeldKey[]
  /** Goes on: what others changed about the keys is being fetched. */
  fetching: Promise<void> | null
}

/**
 * Master keys of the volumes that are unlocked, and their data keys, in the KeyRing: for each
 * volume one group, with its own keys and those of the families whose blocks it reads because it
 * was cloned from them. These change while they are rekeyed, by whatever gateway serves them: who
 * meets a block whose key is not there fetches what there is, and reads again.
 */
export class UnlockedKeys {
  readonly #records: VolumeKeys
  readonly #ring: KeyRing
  readonly #unlocked = new Map<string, Unlocked>()
  /** The same by the halves of the family's number, as requests have it. */
  readonly #byNumber = new Map<number, Map<number, Unlocked>>()

  constructor(records: VolumeKeys, ring: KeyRing) {
    this.#records = records
    this.#ring = ring
  }

  has(family: string): boolean {
    return this.#unlocked.has(family)
  }

  /** Secret memory that stays here. undefined: it is locked. */
  masterOf(family: string): Buffer | undefined {
    return this.#unlocked.get(family)?.master
  }

  /** Group of the KeyRing in which all keys of what it reads are. 0: the volume is locked. */
  slotOf(familyHigh: number, familyLow: number): number {
    return this.#find(familyHigh, familyLow)?.group ?? 0
  }

  mayLack(familyHigh: number, familyLow: number): boolean {
    return (this.#find(familyHigh, familyLow)?.readsFrom.length ?? 0) > 0
  }

  /** Once at a time; what comes while one goes on may know more, and waits for another one. */
  async fetch(familyHigh: number, familyLow: number): Promise<void> {
    const held = this.#find(familyHigh, familyLow)
    if (held === undefined) return
    await held.fetching
    held.fetching ??= this.#fetch(held).finally(() => {
      held.fetching = null
    })
    await held.fetching
  }

  /** Takes `master` over. Who unlocked it meanwhile was first. @throws StoreError */
  async hold(record: VolumeKeysRecord, master: Buffer): Promise<void> {
    const { family, readsFrom = [] } = record
    const held: Unlocked = { family, master, readsFrom, group: 0, keys: [], fetching: null }
    try {
      const others = await this.#othersOf(held)
      if (this.has(family)) {
        wipe(master)
        return
      }
      for (const each of [record, ...others]) this.#follow(held, each)
    } catch (thrown) {
      this.#ring.drop(held.group)
      wipe(master)
      throw thrown
    }
    this.#unlocked.set(family, held)
    const { high, low } = parseId64(family)
    const known = this.#byNumber.get(high) ?? new Map<number, Unlocked>()
    this.#byNumber.set(high, known.set(low, held))
  }

  /** Nothing is in flight. */
  drop(family: string): void {
    const held = this.#unlocked.get(family)
    if (held === undefined) return
    this.#unlocked.delete(family)
    const { high, low } = parseId64(family)
    this.#byNumber.get(high)?.delete(low)
    wipe(held.master)
    this.#ring.drop(held.group)
  }

  close(): void {
    for (const family of [...this.#unlocked.keys()]) this.drop(family)
  }

  /** Takes over what others changed. null: it is locked. @throws StoreError */
  async fetchAll(family: string): Promise<VolumeKeysRecord | null> {
    const before = this.#unlocked.get(family)
    if (before === undefined) return null
    const record = await this.#records.get(family)
    const others = await this.#othersOf(before)
    for (const each of [record, ...others]) this.follow(family, each)
    return record
  }

  /** A record of the family, or of one that it reads from, as it is now. */
  follow(family: string, record: VolumeKeysRecord): void {
    const held = this.#unlocked.get(family)
    if (held !== undefined) this.#follow(held, record)
  }

  #find(familyHigh: number, familyLow: number): Unlocked | undefined {
    return this.#byNumber.get(familyHigh)?.get(familyLow)
  }

  /** Keys of what a volume reads from others, which have the same master key. */
  async #othersOf({ readsFrom }: Unlocked): Promise<VolumeKeysRecord[]> {
    const found: VolumeKeysRecord[] = []
    for (const family of readsFrom) {
      const record = await this.#records.find(family)
      // One that was deleted since is read by nobody any more.
      if (record !== null) found.push(record)
    }
    return found
  }

  async #fetch(held: Unlocked): Promise<void> {
    const { family } = held
    for (let tries = 0; tries < FETCHES_MAX && this.#unlocked.get(family) === held; tries++) {
      try {
        await this.fetchAll(family)
        return
      } catch {
        // The metadata is away.
        await new Promise((resolve) => setTimeout(resolve, FETCH_RETRY_MS).unref())
      }
    }
  }

  /**
   * Holds the data keys of the record, and of its own no others: those of other families may still
   * be needed for what is being read of them.
   */
  #follow(held: Unlocked, { family, generations }: VolumeKeysRecord): void {
    const known = held.keys.filter((key) => key.family === family)
    // It was read before another change that is followed already.
    const newest = Math.max(0, ...known.map(({ generation }) => generation))
    if (generations.at(-1)!.generation < newest) return
    const { low } = parseId64(family)
    for (const sealed of generations) {
      const { generation, fromEpoch } = sealed
      if (known.some((key) => key.generation === generation)) continue
      const data = openGeneration(family, sealed, held.master)
      try {
        held.group = this.#ring.hold(data, { group: held.group, family: low, fromEpoch })
        held.keys = [...held.keys, { family, generation, fromEpoch }]
      } finally {
        wipe(data)
      }
    }
    if (family !== held.family) return
    for (const key of known) {
      if (generations.some(({ generation }) => generation === key.generation)) continue
      this.#ring.dropKey(held.group, low, key.fromEpoch)
      held.keys = held.keys.filter((other) => other !== key)
    }
  }
}
