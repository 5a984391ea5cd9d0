/** What the metadata knows about a group's members, as planning needs it. */
export interface GroupMember {
  readonly peer: string
  /**
   * Place in the group, from 0: of an erasure-coded group the fragment that the peer holds. While
   * a member is replaced, the old and the new one have the same slot.
   */
  readonly slot: number
  /** Has every acknowledged write; otherwise it is being brought up to date, or away. */
  readonly inSync: boolean
}

/** Of one group; index in a list of them is the group's number. */
export type GroupState = readonly GroupMember[]

/** A group whose members are all in sync, by slot; null where there is none. */
export const settledGroup = (members: readonly (string | null)[]): GroupState =>
  members.flatMap((peer, slot) => (peer === null ? [] : [{ peer, slot, inSync: true }]))
