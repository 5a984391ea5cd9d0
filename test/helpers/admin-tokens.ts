/** Tokens, and what they are tried on: volumes `mine` and `other`. */
import { equal } from 'node:assert/strict'
import type { CreatedToken, TokenCreate } from '../../src/admin/audit-schemas.ts'
import { type AdminFixture, http, startFixture } from './admin.ts'
import { ManualClock } from './manual-clock.ts'

export interface TwoVolumes {
  fixture: AdminFixture
  clock: ManualClock
}

export async function withTwoVolumes(context: TwoVolumes): Promise<void> {
  context.clock = new ManualClock()
  context.fixture = await startFixture({ clock: context.clock, timers: context.clock })
  const given = { sizeBytes: 4096, type: 'block', description: '' }
  for (const name of ['mine', 'other']) {
    await context.fixture.backend.createVolume({ name, ...given })
  }
}

export async function createToken(
  { socket }: AdminFixture,
  token: Partial<TokenCreate>
): Promise<CreatedToken> {
  const answer = await http(`unix:${socket}:/v1/tokens`, { method: 'POST', body: token })
  equal(answer.status, 201, answer.text)
  return answer.json
}

export const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
