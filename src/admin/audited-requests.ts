/** Requests in the audit log. */
import type { FastifyRequest } from 'fastify'
import type { Visitor } from './access.ts'
import type { AuditEvent, AuditLog } from './audit-log.ts'
import { type Refusal, STRANGER } from './doors.ts'
import { httpFailureOf } from './errors.ts'
import type { Route } from './route.ts'

/** What becomes known of a request on its way. */
export class Passage {
  visitor: Visitor = STRANGER
  refusal: Refusal | null = null
  /** As the schema of the route left it. */
  body: unknown = null
  answer: unknown = undefined
  failure: string | null = null
  isTold = false
}

const UNIX_SOCKET = 'unix socket'

/**
 * Keeps what is known of each request until it is done. Told then and not with its answer: who
 * hangs up before it must not escape the log.
 */
export class AuditedRequests {
  readonly #audit: AuditLog
  readonly #passages = new WeakMap<FastifyRequest, Passage>()

  constructor(audit: AuditLog) {
    this.#audit = audit
  }

  of(request: FastifyRequest): Passage {
    let passage = this.#passages.get(request)
    if (passage === undefined) {
      passage = new Passage()
      this.#passages.set(request, passage)
    }
    return passage
  }

  failed(request: FastifyRequest, error: unknown): void {
    this.of(request).failure = httpFailureOf(error)?.body.error.code ?? 'Internal'
  }

  async during<T>(request: FastifyRequest, route: Route, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      this.failed(request, error)
      throw error
    } finally {
      this.done(request, route)
    }
  }

  /** It is done, whether or not anybody is there for the answer. `route` is null for none. */
  done(request: FastifyRequest, route: Route | null): void {
    const passage = this.of(request)
    if (passage.isTold) return
    passage.isTold = true
    const { refusal, visitor, failure } = passage
    const isFailedLogin = refusal !== null && refusal.reason !== 'role'
    const isTold = isFailedLogin ? refusal.isNews : route?.audited === true
    if (!isTold) return
    const told = route === null ? {} : toldBy(route, passage)
    const volume = route === null ? null : volumeOf(route, request, told)
    const details: Details = route === null ? {} : detailsOf(request, passage, told)
    // It stands in the entry itself.
    const { name: _, ...others } = details
    const shown = volume === null ? details : others
    const event: AuditEvent = {
      who: visitor.who,
      address: request.socket.remoteAddress ?? UNIX_SOCKET,
      action: route?.operationId ?? `${request.method} of no path`,
      ...(volume === null ? {} : { volume }),
      ...(Object.keys(shown).length === 0 ? {} : { details: { ...shown } }),
      outcome: refusal?.body.error.code ?? failure ?? 'ok'
    }
    this.#audit.record(event)
  }
}

/** Names are cut: who is refused wrote them. */
const SHOWN_MAX = 256

const isOfVolumes = ({ path }: Route): boolean => path.startsWith('/v1/volumes')

function volumeOf(route: Route, request: FastifyRequest, told: Details): string | null {
  if (!isOfVolumes(route)) {
    // Of one in the trash, or that is being imported, its name is known by the answer.
    const isOfOne = /^\/v1\/(trash|imports)\b/.test(route.path)
    return isOfOne && typeof told['name'] === 'string' ? told['name'] : null
  }
  const { name: inPath } = (request.params ?? {}) as { name?: unknown }
  const { name: inBody } = (request.body ?? {}) as { name?: unknown }
  const name = inPath ?? inBody
  return typeof name === 'string' ? name.slice(0, SHOWN_MAX) : null
}

type Details = Readonly<Record<string, unknown>>

/** What was refused, or made no sense, is not looked at any closer. */
function toldBy(route: Route, { refusal, body, answer }: Passage): Details {
  if (refusal !== null || (body === null && route.body !== null)) return {}
  return route.tell(body, answer)
}

function detailsOf(request: FastifyRequest, { refusal }: Passage, told: Details): Details {
  const params = (request.params ?? {}) as Record<string, unknown>
  const query = refusal === null ? ((request.query ?? {}) as Record<string, unknown>) : {}
  return { ...cut(params), ...cut(query), ...told }
}

const cut = (values: Details): Details =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => [
      name.slice(0, SHOWN_MAX),
      typeof value === 'string' ? value.slice(0, SHOWN_MAX) : value
    ])
  )
