import { z } from 'zod'

const count = z.number().int().nonnegative()

/** How a peer is, as it tells others that show the cluster. */
export const peerReportSchema = z.object({
  usedBytes: z.number().nonnegative(),
  resync: z.object({
    groupsDone: count,
    groupsLeft: count,
    bytesCopied: count,
    bytesLeft: count,
    bytesPerSecond: z.number().nonnegative(),
    secondsLeft: z.number().nonnegative().nullable(),
    secondsPerGroup: z.number().nonnegative().nullable()
  }),
  /** Copies of groups that others have instead. A peer of before does not tell. */
  reclaim: z
    .object({ groupsLeft: count, groupsDone: count, bytesGivenBack: count })
    .default({ groupsLeft: 0, groupsDone: 0, bytesGivenBack: 0 }),
  /** Copies here compared with those of other members, and repaired from them. */
  scrub: z
    .object({
      ...{ groups: count, groupsLeft: count, groupsCompared: count },
      ...{ differences: count, repaired: count, mended: count, damaged: count }
    })
    .optional(),
  /** Of the elected one; null on the others. */
  controller: z
    .object({
      /** Why it does nothing; '' when it does what is to do. */
      paused: z.string(),
      /** Why groups of a pool have fewer members than they should. */
      shortages: z.array(z.object({ pool: z.string(), text: z.string() })),
      /** Copies that each peer is to get, and that were not begun. */
      addsLeft: z.array(z.object({ peer: z.string(), groups: count }))
    })
    .nullable()
})
export type PeerReport = z.infer<typeof peerReportSchema>
