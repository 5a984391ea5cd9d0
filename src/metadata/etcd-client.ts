/**
 * Calls to one of several etcd members. Each endpoint has a client of its own, so that we choose
 * which one is asked and every failure names it; etcd3's own retries and breakers are off.
 *
 * A call asks the endpoint that answered last. When that fails, the next one is asked, within the
 * call's deadline: always for what may be repeated, and for changes as long as it is sure that
 * the failed one did nothing.
 *
 * Before an endpoint is used first, and again after it failed, its status is read: it must be of
 * a version that we know, have a leader, and belong to the cluster that the others are of.
 */
import { Etcd3, type IOptions } from 'etcd3'
import type { Clock } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { failureOf } from './etcd-errors.ts'
import { type EtcdOptions, type EtcdTimes, timesOf } from './etcd-options.ts'

/** Our own timer fires a little later than gRPC's deadline, which has the better words. */
const DEADLINE_SLACK_MS = 250
/** No use in asking for less. */
const ATTEMPT_MS_MIN = 50
const BACKOFF_MS_MIN = 50
const BACKOFF_MS_MAX = 1000
const VERSION_MIN = [3, 4] as const

/** Of gRPC. etcd ends connections that ping more often than every 5 s, or without a call. */
const channelOptions = {
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5000,
  'grpc.keepalive_permit_without_calls': 0,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2000,
  'grpc.max_receive_message_length': -1,
  // A proxy for the web is none for etcd.
  'grpc.enable_http_proxy': 0
}

/** A policy that does nothing, as etcd3 wants one. */
const plainPolicy = {
  onSuccess: () => ({ dispose: () => {} }),
  onFailure: () => ({ dispose: () => {} }),
  execute: async <T>(work: (context: { signal: AbortSignal }) => PromiseLike<T> | T): Promise<T> =>
    work({ signal: new AbortController().signal })
} as unknown as NonNullable<NonNullable<IOptions['faultHandling']>['global']>

export interface CallOptions {
  /** On the wall clock, as gRPC wants it: read and used within one tick. */
  readonly deadline: number
}

interface Header {
  readonly cluster_id: string
  readonly revision: string
}

class Endpoint {
  readonly url: string
  #options: EtcdOptions
  #etcd: Etcd3
  verified = false

  constructor(url: string, options: EtcdOptions) {
    this.url = url
    this.#options = options
    this.#etcd = this.#connect()
  }

  get etcd(): Etcd3 {
    return this.#etcd
  }

  /**
   * etcd forgets tokens of users, when it starts again for instance, and etcd3 notices that only
   * for calls, not for streams: after a failure the next use logs in again.
   */
  doubt(): void {
    this.verified = false
    if (this.#options.auth !== undefined) this.reconnect(this.#options)
  }

  /** For calls to come: others go on over what they have, and streams until they are closed. */
  reconnect(options: EtcdOptions): void {
    this.#options = options
    this.verified = false
    const old = this.#etcd
    this.#etcd = this.#connect()
    // Calls that others have out end by themselves before that.
    setTimeout(() => old.close(), 2 * timesOf(this.#options).callMs).unref()
  }

  close(): void {
    this.#etcd.close()
  }

  #connect(): Etcd3 {
    const { url } = this
    const options = this.#options
    const { tls, auth } = options
    return new Etcd3({
      hosts: url,
      grpcOptions: channelOptions,
      ...(url.startsWith('https:') && tls !== undefined ? { credentials: credentialsOf(tls) } : {}),
      ...(auth === undefined ? {} : { auth: { username: auth.user, password: auth.password } }),
      defaultCallOptions: ({ isStream }) =>
        isStream ? {} : { deadline: Date.now() + timesOf(options).attemptMs },
      faultHandling: { global: plainPolicy, host: () => plainPolicy }
    })
  }
}

function credentialsOf(tls: NonNullable<EtcdOptions['tls']>): NonNullable<IOptions['credentials']> {
  return {
    // etcd3 wants one; undefined means the roots of the system.
    rootCertificate: tls.ca as Buffer,
    ...(tls.key === undefined ? {} : { privateKey: tls.key }),
    ...(tls.cert === undefined ? {} : { certChain: tls.cert })
  }
}

export class EtcdClient {
  readonly times: EtcdTimes
  readonly #endpoints: readonly Endpoint[]
  #options: EtcdOptions
  readonly #clock: Clock
  #current: number
  #closed = false
  #clusterId = ''
  #revision = 0
  /** Set for good when etcd is not the one that it was. */
  #broken: StoreError | null = null

  constructor(options: EtcdOptions) {
    this.times = timesOf(options)
    this.#options = options
    this.#clock = options.clock
    this.#endpoints = options.endpoints.map((url) => new Endpoint(url, options))
    // Peers spread over the members.
    this.#current = options.random.u32() % this.#endpoints.length
  }

  /** Highest revision that any answer carried. */
  get revision(): number {
    return this.#revision
  }

  /** The endpoint that is asked first. */
  get endpoint(): string {
    return this.#endpoints[this.#current]!.url
  }

  /**
   * `work` asks one endpoint; it is called again for others as `repeatable` allows.
   * @throws StoreError; Unavailable when no endpoint answered in time
   */
  async call<T>(
    doing: string,
    repeatable: boolean,
    work: (etcd: Etcd3, options: CallOptions) => Promise<T>
  ): Promise<T> {
    const endMs = this.#clock.monotonicMs() + this.times.callMs
    const failures = new Map<string, StoreError>()
    for (let attempt = 0; ; attempt++) {
      this.checkOpen()
      const leftMs = endMs - this.#clock.monotonicMs()
      if (leftMs < (attempt === 0 ? 0 : ATTEMPT_MS_MIN)) throw this.#allFailed(doing, failures)
      const endpoint = this.#endpoints[this.#current]!
      const attemptMs = Math.min(leftMs, this.times.attemptMs)
      let sent = false
      try {
        if (!endpoint.verified) await this.#verify(endpoint, attemptMs)
        sent = true
        return await within(attemptMs, work(endpoint.etcd, deadlineIn(attemptMs)))
      } catch (thrown) {
        if (this.#closed) throw closed()
        const failure = failureOf(endpoint.url, thrown)
        if (!failure.elsewhere) throw failure.error
        this.moveFrom(endpoint.url)
        // An attempt that had little time left says less than the one before it.
        const hadTime = attemptMs === this.times.attemptMs
        if (hadTime || !failures.has(endpoint.url)) failures.set(endpoint.url, failure.error)
        if (sent && failure.maybeDone && !repeatable) throw unknownOutcome(doing, failure.error)
      }
      if ((attempt + 1) % this.#endpoints.length === 0) await this.#pause(attempt, endMs)
    }
  }

  /** An open stream's endpoint, verified. @throws StoreError */
  async stream<T>(open: (etcd: Etcd3) => Promise<T>): Promise<{ url: string; stream: T }> {
    this.checkOpen()
    const endpoint = this.#endpoints[this.#current]!
    try {
      if (!endpoint.verified) await this.#verify(endpoint, this.times.attemptMs)
      const stream = await within(this.times.attemptMs, open(endpoint.etcd))
      return { url: endpoint.url, stream }
    } catch (thrown) {
      this.moveFrom(endpoint.url)
      throw failureOf(endpoint.url, thrown).error
    }
  }

  /** With other certificates, or another password, from now on. */
  renew(credentials: Pick<EtcdOptions, 'tls' | 'auth'>): void {
    this.#options = { ...this.#options, ...credentials }
    for (const endpoint of this.#endpoints) endpoint.reconnect(this.#options)
  }

  /** The endpoint did not answer as it should: others are asked before it. */
  moveFrom(url: string): void {
    const index = this.#endpoints.findIndex((endpoint) => endpoint.url === url)
    this.#endpoints[index]!.doubt()
    if (this.#current === index) this.#current = (index + 1) % this.#endpoints.length
  }

  /**
   * Takes note of an answer's header. `since` is what `revision` was when a linearizable call
   * began: no answer to it can be older, unless etcd lost what it had.
   * @throws StoreError Corrupt for good
   */
  note(header: Header, since = 0): number {
    const revision = Number(header.revision)
    if (revision < since) {
      this.#broken = new StoreError(
        ErrorCode.Corrupt,
        `etcd went back from revision ${since} to ${revision}: it was wiped, or restored from an ` +
          'older state. Nothing is changed there until this peer is started again; see ' +
          '"torus metadata restore"'
      )
      throw this.#broken
    }
    if (revision > this.#revision) this.#revision = revision
    return revision
  }

  checkOpen(): void {
    if (this.#closed) throw closed()
    if (this.#broken !== null) throw this.#broken
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const endpoint of this.#endpoints) endpoint.close()
  }

  #allFailed(doing: string, failures: ReadonlyMap<string, StoreError>): StoreError {
    const errors = this.#endpoints.flatMap(({ url }) => failures.get(url) ?? [])
    const text = errors.map(({ message }) => message).join('; ') || 'no endpoint answered in time'
    // A wrong certificate stays wrong; anything else may pass.
    const same = errors.length > 0 && errors.every(({ code }) => code === errors[0]!.code)
    const code = same ? errors[0]!.code : ErrorCode.Unavailable
    return new StoreError(code, `${doing}: ${text}`, { cause: errors.at(-1) })
  }

  async #verify(endpoint: Endpoint, timeoutMs: number): Promise<void> {
    const asked = endpoint.etcd.maintenance.status(deadlineIn(timeoutMs))
    const { header, version, leader } = await within(timeoutMs, asked)
    const found = version.split('.').map(Number)
    if ((found[0] ?? 0) * 1000 + (found[1] ?? 0) < VERSION_MIN[0] * 1000 + VERSION_MIN[1]) {
      const text = `etcd ${endpoint.url} is version ${version}; ${VERSION_MIN.join('.')} is needed`
      throw new StoreError(ErrorCode.UnknownVersion, text)
    }
    if (leader === '0') throw new Error('14 UNAVAILABLE: etcdserver: no leader')
    if (this.#clusterId !== '' && this.#clusterId !== header.cluster_id) {
      const text = `etcd ${endpoint.url} is not of the etcd cluster that the others are of`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    this.#clusterId = header.cluster_id
    endpoint.verified = true
  }

  async #pause(attempt: number, endMs: number): Promise<void> {
    const rounds = Math.floor(attempt / this.#endpoints.length)
    const backoffMs = Math.min(BACKOFF_MS_MIN * 2 ** rounds, BACKOFF_MS_MAX)
    const leftMs = Math.max(0, endMs - this.#clock.monotonicMs())
    await new Promise((resolve) => setTimeout(resolve, Math.min(backoffMs, leftMs)))
  }
}

const closed = (): StoreError => new StoreError(ErrorCode.Closed, 'the metadata store is closed')

const deadlineIn = (ms: number): CallOptions => ({ deadline: Date.now() + ms })

/** gRPC has the deadline too; what happens before it has the request is bounded here. */
async function within<T>(ms: number, answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error('4 DEADLINE_EXCEEDED: Deadline exceeded')),
      ms + DEADLINE_SLACK_MS
    )
  })
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}

const unknownOutcome = (doing: string, { message, code }: StoreError): StoreError =>
  new StoreError(code, `${doing}: ${message}; whether it happened is not known`)
