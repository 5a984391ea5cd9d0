/** Of which groups a peer drops the copy that it has, and who must have it before it does. */
import { type GroupRecords, isFresh, isWhole, type KnownGroup } from '../cluster/groups.ts'
import type { GroupRecord } from '../cluster/records.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Member, Members, PoolShape } from './member.ts'

export interface ReclaimRule {
  /** What is here of the group is to go, now or later. */
  concerns(record: GroupRecord): boolean
  /** It may go, under this record. */
  allows(pool: number, record: GroupRecord): boolean
  /** Who is to flush first. `failures`: how often that failed. @throws StoreError Unavailable */
  witnesses(known: KnownGroup, failures: number): Member[]
  /** Groups that change within this time are looked at together. */
  readonly gatherMs: number
  /** What follows when nothing is here any more; null: nothing. @throws StoreError */
  readonly finish: ((shape: PoolShape, group: number, known: KnownGroup) => Promise<void>) | null
  /** For the log. */
  readonly done: string
}

interface Parts {
  readonly self: { readonly peerId: string }
  readonly members: Members
  readonly isPresentBoot: (peerId: string, bootId: string) => boolean
}

const GIVE_BACK_GATHER_MS = 500
/** Somebody waits for it. */
const GIVE_UP_GATHER_MS = 20

/** R27: the group does without this peer, and all that it wants have everything. */
export function giveBackRule(parts: Parts, copiesOf: (pool: number) => number): ReclaimRule {
  const { peerId } = parts.self
  const concerns = (record: GroupRecord): boolean => !namesPeer(record, peerId)
  return {
    concerns,
    allows: (pool, record) =>
      concerns(record) && record.members.length >= Math.max(1, copiesOf(pool)) && isWhole(record),
    witnesses: ({ record }) =>
      record.members.map((peer) => {
        const member = memberOf(parts, record, peer)
        if (member !== null) return member
        throw new StoreError(ErrorCode.Unavailable, `member ${peer} cannot be reached`)
      }),
    gatherMs: GIVE_BACK_GATHER_MS,
    finish: null,
    done: 'copies that are wanted elsewhere were given back'
  }
}

/** R34: the group takes this peer in anew, and does not know what it may have. */
export function giveUpRule(parts: Parts, groups: Pick<GroupRecords, 'change'>): ReclaimRule {
  const { peerId } = parts.self
  const concerns = (record: GroupRecord): boolean => isFresh(record, peerId)
  return {
    concerns,
    allows: (_, record) => concerns(record) && record.restored === undefined,
    witnesses: ({ record }, failures) => {
      const there = record.inSync.flatMap(({ peer }) => memberOf(parts, record, peer) ?? [])
      const member = there[failures % Math.max(1, there.length)]
      if (member !== undefined) return [member]
      throw new StoreError(ErrorCode.Unavailable, 'no member in sync can be reached')
    },
    gatherMs: GIVE_UP_GATHER_MS,
    finish: async ({ pool }, group, known) => {
      const change = { ...known.record, emptied: peerId }
      if ((await groups.change(pool, group, known, change)) !== null) return
      throw new StoreError(ErrorCode.Conflict, `group ${pool}/${group} changed meanwhile`)
    },
    done: 'old copies of groups that take this peer in anew were given up'
  }
}

const namesPeer = ({ members, inSync, syncing }: GroupRecord, peerId: string): boolean =>
  members.includes(peerId) || [...inSync, ...syncing].some(({ peer }) => peer === peerId)

/** The link to a member in sync; null where it cannot be reached. */
function memberOf(
  { members, isPresentBoot }: Parts,
  { inSync }: GroupRecord,
  peer: string
): Member | null {
  const boot = inSync.find((entry) => entry.peer === peer)!.boot
  const member = members.find(peer)
  if (member === null) return null
  return member.bootId === boot || isPresentBoot(peer, boot) ? member : null
}
