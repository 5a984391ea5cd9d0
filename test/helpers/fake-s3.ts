/**
 * As much of S3 as backups use, on loopback: signatures are computed anew from the specification
 * (AWS Signature Version 4) and compared, and so are the checksums of what is put. It has its own
 * clock, region and session token, and refuses as the documents of S3 say it does.
 */
import { createHash, createHmac } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { AddressInfo } from 'node:net'

/** Answers instead of the usual one: a status with `SlowDown`, or all of it. */
export interface Fault {
  readonly status: number
  readonly code?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  /** The connection ends in the middle of the answer. */
  readonly cut?: boolean
}

export interface FakeS3 {
  readonly endpoint: string
  readonly objects: Map<string, Buffer>
  /** Requests that are answered with this before anything else. */
  readonly failures: (number | Fault)[]
  /** Answers some requests itself: true. */
  intercept: (method: string, key: string) => number | null
  readonly requests: string[]
  /** Null: any. */
  region: string | null
  sessionToken: string | null
  /** Its clock is ahead by this. */
  aheadMs: number
  /** It knows no conditional writes: 501. */
  isOld: boolean
  close(): Promise<void>
}

const KEY_ID = 'AKIDEXAMPLE'
const SECRET = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY'
export const s3Credentials = { accessKeyId: KEY_ID, secretAccessKey: SECRET, sessionToken: null }
const BUCKET = 'bucket'
/** A list is told in pieces of so many. */
const PAGE_KEYS = 3
const SKEW_MS_MAX = 15 * 60_000

const hmac = (key: string | Buffer, text: string): Buffer =>
  createHmac('sha256', key).update(text).digest()
const sha256 = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex')
const escaped = (text: string): string =>
  encodeURIComponent(text).replaceAll(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16)}`)

function isSigned(request: IncomingMessage, body: Buffer): boolean {
  const { headers, method = '' } = request
  const scheme = 'AWS4-HMAC-SHA256 Credential=([^/]+)/(\\d{8})/([^/]+)/s3/aws4_request'
  const pattern = new RegExp(`^${scheme}, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$`)
  const found = pattern.exec(headers.authorization ?? '')
  if (found === null) return false
  const [, id, day = '', region = '', signedHeaders = '', signature] = found
  const url = new URL(request.url ?? '', 'http://x')
  const query = [...url.searchParams].map(([name, value]) => `${escaped(name)}=${escaped(value)}`)
  const names = signedHeaders.split(';')
  const bodyHash = String(headers['x-amz-content-sha256'])
  const canonical = [
    method,
    url.pathname,
    query.sort().join('&'),
    ...names.map((name) => `${name}:${String(headers[name]).trim()}`),
    '',
    signedHeaders,
    bodyHash
  ].join('\n')
  const time = String(headers['x-amz-date'])
  const scope = `${day}/${region}/s3/aws4_request`
  const text = ['AWS4-HMAC-SHA256', time, scope, sha256(canonical)].join('\n')
  const key = hmac(hmac(hmac(hmac(`AWS4${SECRET}`, day), region), 's3'), 'aws4_request')
  const isWhole = bodyHash === sha256(body)
  return (
    id === KEY_ID &&
    isWhole &&
    names.includes('host') &&
    hmac(key, text).toString('hex') === signature
  )
}

/** Of a request: 'AWS4…/20260131/region/…'. */
const regionOf = ({ headers }: IncomingMessage): string =>
  /Credential=[^/]+\/\d+\/([^/]+)\//.exec(headers.authorization ?? '')?.[1] ?? ''

/** Why a signed request is refused: the rest of the error. */
function refusalOf(request: IncomingMessage, fake: FakeS3): [number, string, string] | null {
  const { region, sessionToken, aheadMs } = fake
  const text = String(request.headers['x-amz-date'])
  const at = Date.parse(text.replace(/^(....)(..)(..T..)(..)/, '$1-$2-$3:$4:'))
  const serverTime = new Date(Date.now() + aheadMs).toISOString()
  if (!(Math.abs(Date.parse(serverTime) - at) < SKEW_MS_MAX)) {
    return [403, 'RequestTimeTooSkewed', `<ServerTime>${serverTime}</ServerTime>`]
  }
  if ((request.headers['x-amz-security-token'] ?? null) !== sessionToken) {
    return [400, 'ExpiredToken', '']
  }
  if (region === null || regionOf(request) === region) return null
  return [400, 'AuthorizationHeaderMalformed', `<Region>${region}</Region>`]
}

/** `tls`: key and certificate, PEM. */
export async function startFakeS3(tls?: { key: Buffer; cert: Buffer }): Promise<FakeS3> {
  const objects = new Map<string, Buffer>()
  const modified = new Map<string, number>()
  const failures: (number | Fault)[] = []
  const requests: string[] = []
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    const pieces: Buffer[] = []
    request.on('data', (piece: Buffer) => pieces.push(piece))
    request.on('end', () => answer(request, response, Buffer.concat(pieces)))
  }
  const server: Server =
    tls === undefined ? createServer(listener) : createSecureServer(tls, listener)
  const answer = (request: IncomingMessage, response: ServerResponse, body: Buffer): void => {
    const url = new URL(request.url ?? '', 'http://x')
    const [, bucket, ...rest] = decodeURIComponent(url.pathname).split('/')
    const key = rest.join('/')
    const { method = '' } = request
    requests.push(`${method} ${key}`)
    const end = (status: number, text: string | Buffer = '') => response.writeHead(status).end(text)
    const error = (status: number, code: string, more = '') =>
      end(
        status,
        `<?xml version="1.0"?><Error><Code>${code}</Code>` +
          `<Message>it is ${code} &amp; so on</Message>${more}</Error>`
      )
    const failure = failures.shift() ?? fake.intercept(method, key)
    if (typeof failure === 'number') return void error(failure, 'SlowDown')
    if (failure !== null) return void fail(response, failure)
    if (!isSigned(request, body)) return void error(403, 'SignatureDoesNotMatch')
    const refusal = refusalOf(request, fake)
    if (refusal !== null) error(...refusal)
    else if (bucket !== BUCKET) error(404, 'NoSuchBucket')
    else if (method === 'GET' && key === '') end(200, listOf(fake, modified, url.searchParams))
    else if (method === 'GET') {
      const found = objects.get(key)
      if (found === undefined) error(404, 'NoSuchKey')
      else end(200, found)
    } else if (method === 'PUT') {
      const isConditional = request.headers['if-none-match'] === '*'
      if (isConditional && fake.isOld) return void error(501, 'NotImplemented')
      if (isConditional && objects.has(key)) return void error(412, 'PreconditionFailed')
      objects.set(key, body)
      modified.set(key, Date.now() + fake.aheadMs)
      end(200)
    } else if (method === 'DELETE') {
      objects.delete(key)
      end(204)
    } else error(405, 'MethodNotAllowed')
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const endpoint = `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}`
  const close = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  const fake: FakeS3 = {
    ...{ endpoint, objects, failures, requests, intercept: () => null, close },
    ...{ region: null, sessionToken: null, aheadMs: 0, isOld: false }
  }
  return fake
}

function fail(response: ServerResponse, { status, code = '', headers, body, cut }: Fault): void {
  const text = body ?? `<Error><Code>${code}</Code><Message>it is ${code}</Message></Error>`
  const length = Buffer.byteLength(text) + (cut === true ? 10 : 0)
  response.writeHead(status, { ...headers, 'content-length': length })
  if (cut === true) response.write(text, () => response.destroy())
  else response.end(text)
}

function listOf(
  { objects }: FakeS3,
  modifiedMs: ReadonlyMap<string, number>,
  query: URLSearchParams
): string {
  const prefix = query.get('prefix') ?? ''
  const after = query.get('continuation-token') ?? ''
  const keys = [...objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort()
  const told = keys.slice(0, PAGE_KEYS)
  const isCut = keys.length > told.length
  const entries = told.map((key) => {
    const text = key.replaceAll('&', '&#x26;')
    const size = objects.get(key)!.length
    const time = new Date(modifiedMs.get(key) ?? 0).toISOString()
    const modified = `<LastModified>${time}</LastModified><ETag>&#34;of-parts-2&#34;</ETag>`
    return `<Contents><Key>${text}</Key>${modified}<Size>${size}</Size></Contents>`
  })
  const more = isCut ? `<NextContinuationToken>${told.at(-1)}</NextContinuationToken>` : ''
  return (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">' +
    `<IsTruncated>${isCut}</IsTruncated>${more}${entries.join('')}</ListBucketResult>`
  )
}
