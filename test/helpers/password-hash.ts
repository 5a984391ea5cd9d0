import { hkdfSync } from 'node:crypto'
import type { PasswordHash } from '../../src/seal/key-slots.ts'

/** As wide as Argon2id and as dependent on its input, without the second that it takes. */
export const fastHash: PasswordHash = {
  argon2id: async (secret, salt, { opsLimit, memoryBytes }) =>
    Buffer.from(hkdfSync('sha256', secret, salt, `${opsLimit} ${memoryBytes}`, 32))
}
