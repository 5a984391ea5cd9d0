/**
 * A ring as it stands in the metadata. The same description gives the same placement in every
 * version of the program, whatever order its peers are listed in; a kind that would place
 * differently gets another name.
 */
import { z } from 'zod'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { GROUP_MEMBERS_MAX, RING_PEERS_MAX } from '../core/limits.ts'
import { failureDomains } from '../core/failure-domains.ts'
import { isGroupCount } from './groups.ts'

const peerSchema = z.looseObject({
  /** Short enough for ketama's points. Peer ids are 32 hex digits. */
  id: z.string().regex(/^[\w.-]{1,40}$/),
  /** In proportion to the capacity, any unit. 0 drains: the peer gets nothing and loses all. */
  weight: z
    .number()
    .min(0)
    .max(2 ** 53),
  labels: z.record(z.string(), z.string())
})
export type RingPeer = z.infer<typeof peerSchema>

const leafSchema = z
  .looseObject({
    v: z.literal(1),
    kind: z.string().regex(/^(?!union$)[a-z][a-z0-9-]{0,30}$/),
    peers: z.array(peerSchema).max(RING_PEERS_MAX),
    /** A group's list ends after so many peers. */
    replicas: z.number().int().min(1).max(GROUP_MEMBERS_MAX).optional(),
    failureDomain: z.enum(failureDomains),
    groups: z.number().refine(isGroupCount, 'a power of two up to 65536'),
    /** Pools with other seeds place the same group elsewhere. */
    seed: z.number().int().min(0).max(0xffffffff)
  })
  .refine(({ peers }) => new Set(peers.map(({ id }) => id)).size === peers.length, {
    message: 'a peer is listed twice'
  })
export type LeafRing = z.infer<typeof leafSchema>

const unionSchema = z
  .looseObject({
    v: z.literal(1),
    kind: z.literal('union'),
    rings: z.tuple([leafSchema, leafSchema])
  })
  .refine(({ rings: [from, to] }) => from.groups === to.groups, {
    message: 'both rings of a union have as many groups'
  })
  .refine(({ rings }) => rings.every(({ replicas }) => replicas !== undefined), {
    message: 'rings of a union tell their replicas'
  })
/** Both rings of a transition. */
export type UnionRing = z.infer<typeof unionSchema>

export type RingDescription = LeafRing | UnionRing

/** A description from outside. @throws StoreError UnknownVersion, InvalidArgument */
export function parseRing(value: unknown): RingDescription {
  const found = typeof value === 'object' && value !== null ? (value as { v?: unknown }).v : null
  if (typeof found === 'number' && found > 1) {
    const text = `ring description of version ${found}, this program knows 1`
    throw new StoreError(ErrorCode.UnknownVersion, text)
  }
  const isUnion = (value as { kind?: unknown } | null)?.kind === 'union'
  const result = (isUnion ? unionSchema : leafSchema).safeParse(value)
  if (result.success) return result.data
  const text = `not a ring description: ${z.prettifyError(result.error)}`
  throw new StoreError(ErrorCode.InvalidArgument, text, { cause: result.error })
}
