/** A backup store in a bucket of S3, or of what speaks like it. */
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { AwsV4Signer } from 'aws4fetch'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BackupStore, StoredObject } from './store.ts'

export interface S3Place {
  readonly endpoint: string
  readonly region: string
  readonly bucket: string
  readonly prefix: string
  /** Before the second attempt; for tests. */
  readonly retryMs?: number
  readonly credentials: {
    readonly accessKeyId: string
    readonly secretAccessKey: string
    readonly sessionToken: string | null
  }
}

/** What failed for a while is tried again so often, after 0.2, 0.4, 0.8… s. */
const ATTEMPTS = 5
const RETRY_MS = 200
/** One object is some hundred KiB. */
const TIMEOUT_MS = 60_000

interface Answer {
  readonly status: number
  readonly body: Buffer
}

export class S3Store implements BackupStore {
  readonly name: string
  readonly #place: S3Place

  constructor(place: S3Place) {
    this.#place = place
    this.name = `s3://${place.bucket}/${place.prefix}`
  }

  async *list(prefix: string): AsyncIterable<StoredObject> {
    const own = this.#keyOf('')
    let token: string | undefined
    do {
      const query = new URLSearchParams({ 'list-type': '2', prefix: this.#keyOf(prefix) })
      if (token !== undefined) query.set('continuation-token', token)
      const { status, body } = await this.#ask('GET', '', { query })
      if (status !== 200) throw this.#failure(`list ${prefix}`, status, body)
      const text = body.toString()
      for (const [, each = ''] of text.matchAll(/<Contents>(.*?)<\/Contents>/gs)) {
        const key = textIn(each, 'Key')
        const modifiedMs = Date.parse(textIn(each, 'LastModified'))
        yield { key: key.slice(own.length), bytes: Number(textIn(each, 'Size')), modifiedMs }
      }
      token = textIn(text, 'IsTruncated') === 'true' ? textIn(text, 'NextContinuationToken') : ''
    } while (token !== '')
  }

  async get(key: string): Promise<Buffer | null> {
    const { status, body } = await this.#ask('GET', key)
    if (status === 200) return body
    if (status === 404 && !body.includes('NoSuchBucket')) return null
    throw this.#failure(`read ${key}`, status, body)
  }

  async put(key: string, content: Buffer): Promise<void> {
    const { status, body } = await this.#ask('PUT', key, { content })
    if (status !== 200) throw this.#failure(`write ${key}`, status, body)
  }

  async putIfAbsent(key: string, content: Buffer): Promise<boolean> {
    // Some stores do not know the condition, and put all the same.
    if ((await this.get(key)) !== null) return false
    const headers = { 'if-none-match': '*' }
    const { status, body } = await this.#ask('PUT', key, { content, headers })
    if (status === 200) return true
    if (status === 409 || status === 412) return false
    throw this.#failure(`write ${key}`, status, body)
  }

  async delete(key: string): Promise<void> {
    const { status, body } = await this.#ask('DELETE', key)
    if (status !== 200 && status !== 204 && status !== 404) {
      throw this.#failure(`delete ${key}`, status, body)
    }
  }

  #keyOf(key: string): string {
    const { prefix } = this.#place
    return prefix === '' ? key : `${prefix}/${key}`
  }

  /** Tries again what may pass. @throws StoreError Unavailable */
  async #ask(
    method: string,
    key: string,
    given: { query?: URLSearchParams; content?: Buffer; headers?: Record<string, string> } = {}
  ): Promise<Answer> {
    for (let attempt = 1; ; attempt++) {
      try {
        const answer = await this.#askOnce(method, key, given)
        const mayPass = answer.status >= 500 || answer.status === 429
        if (!mayPass || attempt === ATTEMPTS) return answer
      } catch (cause) {
        if (attempt === ATTEMPTS) {
          const { message, cause: inner } = cause as Error
          const { code, message: reason = message } = (inner ?? {}) as NodeJS.ErrnoException
          const why = code ?? reason
          const text = `backup store ${this.name}: ${this.#place.endpoint} does not answer: ${why}`
          throw new StoreError(ErrorCode.Unavailable, text, { cause })
        }
      }
      await sleep((this.#place.retryMs ?? RETRY_MS) * 2 ** (attempt - 1))
    }
  }

  async #askOnce(
    method: string,
    key: string,
    {
      query,
      content = Buffer.alloc(0),
      headers = {}
    }: { query?: URLSearchParams; content?: Buffer; headers?: Record<string, string> }
  ): Promise<Answer> {
    const { endpoint, bucket, region, credentials } = this.#place
    const { sessionToken, ...keys } = credentials
    const path =
      key === '' ? '' : `/${this.#keyOf(key).split('/').map(encodeURIComponent).join('/')}`
    const search = query === undefined ? '' : `?${query}`
    const signer = new AwsV4Signer({
      ...{ method, region, service: 's3', ...keys },
      ...(sessionToken === null ? {} : { sessionToken }),
      url: `${endpoint.replace(/\/+$/, '')}/${bucket}${path}${search}`,
      headers: {
        ...headers,
        // The store compares what came with it.
        'x-amz-content-sha256': createHash('sha256').update(content).digest('hex')
      }
    })
    const signed = await signer.sign()
    const answer = await fetch(signed.url, {
      method,
      headers: signed.headers,
      ...(method === 'PUT' ? { body: new Uint8Array(content) } : {}),
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_MS)
    })
    return { status: answer.status, body: Buffer.from(await answer.arrayBuffer()) }
  }

  #failure(what: string, status: number, body: Buffer): StoreError {
    const text = body.toString()
    const said = textIn(text, 'Message') || textIn(text, 'Code') || `HTTP status ${status}`
    const code = status === 401 || status === 403 ? ErrorCode.Forbidden : ErrorCode.Unavailable
    return new StoreError(code, `backup store ${this.name}: cannot ${what}: ${said}`)
  }
}

/** What stands between the tags of that name; '' without. */
function textIn(xml: string, tag: string): string {
  const [, text = ''] = new RegExp(`<${tag}>(.*?)</${tag}>`, 's').exec(xml) ?? []
  return text.replaceAll(/&(lt|gt|quot|apos|amp|#\d+);/g, (_, name: string) => {
    if (name.startsWith('#')) return String.fromCodePoint(Number(name.slice(1)))
    return entities[name]!
  })
}

const entities: Readonly<Record<string, string>> = {
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
  amp: '&'
}
