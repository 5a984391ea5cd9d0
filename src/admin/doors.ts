/**
 * How somebody is known, by the door through which they came:
 *
 *   unix socket      its owner: the file's mode decides who opens it
 *   loopback TCP     open until the first token exists, then a token; where TLS asks for
 *                    certificates, as other addresses
 *   other addresses  a token, or a client certificate whose name is an admin's (TLS); with
 *                    `--insecure` without TLS as on loopback
 *
 * A token that is shown counts on every door, so that what it may not do is refused there too.
 */
import type { IncomingMessage } from 'node:http'
import { TLSSocket } from 'node:tls'
import type { TokenInfo } from '../cluster/tokens.ts'
import type { Clock } from '../core/clock.ts'
import { isNamed } from '../core/certificate-names.ts'
import { errorCodeName, ErrorCode, StoreError } from '../core/errors.ts'
import { FailedAttempts } from '../core/failed-attempts.ts'
import { ADMIN_RIGHTS, NO_RIGHTS, type Rights, type Visitor } from './access.ts'
import type { Caller } from './audit-schemas.ts'
import { errorBody, type HttpFailure } from './errors.ts'

export type DoorKind = 'socket' | 'loopback' | 'tls' | 'open'

/** Of what is asked about tokens here; src/cluster/tokens.ts has it. */
export interface KnownTokens {
  readonly areRequired: boolean
  verify(text: string): TokenInfo | null
}

export interface Refusal extends HttpFailure {
  /** Value of the label `reason` of the metric. */
  readonly reason: 'missing' | 'wrong' | 'limited' | 'role'
  /** One of many failures of an address is told in the audit log, until it has to wait no more. */
  readonly isNews: boolean
}

export type Admission =
  | { readonly kind: 'visitor'; readonly visitor: Visitor }
  | { readonly kind: 'refused'; readonly refusal: Refusal }

const NOBODY: Caller = { kind: 'nobody' }
/** Who has shown nothing, where nothing is asked for. */
export const STRANGER: Visitor = { who: NOBODY, rights: NO_RIGHTS }

const UNAUTHORIZED = errorBody(
  'Unauthorized',
  'a valid token is needed here: send "Authorization: Bearer …"; the owner of the data directory ' +
    'makes one through its unix socket (torus --admin unix:D/admin.sock token create)'
)
const LIMITED = errorBody(
  errorCodeName(ErrorCode.Busy),
  'too many failed attempts from this address: the next one is taken a little later'
)
const NOT_ALLOWED = errorBody(
  errorCodeName(ErrorCode.Forbidden),
  'who asks may not do that: it needs a token of another role'
)

const BEARER = /^bearer +(\S+) *$/i

export class Doors {
  readonly #tokens: KnownTokens
  readonly #attempts: FailedAttempts
  /** Names in client certificates that are admins. */
  readonly #tlsAdmins: readonly string[]

  constructor(tokens: KnownTokens, clock: Clock, tlsAdmins: readonly string[] = []) {
    this.#tokens = tokens
    this.#attempts = new FailedAttempts(clock)
    this.#tlsAdmins = tlsAdmins
  }

  admit(request: IncomingMessage, door: DoorKind): Admission {
    const { authorization } = request.headers
    if (authorization !== undefined) return this.#byToken(authorization, addressOf(request))
    const known = this.#byDoor(request, door)
    if (known !== null) return { kind: 'visitor', visitor: known }
    return refused('missing', 401, UNAUTHORIZED, this.#failed(`none ${addressOf(request)}`))
  }

  #byDoor({ socket }: IncomingMessage, door: DoorKind): Visitor | null {
    if (door === 'socket') return { who: { kind: 'socket' }, rights: ADMIN_RIGHTS }
    const verified = socket instanceof TLSSocket && socket.authorized
    const name = verified ? this.#tlsAdmins.find((each) => isNamed(socket, each)) : undefined
    if (name !== undefined) {
      return { who: { kind: 'tls', name }, rights: ADMIN_RIGHTS }
    }
    if (door === 'tls' || this.#tokens.areRequired) return null
    return { who: { kind: door }, rights: ADMIN_RIGHTS }
  }

  /**
   * A valid token is taken from an address with failed attempts too: 256 random bits are not
   * guessed, and others behind the same address must not be able to lock its owner out.
   */
  #byToken(header: string, address: string): Admission {
    const token = this.#tokens.verify(BEARER.exec(header)?.[1] ?? '')
    if (token === null) {
      const isNews = this.#failed(address)
      if (isNews) return refused('wrong', 401, UNAUTHORIZED, true)
      return refused('limited', 429, LIMITED, false)
    }
    const { id, label, role, volume, readOnly } = token
    const rights: Rights = { role, volume, readOnly }
    return { kind: 'visitor', visitor: { who: { kind: 'token', id, label }, rights } }
  }

  /** Did the address not have to wait? */
  #failed(address: string): boolean {
    try {
      this.#attempts.check(address, address)
    } catch (thrown) {
      if (thrown instanceof StoreError) return false
      throw thrown
    }
    this.#attempts.failed(address)
    return true
  }
}

const refused = (
  reason: Refusal['reason'],
  status: number,
  body: HttpFailure['body'],
  isNews: boolean
): Admission => ({ kind: 'refused', refusal: { reason, status, body, isNews } })

/** Known, but not for this. Tells nothing of what is there or not. */
export const notAllowed: Refusal = {
  reason: 'role',
  status: 403,
  body: NOT_ALLOWED,
  isNews: true
}

/** Of the failures of one machine; an IPv6 network of 64 bits is one. */
function addressOf({ socket }: IncomingMessage): string {
  const address = (socket.remoteAddress ?? '').replace(/^::ffff:(?=\d+\.)/i, '')
  if (!address.includes(':')) return address
  const [head = '', tail] = address.split('::')
  const groups = head.split(':')
  const missing = 8 - groups.length - (tail === undefined ? 0 : tail.split(':').length)
  if (tail !== undefined) groups.push(...Array<string>(Math.max(0, missing)).fill('0'))
  return groups.slice(0, 4).join(':')
}
