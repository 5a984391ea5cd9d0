import { z } from 'zod'

const count = z.number().int().nonnegative()

/** Copies of a peer compared with those of other members, and repaired from them. */
export const memberScrubSchema = z.object({
  groups: count.meta({ description: 'Those that this peer compares' }),
  groupsLeft: count.meta({ description: 'Whose turn it is' }),
  groupsCompared: count.meta({ description: 'Since the peer started, as all that follows' }),
  differences: count.meta({ description: 'Blocks that members in sync had differently' }),
  repaired: count.meta({ description: 'Of these, blocks that are equal again' }),
  mended: count.meta({ description: 'Damaged blocks of this peer repaired from others' }),
  damaged: count.meta({ description: 'Damaged blocks that wait for somebody who has them' })
})
export type MemberScrub = z.infer<typeof memberScrubSchema>
