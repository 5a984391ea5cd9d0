/** Tokens and the audit log in the admin API. */
import { z } from 'zod'
import type { Tokens } from '../cluster/tokens.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { AuditLog } from './audit-log.ts'
import * as schemas from './audit-schemas.ts'
import type { AdminBackend } from './backend.ts'
import { type Route, route } from './route.ts'
import { volumeNameSchema } from './schemas.ts'

export interface SecurityParts {
  readonly backend: Pick<AdminBackend, 'volume'>
  readonly tokens: Tokens
  readonly audit: AuditLog
}

/** More at once would be a long answer for nobody. */
const ENTRIES_MAX = 10_000

const byId = z.strictObject({
  id: z.string().regex(/^[0-9a-f]{16}$/, { error: 'must be 16 hex digits' })
})

const auditQuerySchema = z.strictObject({
  last: z.coerce.number().int().min(1).max(ENTRIES_MAX).default(100),
  after: z.coerce.number().int().min(0).default(0),
  volume: volumeNameSchema.optional()
})

export const securityRoutesOf = ({ backend, tokens, audit }: SecurityParts): Route[] => [
  route({
    method: 'GET',
    path: '/v1/tokens',
    operationId: 'listTokens',
    summary: 'All tokens of the cluster, without what they are',
    role: 'admin',
    answer: schemas.tokenListSchema,
    handle: async () => ({ tokens: tokens.list() })
  }),
  route({
    method: 'POST',
    path: '/v1/tokens',
    operationId: 'createToken',
    summary: 'Make a token; from the first one on, who has none stays out',
    role: 'admin',
    tell: (body, answer) => ({ id: answer?.id, ...body }),
    body: schemas.tokenCreateSchema,
    answer: schemas.createdTokenSchema,
    status: 201,
    handle: async ({ body }) => {
      // A misspelt name would be a token for whoever makes that volume later.
      if (body.volume !== null) await backend.volume(body.volume)
      const { token, text } = await tokens.create(body)
      return { ...token, token: text }
    }
  }),
  route({
    method: 'DELETE',
    path: '/v1/tokens/{id}',
    operationId: 'revokeToken',
    summary: 'Revoke a token: it is refused on every peer from now on',
    role: 'admin',
    params: byId,
    status: 204,
    handle: async ({ params, visitor }) => {
      if (visitor.who.id === params.id) {
        const text = 'this is the token that asks: revoke it with another one, or at the socket'
        throw new StoreError(ErrorCode.InvalidArgument, text)
      }
      await tokens.revoke(params.id)
      return null
    }
  }),
  route({
    method: 'GET',
    path: '/v1/audit',
    operationId: 'listAudit',
    summary: 'The newest entries of the audit log of this peer, oldest first',
    role: 'admin',
    query: auditQuerySchema,
    answer: schemas.auditListSchema,
    handle: async ({ query: { last, after, volume = null } }) => ({
      entries: await audit.read({ last, after, volume })
    })
  })
]
