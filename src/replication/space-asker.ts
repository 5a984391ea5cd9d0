/** Asks one member in sync of each group what a volume takes there, and adds up. */
import type { Cluster } from '../cluster/cluster.ts'
import type { GroupTable, PoolView } from '../cluster/group-table.ts'
import { formatId64, randomId64 } from '../cluster/ids.ts'
import type { Membership } from '../cluster/membership.ts'
import type { GroupMember } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Member, Members } from './member.ts'
import type { SpaceCounts } from './space-counts.ts'
import { type SpaceQuestion, SpaceSums } from './space-question.ts'

/** How long members that nobody talked to yet are waited for. */
const CONNECT_ATTEMPTS = 20
const CONNECT_MS = 100

/** Of a whole pool. */
export type WholeSpaceQuestion = Omit<SpaceQuestion, 'groups' | 'wanted'>

export interface SpaceAsker {
  /** Of one copy of each block. @throws StoreError Unavailable while a group has nobody to ask */
  ask(pool: string, question: WholeSpaceQuestion): Promise<SpaceSums>
}

/** Everything is here. */
export class LocalSpaceAsker implements SpaceAsker {
  readonly #counts: SpaceCounts
  #next = 0

  constructor(counts: SpaceCounts) {
    this.#counts = counts
  }

  async ask(_pool: string, question: WholeSpaceQuestion): Promise<SpaceSums> {
    const sums = new SpaceSums(question.nodes.length)
    const whole = { ...question, groups: 1, wanted: [0] }
    const name = formatId64(0, ++this.#next)
    for (;;) {
      const { data, more } = await this.#counts.answer(name, whole)
      if (more === true) continue
      sums.addAll(data)
      return sums
    }
  }
}

type AskedPool = Pick<PoolView, 'number' | 'groups'>

export interface MemberSpaceAskerParts {
  readonly cluster: Pick<Cluster, 'self' | 'random'>
  readonly members: Members
  readonly groups: Pick<GroupTable, 'open' | 'get'>
  /** @throws StoreError NotFound */
  readonly pools: { find(name: string): AskedPool }
  /** May an entry of a group's record with this boot id stand for the peer's present boot? */
  readonly membership: Pick<Membership, 'isPresentBoot'>
}

export class MemberSpaceAsker implements SpaceAsker {
  readonly #parts: MemberSpaceAskerParts

  constructor(parts: MemberSpaceAskerParts) {
    this.#parts = parts
  }

  async ask(name: string, question: WholeSpaceQuestion): Promise<SpaceSums> {
    const pool = this.#parts.pools.find(name)
    const sums = new SpaceSums(question.nodes.length)
    const byMember = await this.#shareSoon(pool)
    await Promise.all(
      [...byMember].map(async ([member, wanted]) => {
        sums.addAll(await this.#askMember(member, { ...question, groups: pool.groups, wanted }))
      })
    )
    return sums
  }

  /** Who was not needed yet is being connected. @throws StoreError Unavailable */
  async #shareSoon(pool: AskedPool): Promise<Map<Member, number[]>> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#share(pool)
      } catch (thrown) {
        if (!(thrown instanceof StoreError) || attempt === CONNECT_ATTEMPTS) throw thrown
      }
      await new Promise((resolve) => setTimeout(resolve, CONNECT_MS))
    }
  }

  /** One member in sync of each group, this peer where it is one. @throws StoreError Unavailable */
  async #share(pool: AskedPool): Promise<Map<Member, number[]>> {
    const { groups, cluster } = this.#parts
    await groups.open(pool.number)
    const shares = new Map<Member, number[]>()
    for (let group = 0; group < pool.groups; group++) {
      const known = groups.get(pool.number, group)
      if (known === null) continue // nobody wrote there yet
      const inSync = known.record.inSync
        .map((entry) => this.#find(entry))
        .filter((member) => member !== null)
      const loadOf = (member: Member): number =>
        member.peerId === cluster.self.peerId ? -1 : (shares.get(member)?.length ?? 0)
      const [best] = inSync.sort((one, other) => loadOf(one) - loadOf(other))
      if (best === undefined) {
        const text = `group ${group} of the pool: no member in sync can be asked`
        throw new StoreError(ErrorCode.Unavailable, text)
      }
      const share = shares.get(best)
      if (share === undefined) shares.set(best, [group])
      else share.push(group)
    }
    return shares
  }

  #find({ peer, boot }: GroupMember): Member | null {
    const { members, membership } = this.#parts
    const member = members.find(peer)
    if (member === null) return null
    return member.bootId === boot || membership.isPresentBoot(peer, boot) ? member : null
  }

  async #askMember(member: Member, question: SpaceQuestion): Promise<Buffer> {
    const count = randomId64(this.#parts.cluster.random)
    for (;;) {
      const { data, more } = await member.call({ call: 'space', count, question })
      if (more !== true) return data
    }
  }
}
