/**
 * Requests to one bucket: signed, and tried again as long as that can help. Stores that speak S3
 * differ in what they do under load, in other regions and with other clocks; what is known of that
 * is here, and `S3Store` sees only answers.
 */
import { createHash } from 'node:crypto'
import { Agent as PlainAgent, type IncomingMessage, request as plainRequest } from 'node:http'
import { Agent as SecureAgent, request as secureRequest } from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'
import { AwsV4Signer } from 'aws4fetch'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { S3Credentials } from './s3-credentials.ts'
import { textIn } from './s3-xml.ts'

export interface S3Place {
  /** Null: that of AWS in the region. */
  readonly endpoint: string | null
  readonly region: string
  readonly bucket: string
  readonly prefix: string
  /** The bucket's name stands before the host's, or begins the path; null: as the host needs it. */
  readonly addressing: 'virtual' | 'path' | null
  /** Certificates of those to trust, PEM; null: the system's. */
  readonly ca: Buffer | null
  /** Read again when they are refused: short-lived ones are renewed in their file. */
  readonly credentials: () => S3Credentials
  /** Before the second attempt; for tests. */
  readonly retryMs?: number
}

export interface S3Request {
  readonly method: 'GET' | 'PUT' | 'DELETE'
  /** '': the bucket. */
  readonly key: string
  readonly query?: Readonly<Record<string, string>>
  readonly content?: Buffer
  readonly headers?: Readonly<Record<string, string>>
}

export interface S3Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly body: Buffer
  /** Of an error, as `NoSuchKey`. */
  readonly code: string
}

/** About 25 s altogether: throttling passes in seconds, and so does a connection that was lost. */
const ATTEMPTS = 8
/** Of what never answered before: it may be misspelt. */
const FIRST_ATTEMPTS = 3
const RETRY_MS = 200
const RETRY_MS_MAX = 20_000
/** Without a byte. One object is some hundred KiB. */
const TIMEOUT_MS = 30_000
const CONNECTIONS = 16
const BODY_BYTES_MAX = 64 * 1024 * 1024
/** Times that a request is made anew for another region, clock or key. */
const CHANGES_MAX = 4
const SKEW_MS_MIN = 60_000

const EMPTY = Buffer.alloc(0)

/** Statuses and codes of what may be otherwise a moment later. */
const passingStatuses: readonly number[] = [408, 429, 500, 502, 503, 504]
const passingCodes: readonly string[] = [
  ...['SlowDown', 'RequestTimeout', 'OperationAborted', 'ConditionalRequestConflict'],
  ...['IncompleteBody', 'BadDigest', 'XAmzContentSHA256Mismatch', 'TooManyRequests']
]
const staleKeyCodes: readonly string[] = ['ExpiredToken', 'TokenRefreshRequired', 'InvalidToken']

/** How requests are signed: what the store said of it counts for all that follow. */
interface View {
  readonly credentials: S3Credentials
  /** That of the bucket. */
  readonly region: string
  /** What the store's clock is ahead. */
  readonly skewMs: number
}

export class S3Client {
  readonly #place: S3Place
  readonly #plain: PlainAgent
  readonly #secure: SecureAgent
  #view: View
  #hasAnswered = false

  /** @throws StoreError Forbidden without credentials */
  constructor(place: S3Place) {
    this.#place = place
    this.#view = { credentials: place.credentials(), region: place.region, skewMs: 0 }
    const agent = { keepAlive: true, maxSockets: CONNECTIONS, timeout: TIMEOUT_MS }
    this.#plain = new PlainAgent(agent)
    this.#secure = new SecureAgent(place.ca === null ? agent : { ...agent, ca: place.ca })
  }

  /** The last answer, good or not. @throws StoreError Unavailable when none came */
  async ask(request: S3Request): Promise<S3Answer> {
    let changes = 0
    let redirect: string | null = null
    for (let attempt = 1; ; ) {
      let afterMs = 0
      const asked = this.#view
      try {
        const answer = await this.#askOnce(request, redirect)
        this.#hasAnswered = true
        if (answer.status < 300) return answer
        redirect = this.#redirectOf(answer)
        if (redirect !== null || this.#hasLearnt(asked, answer)) {
          if (++changes > CHANGES_MAX) return answer
          continue
        }
        const mayPass =
          passingStatuses.includes(answer.status) || passingCodes.includes(answer.code)
        if (!mayPass || attempt === ATTEMPTS) return answer
        afterMs = retryAfterMs(answer)
      } catch (cause) {
        if (cause instanceof StoreError) throw cause
        const most = this.#hasAnswered ? ATTEMPTS : FIRST_ATTEMPTS
        if (attempt >= most || isFinal(cause)) throw this.#unreachable(cause)
      }
      const { retryMs = RETRY_MS } = this.#place
      const backOffMs = Math.min(RETRY_MS_MAX, retryMs * 2 ** (attempt - 1))
      // All that were refused together must not come back together.
      await sleep(Math.max(afterMs, backOffMs * (0.5 + Math.random() / 2)))
      attempt++
    }
  }

  /** Where the bucket is, for people. */
  get origin(): string {
    return this.#base().origin
  }

  #base(): URL {
    const { endpoint, bucket, addressing } = this.#place
    const { region } = this.#view
    const isChina = region.startsWith('cn-')
    const own = `https://s3.${region}.amazonaws.com${isChina ? '.cn' : ''}`
    const url = new URL(endpoint ?? own)
    // A certificate for *.s3.… is not one for a name with dots.
    const isVirtual =
      addressing === null ? endpoint === null && !bucket.includes('.') : addressing === 'virtual'
    const path = url.pathname.replace(/\/+$/, '')
    if (isVirtual) url.host = `${bucket}.${url.host}`
    url.pathname = isVirtual ? `${path}/` : `${path}/${bucket}`
    return url
  }

  async #askOnce(
    { method, key, query, content = EMPTY, headers = {} }: S3Request,
    redirect: string | null
  ): Promise<S3Answer> {
    const base = this.#base()
    if (redirect !== null) base.host = redirect
    const path = key.split('/').map(encodeURIComponent).join('/')
    const search = query === undefined ? '' : `?${new URLSearchParams(query)}`
    const { credentials, region, skewMs } = this.#view
    const { sessionToken, ...keys } = credentials
    const at = new Date(Date.now() + skewMs).toISOString()
    const signer = new AwsV4Signer({
      ...{ method, region, service: 's3', ...keys },
      ...(sessionToken === null ? {} : { sessionToken }),
      datetime: at.replaceAll(/[:-]|\.\d{3}/g, ''),
      url: key === '' ? `${base}${search}` : `${`${base}`.replace(/\/$/, '')}/${path}${search}`,
      headers: {
        ...headers,
        // The store compares what came with it.
        'x-amz-content-sha256': createHash('sha256').update(content).digest('hex')
      }
    })
    const signed = await signer.sign()
    const given = { ...Object.fromEntries(signed.headers), 'content-length': `${content.length}` }
    return this.#exchange(signed.url, { method, headers: given }, content)
  }

  #exchange(
    url: URL,
    { method, headers }: { method: string; headers: Record<string, string> },
    content: Buffer
  ): Promise<S3Answer> {
    return new Promise((resolve, reject) => {
      const [request, agent] =
        url.protocol === 'https:'
          ? [secureRequest, this.#secure]
          : [plainRequest, this.#plain as SecureAgent]
      const outgoing = request(url, { method, headers, agent, timeout: TIMEOUT_MS })
      outgoing.on('timeout', () => outgoing.destroy(timedOut()))
      outgoing.on('error', reject)
      outgoing.on('response', (response) => wholeOf(response).then(resolve, reject))
      outgoing.end(content)
    })
  }

  /** Another host of the same store, for this request alone. @throws StoreError Unavailable */
  #redirectOf({ status, headers }: S3Answer): string | null {
    const location = headers['location']
    if (status < 300 || status >= 400 || location === undefined) return null
    const url = URL.canParse(location) ? new URL(location) : null
    // The request, and with it a session token, goes to nobody else.
    const isAws = /\.amazonaws\.com(\.cn)?$/.test(url?.hostname ?? '')
    if (url !== null && isAws && this.#place.endpoint === null) return url.host
    const text = `${this.origin} sends requests on to ${location}`
    throw new StoreError(ErrorCode.Unavailable, `${text}: give that as --s3-endpoint`)
  }

  /** Did it say why it refuses, or did another answer: can the next request do better? */
  #hasLearnt(asked: View, answer: S3Answer): boolean {
    if (asked !== this.#view) return answer.status === 400 || answer.status === 403
    const { status, headers, body, code } = answer
    const text = body.toString()
    const region = headers['x-amz-bucket-region'] ?? textIn(text, 'Region')
    if (region !== '' && region !== asked.region && status <= 400) {
      this.#view = { ...asked, region }
    } else if (code === 'RequestTimeTooSkewed') {
      const serverMs = Date.parse(textIn(text, 'ServerTime') || (headers['date'] ?? ''))
      const skewMs = serverMs - Date.now()
      if (Math.abs(skewMs - asked.skewMs) > SKEW_MS_MIN) this.#view = { ...asked, skewMs }
    } else if (staleKeyCodes.includes(code)) {
      const credentials = this.#place.credentials()
      const isNew = credentials.sessionToken !== asked.credentials.sessionToken
      if (isNew) this.#view = { ...asked, credentials }
    }
    return asked !== this.#view
  }

  #unreachable(cause: unknown): StoreError {
    const { code, message } = cause as NodeJS.ErrnoException
    const isTrust = /CERT|SIGNATURE|ISSUER|SELF_SIGNED|ERR_TLS/.test(code ?? '')
    const advice = isTrust ? '; whom to trust says --s3-ca' : ''
    const text = `${this.origin} does not answer: ${code ?? message}${advice}`
    return new StoreError(ErrorCode.Unavailable, text, { cause })
  }
}

/** It will be no better a moment later. */
const isFinal = (cause: unknown): boolean =>
  /ENOTFOUND|CERT|SIGNATURE|ISSUER|SELF_SIGNED|ERR_TLS|ERR_SSL|ERR_INVALID/.test(
    (cause as NodeJS.ErrnoException).code ?? ''
  )

const timedOut = (): Error => Object.assign(new Error('timed out'), { code: 'ETIMEDOUT' })

function retryAfterMs({ headers }: S3Answer): number {
  const seconds = Number(headers['retry-after'] ?? 0)
  return Number.isFinite(seconds) ? Math.min(RETRY_MS_MAX, Math.max(0, seconds) * 1000) : 0
}

/** @throws when the connection ends before the answer does */
async function wholeOf(response: IncomingMessage): Promise<S3Answer> {
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of response as AsyncIterable<Buffer>) {
    bytes += piece.length
    if (bytes > BODY_BYTES_MAX) throw new Error(`an answer of more than ${BODY_BYTES_MAX} bytes`)
    pieces.push(piece)
  }
  const body = Buffer.concat(pieces)
  const { statusCode: status = 0, headers } = response
  const code = status < 300 ? '' : textIn(body.toString(), 'Code')
  return { status, headers: headers as S3Answer['headers'], body, code }
}
