/**
 * Blocks of this peer that a scrub or a read found damaged get their bytes back from another member
 * (PROTOCOL.md, R32). Those for which nobody can be asked now are tried again a while later.
 */
import type { GroupRecords } from '../cluster/groups.ts'
import { storeErrorOf } from '../core/errors.ts'
import { MENDS_WAITING_MAX } from '../core/limits.ts'
import { groupOfChunk } from '../placement/hash.ts'
import type { Member, Members, PoolShape } from './member.ts'
import type { ResyncFamilies } from './resync.ts'
import { type ChunkCopier, hexOf } from './resync-copy.ts'
import type { DamagedBlocks, ShardQuestions } from './shard-questions.ts'

export interface MenderParts {
  readonly self: { readonly peerId: string }
  readonly questions: ShardQuestions
  readonly copier: ChunkCopier
  readonly members: Members
  readonly groups: Pick<GroupRecords, 'read'>
  readonly families: Pick<ResyncFamilies, 'list'>
  readonly log: (
    level: 'info' | 'warn' | 'error',
    message: string,
    fields: Record<string, unknown>
  ) => void
}

interface Waiting {
  readonly damage: DamagedBlocks
  readonly tries: number
}

/** Looks; what is damaged still is named again by the next round of the scrub. */
const TRIES_MAX = 20

export class Mender {
  mendedBlocks = 0
  readonly #parts: MenderParts
  #waiting: Waiting[] = []

  constructor(parts: MenderParts) {
    this.#parts = parts
  }

  /** Damaged blocks for which no bytes were found yet. */
  get damagedBlocks(): number {
    return this.#waiting.reduce((sum, { damage }) => sum + damage.blockCount, 0)
  }

  /** One try for all that is known to be damaged. @throws StoreError */
  async look(shapes: readonly PoolShape[]): Promise<void> {
    for (const damage of await this.#parts.questions.takeDamage()) {
      const isKnown = this.#waiting.some((waiting) => isSame(waiting.damage, damage))
      if (isKnown || this.#waiting.length >= MENDS_WAITING_MAX) continue
      this.#waiting.push({ damage, tries: 0 })
    }
    if (this.#waiting.length === 0) return
    const homes = await this.#homes(shapes)
    const left: Waiting[] = []
    for (const { damage, tries } of this.#waiting) {
      const shape = homes.get(hexOf(damage.familyHigh, damage.familyLow))
      // A deleted volume needs nothing.
      if (shape === undefined) continue
      if (await this.#mend(damage, shape, tries)) continue
      if (tries + 1 < TRIES_MAX) left.push({ damage, tries: tries + 1 })
    }
    this.#waiting = left
  }

  /** Where the families are that the metadata names. */
  async #homes(shapes: readonly PoolShape[]): Promise<Map<string, PoolShape>> {
    const homes = new Map<string, PoolShape>()
    for (const shape of shapes) {
      for (const { family } of await this.#parts.families.list(shape.pool)) homes.set(family, shape)
    }
    return homes
  }

  /** Whether there is nothing more to do. */
  async #mend(damage: DamagedBlocks, shape: PoolShape, tries: number): Promise<boolean> {
    const { copier, log } = this.#parts
    const { familyHigh, familyLow, chunk, firstBlock, blockCount } = damage
    const group = groupOfChunk(familyHigh, familyLow, chunk, shape.groups)
    const name = {
      family: hexOf(familyHigh, familyLow),
      layer: hexOf(damage.layerHigh, damage.layerLow),
      ...{ chunk, block: firstBlock, blocks: blockCount }
    }
    let why = 'no other member in sync can be reached'
    try {
      const source = await this.#sourceOf(shape, group)
      if (source !== null) {
        const mended = await copier.mend(source, damage, damage)
        this.mendedBlocks += mended
        if (mended === blockCount) {
          log('info', 'damaged blocks were repaired from another member', name)
          return true
        }
        // A client wrote them meanwhile, or members differ: to compare them finds that.
        why = 'others have them in other versions'
      }
    } catch (thrown) {
      why = storeErrorOf(thrown).message
    }
    if (tries === 0) log('error', 'damaged blocks are not repaired yet', { ...name, why })
    return false
  }

  async #sourceOf({ pool }: PoolShape, group: number) {
    const { groups, members, self } = this.#parts
    const known = await groups.read(pool, group)
    if (known === null) return null
    const { inSync, epoch } = known.record
    const found: Member[] = []
    for (const { peer } of inSync) {
      const member = peer === self.peerId ? null : members.find(peer)
      if (member !== null) found.push(member)
    }
    if (found.length === 0) return null
    const isDeleted = (): Promise<boolean> => Promise.resolve(false)
    // Only what is here already is replaced.
    const isOvertaken = (): boolean => false
    return { members: found, pool, group, groupEpoch: epoch, isDeleted, isOvertaken }
  }
}

const isSame = (one: DamagedBlocks, other: DamagedBlocks): boolean =>
  one.familyHigh === other.familyHigh &&
  one.familyLow === other.familyLow &&
  one.layerHigh === other.layerHigh &&
  one.layerLow === other.layerLow &&
  one.chunk === other.chunk &&
  one.firstBlock === other.firstBlock &&
  one.blockCount === other.blockCount
