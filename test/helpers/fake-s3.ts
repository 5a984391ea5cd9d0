/**
 * As much of S3 as backups use, on loopback: signatures are computed anew from the specification
 * (AWS Signature Version 4) and compared, and so are the checksums of what is put.
 */
import { createHash, createHmac } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface FakeS3 {
  readonly endpoint: string
  readonly objects: Map<string, Buffer>
  /** Requests that are answered with this before anything else. */
  readonly failures: number[]
  /** Answers some requests itself: true. */
  intercept: (method: string, key: string) => number | null
  readonly requests: string[]
  close(): Promise<void>
}

const KEY_ID = 'AKIDEXAMPLE'
const SECRET = 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY'
export const s3Credentials = { accessKeyId: KEY_ID, secretAccessKey: SECRET, sessionToken: null }
const BUCKET = 'bucket'
/** A list is told in pieces of so many. */
const PAGE_KEYS = 3

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

export async function startFakeS3(): Promise<FakeS3> {
  const objects = new Map<string, Buffer>()
  const failures: number[] = []
  const requests: string[] = []
  const server: Server = createServer((request, response) => {
    const pieces: Buffer[] = []
    request.on('data', (piece: Buffer) => pieces.push(piece))
    request.on('end', () => answer(request, response, Buffer.concat(pieces)))
  })
  const answer = (request: IncomingMessage, response: ServerResponse, body: Buffer): void => {
    const url = new URL(request.url ?? '', 'http://x')
    const [, bucket, ...rest] = decodeURIComponent(url.pathname).split('/')
    const key = rest.join('/')
    const { method = '' } = request
    requests.push(`${method} ${key}`)
    const failure = failures.shift() ?? fake.intercept(method, key)
    const end = (status: number, text: string | Buffer = '') => response.writeHead(status).end(text)
    const error = (status: number, code: string) =>
      end(status, `<Error><Code>${code}</Code><Message>it is ${code} &amp; so on</Message></Error>`)
    if (failure !== null) error(failure, 'SlowDown')
    else if (!isSigned(request, body)) error(403, 'SignatureDoesNotMatch')
    else if (bucket !== BUCKET) error(404, 'NoSuchBucket')
    else if (method === 'GET' && key === '') end(200, listOf(objects, url.searchParams))
    else if (method === 'GET') {
      const found = objects.get(key)
      if (found === undefined) error(404, 'NoSuchKey')
      else end(200, found)
    } else if (method === 'PUT') {
      if (request.headers['if-none-match'] === '*' && objects.has(key)) {
        error(412, 'PreconditionFailed')
        return
      }
      objects.set(key, body)
      end(200)
    } else if (method === 'DELETE') {
      objects.delete(key)
      end(204)
    } else error(405, 'MethodNotAllowed')
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const close = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  const fake: FakeS3 = { endpoint, objects, failures, requests, intercept: () => null, close }
  return fake
}

function listOf(objects: Map<string, Buffer>, query: URLSearchParams): string {
  const prefix = query.get('prefix') ?? ''
  const after = query.get('continuation-token') ?? ''
  const keys = [...objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort()
  const told = keys.slice(0, PAGE_KEYS)
  const isCut = keys.length > told.length
  const entries = told.map((key) => {
    const text = key.replaceAll('&', '&amp;')
    const size = objects.get(key)!.length
    const modified = '<LastModified>2026-01-31T12:00:00.000Z</LastModified>'
    return `<Contents><Key>${text}</Key>${modified}<Size>${size}</Size></Contents>`
  })
  const more = isCut ? `<NextContinuationToken>${told.at(-1)}</NextContinuationToken>` : ''
  return (
    `<?xml version="1.0"?><ListBucketResult><IsTruncated>${isCut}</IsTruncated>${more}` +
    `${entries.join('')}</ListBucketResult>`
  )
}
