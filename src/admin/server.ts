/**
 * The admin HTTP API on TCP and a unix socket. One fastify instance routes for both; each listener
 * is a plain HTTP server, because only TCP has browsers to be guarded against.
 */
import type { IncomingMessage, RequestListener } from 'node:http'
import { Readable } from 'node:stream'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { z } from 'zod'
import type { Tokens } from '../cluster/tokens.ts'
import { AssertionError, assert } from '../core/assert.ts'
import { type Clock, systemClock, type Timers } from '../core/clock.ts'
import { isLoopback } from '../core/addresses.ts'
import type { ConfigEntry } from '../core/config-entries.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import type { Log, LogRing } from '../core/log.ts'
import type { MetricsRegistry } from '../core/metrics.ts'
import type { Address } from '../core/options.ts'
import { version } from '../core/version.ts'
import { mayUse } from './access.ts'
import type { AuditLog } from './audit-log.ts'
import { AuditedRequests, type Passage } from './audited-requests.ts'
import type { AdminBackend } from './backend.ts'
import { debugBundle } from './bundle.ts'
import { type DoorKind, Doors, notAllowed, type Refusal } from './doors.ts'
import { IMPORT_PIECE_BYTES_MAX } from '../core/limits.ts'
import { errorBody, httpFailureOf } from './errors.ts'
import { refusalOf } from './guard.ts'
import { type Listener, listenTcp, listenUnix } from './listener.ts'
import { createRegistry, registerSecurityMetrics } from './metrics.ts'
import { requestCounter } from './request-counter.ts'
import { openApiOf } from './openapi.ts'
import { RawAnswer, type Route, type RouteAnswer } from './route.ts'
import { routesOf } from './routes.ts'
import { Tasks } from './tasks.ts'
import { endWithToken } from './token-end.ts'
import type { AdminTls } from './tls.ts'
import { requireGiven, WithheldError } from './withheld.ts'

/** Requests of the API are names and numbers. */
const BODY_BYTES_MAX = 64 * 1024
/** A client that gave up is not worth waiting for; the work itself goes on. */
const ANSWER_TIMEOUT_MS = 60_000
const BYTES_TYPE = 'application/octet-stream'
/** A message shows a wrong value up to this length. */
const SHOWN_VALUE_MAX = 200

export interface AdminOptions {
  readonly backend: AdminBackend
  readonly tokens: Tokens
  readonly audit: AuditLog
  readonly clock?: Clock
  readonly timers?: Timers
  readonly log: Log
  /** Last lines of the log, for the debug bundle. */
  readonly ring: LogRing
  readonly configEntries: readonly ConfigEntry[]
  /** TCP address; null for none. */
  readonly listen: Address | null
  /** TLS on that address; null for none. */
  readonly tls?: AdminTls | null
  /** Names in certificates of programs that are admins. */
  readonly tlsAdmins?: readonly string[]
  /** Path of the unix socket; null for none. */
  readonly socket: string | null
  /** Who may open it, as chmod takes it; its owner alone if not given. */
  readonly socketMode?: number
  readonly processMetrics?: boolean
  /** Adds metrics of parts that the admin layer does not know. */
  readonly registerMetrics?: (registry: MetricsRegistry) => void
}

/** By which door a request came. */
type DoorOf = WeakMap<IncomingMessage, DoorKind>

export interface AdminServer {
  /** As `--admin` takes them: `http://127.0.0.1:4321`, `unix:/path`. */
  readonly addresses: readonly string[]
  /** Answers what was asked, then closes. */
  stop(): Promise<void>
}

/** @throws StoreError Busy, Unavailable when a listener cannot be had */
export async function startAdmin(options: AdminOptions): Promise<AdminServer> {
  const doorOf: DoorOf = new WeakMap()
  const app = await buildApp(options, doorOf)
  const listeners: Listener[] = []
  const stop = async () => {
    await Promise.all(listeners.map(closed))
    await app.close()
  }
  const through =
    (door: DoorKind): RequestListener =>
    (request, response) => {
      doorOf.set(request, door)
      app.routing(request, response)
    }
  const { socket, listen } = options
  try {
    const { socketMode = 0o600, tls = null } = options
    if (socket !== null) listeners.push(await listenUnix(socket, socketMode, through('socket')))
    if (listen !== null) {
      const route = through(doorKindOf(listen, tls))
      listeners.push(await listenTcp(listen, guarded(listen, route), tls))
    }
  } catch (error) {
    await stop()
    throw error
  }
  const addresses = listeners.map(({ url }) => url)
  options.log.info({ addresses }, 'admin API')
  return { addresses, stop }
}

/** TLS that asks for no certificates changes nothing about who comes in on loopback. */
function doorKindOf({ host }: Address, tls: AdminTls | null): DoorKind {
  const here = isLoopback(host)
  if (tls !== null && (!here || (tls.files.ca ?? null) !== null)) return 'tls'
  return here ? 'loopback' : 'open'
}

const closed = ({ server }: Listener): Promise<void> =>
  new Promise((resolve) => {
    server.close(() => resolve())
    server.closeIdleConnections()
  })

const guarded =
  (listen: Address, next: RequestListener): RequestListener =>
  (request, response) => {
    const refusal = refusalOf(request, listen)
    if (refusal === '') {
      next(request, response)
      return
    }
    const body = errorBody(errorCodeName(ErrorCode.Forbidden), refusal)
    response.writeHead(403, { 'content-type': 'application/json', connection: 'close' })
    response.end(JSON.stringify(body))
  }

/** The API without listeners. */
async function buildApp(options: AdminOptions, doorOf: DoorOf): Promise<FastifyInstance> {
  const { backend, log, tokens, audit } = options
  const app = Fastify({
    logger: false,
    bodyLimit: BODY_BYTES_MAX,
    // Names of volumes may be long, and percent-encoded they are three times as long.
    routerOptions: { maxParamLength: 1024 }
  })
  // Only JSON comes in. Text would let a browser's form through without asking us first.
  app.removeContentTypeParser('text/plain')
  app.addContentTypeParser(
    BYTES_TYPE,
    { parseAs: 'buffer', bodyLimit: IMPORT_PIECE_BYTES_MAX },
    (_request, bytes, done) => done(null, bytes)
  )
  const registry = createRegistry(
    backend,
    { version, nodeVersion: process.version },
    { processMetrics: options.processMetrics ?? true }
  )
  options.registerMetrics?.(registry)
  const countRequest = requestCounter(registry)
  const configEntries = () => options.configEntries
  let openApi: unknown = null
  const routes = routesOf({
    backend,
    registry,
    tokens,
    audit,
    tasks: new Tasks(),
    configEntries,
    debugBundle: () => debugBundle({ backend, registry, ring: options.ring, configEntries }),
    openApi: () => {
      openApi ??= openApiOf(routes, version)
      return openApi
    }
  })
  const audited = new AuditedRequests(audit)
  const refusals: Refusals = { missing: 0, wrong: 0, limited: 0, role: 0 }
  registerSecurityMetrics(registry, options, refusals)
  addAdmission(app, { options, refusals, doorOf, audited })
  for (const route of routes) addRoute(app, route, options, audited)
  app.setErrorHandler((error, request, reply) => {
    audited.failed(request, error)
    audited.done(request, routeOf(request))
    if (error instanceof WithheldError) refusals.role++
    answerError(error, request, reply, log)
  })
  app.setNotFoundHandler((request, reply) => answerUnknown(routes, request, reply))
  app.addHook('onResponse', async (request, reply) => {
    countRequest(request, reply)
    const { method, url } = request
    const fields = { method, url, status: reply.statusCode, ms: Math.round(reply.elapsedTime) }
    if (method === 'GET' || method === 'HEAD') log.debug(fields, 'admin request')
    else log.info(fields, 'admin request')
  })
  await app.ready()
  return app
}

type Refusals = Record<Refusal['reason'], number>

interface AdmissionParts {
  readonly options: AdminOptions
  readonly refusals: Refusals
  readonly doorOf: DoorOf
  readonly audited: AuditedRequests
}

/** Nobody gets further than their rights go, and no body is read before. */
function addAdmission(app: FastifyInstance, parts: AdmissionParts): void {
  const { options, refusals, doorOf, audited } = parts
  const doors = new Doors(options.tokens, options.clock ?? systemClock, options.tlsAdmins)
  const refusalOfRequest = (request: FastifyRequest): Refusal | null => {
    const route = routeOf(request)
    if (route?.role === 'anyone') return null
    const door = doorOf.get(request.raw)
    assert(door !== undefined, 'a request came by a door')
    const admission = doors.admit(request.raw, door)
    if (admission.kind === 'refused') return admission.refusal
    audited.of(request).visitor = admission.visitor
    const { name } = (request.params ?? {}) as { name?: unknown }
    // Who may look around at all is told what does not exist.
    const isAllowed = route === null || mayUse(admission.visitor.rights, route, name)
    return isAllowed ? null : notAllowed
  }
  app.addHook('onRequest', async (request, reply) => {
    const refusal = refusalOfRequest(request)
    if (refusal === null) return
    audited.of(request).refusal = refusal
    audited.done(request, routeOf(request))
    refusals[refusal.reason]++
    if (refusal.status === 401) reply.header('www-authenticate', 'Bearer')
    return reply.code(refusal.status).header('cache-control', 'no-store').send(refusal.body)
  })
}

/** Null where there is none. */
const routeOf = (request: FastifyRequest): Route | null =>
  (request.routeOptions.config as { readonly route?: Route } | undefined)?.route ?? null

function addRoute(
  app: FastifyInstance,
  route: Route,
  { tokens, timers }: AdminOptions,
  audited: AuditedRequests
): void {
  const isValid = (id: string): boolean => tokens.isValid(id)
  app.route({
    method: route.method,
    config: { route },
    url: route.path.replaceAll(/\{(\w+)\}/g, ':$1'),
    onRequest: async ({ headers }) => {
      // Megabytes are received for those alone who may send them.
      if (!route.takesBytes && isOfBytes(headers)) throw wrongBody(route)
    },
    handler: async (request, reply) => {
      const { status, value } = await audited.during(request, route, () =>
        answerOf(request, route, audited.of(request))
      )
      reply.code(status).header('cache-control', 'no-store')
      if (!(value instanceof RawAnswer)) return value === null ? reply.send() : value
      const { fileName, contentType, content } = value
      const { visitor } = audited.of(request)
      if (content instanceof Readable) endWithToken(content, visitor, isValid, timers)
      if (fileName !== '') {
        reply.header('content-disposition', `attachment; filename="${fileName}"`)
      }
      return reply.type(contentType).send(content)
    }
  })
}

async function answerOf(
  request: FastifyRequest,
  route: Route,
  passage: Passage
): Promise<RouteAnswer> {
  const params = checked(route.params, request.params ?? {})
  const query = checked(route.query, request.query ?? {})
  const body = route.body === null ? null : checked(route.body, request.body ?? {})
  passage.body = body
  const { visitor } = passage
  requireGiven(visitor.rights, route.withheld(body))
  const bytes = bytesOf(route, request.body)
  const answer = await inTime(route.handle({ params, query, body, bytes, visitor }))
  passage.answer = answer.value
  return answer
}

/** @throws StoreError InvalidArgument when there are some and should not be, or the other way */
function bytesOf({ takesBytes }: Route, body: unknown): Buffer {
  if (Buffer.isBuffer(body) === takesBytes) return takesBytes ? (body as Buffer) : NO_BYTES
  throw wrongBody({ takesBytes })
}

function wrongBody({ takesBytes }: Pick<Route, 'takesBytes'>): StoreError {
  const wanted = takesBytes ? BYTES_TYPE : 'application/json'
  const text = `the body must be sent with the header "content-type: ${wanted}"`
  return new StoreError(ErrorCode.InvalidArgument, text)
}

const isOfBytes = ({ 'content-type': type = '' }: IncomingMessage['headers']): boolean =>
  type.toLowerCase().startsWith(BYTES_TYPE)

const NO_BYTES = Buffer.alloc(0)

/** @throws StoreError InvalidArgument that names the field and what it must be */
function checked(schema: z.ZodObject, value: unknown): Record<string, unknown> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const texts = result.error.issues.map(({ path, message }) =>
    path.length === 0 ? message : `${path.join('.')}${givenAt(path, value)}: ${message}`
  )
  throw new StoreError(ErrorCode.InvalidArgument, [...new Set(texts)].join('; '))
}

/** What stood there, for the message; nothing for what would not fit into one. */
function givenAt(path: readonly PropertyKey[], value: unknown): string {
  let given = value
  for (const key of path) given = (given as Record<PropertyKey, unknown> | undefined)?.[key]
  if (path.at(-1) === 'secret') return ''
  const text = typeof given === 'object' ? '' : (JSON.stringify(given) ?? '')
  return text === '' || text.length > SHOWN_VALUE_MAX ? '' : ` ${text}`
}

async function inTime<T>(answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const message = `no answer within ${ANSWER_TIMEOUT_MS / 1000} s; it may still happen`
      reject(new StoreError(ErrorCode.Unavailable, message))
    }, ANSWER_TIMEOUT_MS)
  })
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}

function answerError(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Log): void {
  const failure = httpFailureOf(error)
  if (failure !== null) {
    void reply.code(failure.status).send(failure.body)
    return
  }
  log.error({ err: error, url: request.url }, 'admin request failed by a bug')
  void reply.code(500).send(errorBody('Internal', 'a bug in Torus; the log has the details'))
  // STYLE.md, rule 11: going on after a broken assertion may damage data.
  if (error instanceof AssertionError) {
    setImmediate(() => {
      throw error
    })
  }
}

function answerUnknown(
  routes: readonly Route[],
  request: FastifyRequest,
  reply: FastifyReply
): void {
  const path = request.url.split('?')[0]!
  const methods = routes
    .filter((route) => new RegExp(`^${route.path.replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(path))
    .map(({ method }) => method)
  const code = errorCodeName(methods.length > 0 ? ErrorCode.InvalidArgument : ErrorCode.NotFound)
  if (methods.length === 0) {
    void reply.code(404).send(errorBody(code, `no such path: ${path}; see /openapi.json`))
    return
  }
  const allow = methods.join(', ')
  void reply
    .code(405)
    .header('allow', allow)
    .send(errorBody(code, `${path} takes ${allow}, not ${request.method}`))
}
