/** What the admin API says of groups that wait for an operator's word. */
import { z } from 'zod'

const waitingGroupSchema = z.object({
  pool: z.string(),
  group: z.number(),
  why: z.string(),
  /** Peers that are up and have a copy, best first. */
  candidates: z.array(z.string()),
  /** Peers that are down and may settle it without a loss. */
  awaited: z.array(z.string())
})

export const waitingGroupsSchema = z
  .object({
    groups: z.array(waitingGroupSchema),
    /** After a restore: groups that have no record cannot be made before these were heard. */
    pendingPeers: z.array(z.string())
  })
  .meta({ id: 'WaitingGroups' })
export type WaitingGroups = z.infer<typeof waitingGroupsSchema>

export const acceptLossSchema = z
  .strictObject({
    /** `POOL/N`; all that wait where it is left out. */
    group: z
      .string()
      .regex(/^[^/]+\/\d{1,5}$/, 'must be POOL/N')
      .optional(),
    /** Whose copy is to count; the best where it is left out. */
    peer: z
      .string()
      .regex(/^[0-9a-f]{1,32}$/, 'must be hex digits')
      .optional()
  })
  .meta({ id: 'AcceptLoss' })
export type AcceptLoss = z.infer<typeof acceptLossSchema>
