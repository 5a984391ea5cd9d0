import type { Readable } from 'node:stream'
import { type Timers, systemTimers } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Visitor } from './access.ts'

/** How much longer an answer goes on than the token with which it was asked for. */
const LOOK_MS = 1000

/**
 * An export takes hours: it breaks off when the token of who asked was revoked or expired, and
 * cannot be gone on with. Who came without a token keeps what they were let in for.
 */
export function endWithToken(
  stream: Readable,
  { who }: Visitor,
  isValid: (id: string) => boolean,
  timers: Timers = systemTimers
): void {
  const { id } = who
  if (who.kind !== 'token' || id === undefined) return
  const look = (): void => {
    if (isValid(id)) {
      stop = timers.start(LOOK_MS, look)
      return
    }
    stream.destroy(new StoreError(ErrorCode.Forbidden, 'the token was revoked or is over'))
  }
  let stop = timers.start(LOOK_MS, look)
  stream.once('close', () => stop())
}
