/**
 * A backup store in a bucket of S3, or of what speaks like it. It has to be consistent: what was
 * put or deleted is so for every later get and list, as it is in AWS, MinIO, Ceph, Garage and R2.
 * Objects are put whole (they are small), so that no ETag has to be understood.
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { type S3Answer, S3Client, type S3Place } from './s3-client.ts'
import { eachIn, textIn } from './s3-xml.ts'
import type { BackupStore, StoredObject } from './store.ts'

export class S3Store implements BackupStore {
  readonly name: string
  readonly #place: S3Place
  readonly #client: S3Client

  /** @throws StoreError Forbidden without credentials */
  constructor(place: S3Place) {
    this.#place = place
    this.#client = new S3Client(place)
    this.name = `s3://${place.bucket}/${place.prefix}`
  }

  async *list(prefix: string): AsyncIterable<StoredObject> {
    const own = this.#keyOf('')
    const query: Record<string, string> = { 'list-type': '2', prefix: this.#keyOf(prefix) }
    for (;;) {
      const answer = await this.#client.ask({ method: 'GET', key: '', query })
      if (answer.status !== 200) throw this.#failure(`list ${prefix}`, answer)
      const { objects, next } = this.#listed(answer.body.toString(), query['continuation-token'])
      for (const { key, ...object } of objects) {
        if (key.startsWith(own)) yield { key: key.slice(own.length), ...object }
      }
      if (next === null) return
      query['continuation-token'] = next
    }
  }

  /**
   * One answer to a list. What is not there is not needed, for prune: so nothing that is cut off,
   * or no list at all, passes for one. @throws StoreError Unavailable
   */
  #listed(text: string, token: string | undefined) {
    const objects: StoredObject[] = []
    for (const each of eachIn(text, 'Contents')) {
      const bytes = Number(textIn(each, 'Size') || Number.NaN)
      const modifiedMs = Date.parse(textIn(each, 'LastModified'))
      objects.push({ key: textIn(each, 'Key'), bytes, modifiedMs })
    }
    const isCut = textIn(text, 'IsTruncated')
    const next = isCut === 'true' ? textIn(text, 'NextContinuationToken') : null
    const isWhole = /<ListBucketResult[\s>]/.test(text) && text.includes('</ListBucketResult>')
    const areWhole = objects.every(
      ({ key, bytes, modifiedMs }) => key !== '' && bytes >= 0 && !Number.isNaN(modifiedMs)
    )
    const goesOn = next === null || (next !== '' && next !== token)
    if (isWhole && areWhole && goesOn && ['true', 'false'].includes(isCut)) return { objects, next }
    const why = 'what it answers is no list of objects as version 2 of ListObjects has it'
    throw new StoreError(ErrorCode.Unavailable, `backup store ${this.name}: ${why}`)
  }

  async get(key: string): Promise<Buffer | null> {
    const answer = await this.#client.ask({ method: 'GET', key: this.#keyOf(key) })
    if (answer.status === 200) return answer.body
    if (answer.status === 404 && answer.code !== 'NoSuchBucket') return null
    throw this.#failure(`read ${key}`, answer)
  }

  async put(key: string, content: Buffer): Promise<void> {
    const answer = await this.#client.ask({ method: 'PUT', key: this.#keyOf(key), content })
    if (answer.status >= 300) throw this.#failure(`write ${key}`, answer)
  }

  /** May say false of its own, where the answer to the first attempt was lost. */
  async putIfAbsent(key: string, content: Buffer): Promise<boolean> {
    // Some stores do not know the condition, and put all the same.
    if ((await this.get(key)) !== null) return false
    const request = { method: 'PUT', key: this.#keyOf(key), content } as const
    const answer = await this.#client.ask({ ...request, headers: { 'if-none-match': '*' } })
    if (answer.status < 300) return true
    if (answer.status === 412) return false
    // And some refuse it.
    const isUnknown = answer.status === 501 || answer.code === 'NotImplemented'
    if (!isUnknown) throw this.#failure(`write ${key}`, answer)
    await this.put(key, content)
    return true
  }

  async delete(key: string): Promise<void> {
    const answer = await this.#client.ask({ method: 'DELETE', key: this.#keyOf(key) })
    const isGone = answer.status < 300 || (answer.status === 404 && answer.code !== 'NoSuchBucket')
    if (!isGone) throw this.#failure(`delete ${key}`, answer)
  }

  #keyOf(key: string): string {
    const { prefix } = this.#place
    return prefix === '' ? key : `${prefix}/${key}`
  }

  #failure(what: string, { status, body, code }: S3Answer): StoreError {
    const said = textIn(body.toString(), 'Message') || code || `HTTP status ${status}`
    const at = `${this.#place.bucket} at ${this.#client.origin}`
    const [errorCode, advice] = meaningOf(status, code, at)
    const text = `backup store ${this.name}: cannot ${what}: ${said}`
    return new StoreError(
      errorCode,
      `${text}${code === '' || said === code ? '' : ` (${code})`}${advice}`
    )
  }
}

/** What an error is for us, and what can be done. */
function meaningOf(status: number, code: string, at: string): [ErrorCode, string] {
  switch (code) {
    case 'NoSuchBucket':
      return [ErrorCode.NotFound, `: there is no bucket ${at}`]
    case 'InvalidAccessKeyId':
    case 'SignatureDoesNotMatch':
      return [ErrorCode.Forbidden, ': see the access key and its secret']
    case 'ExpiredToken':
    case 'InvalidToken':
      return [ErrorCode.Forbidden, ': get a new session token']
    case 'RequestTimeTooSkewed':
      return [ErrorCode.Forbidden, ': set the clock of this machine']
    case 'InvalidObjectState':
      return [ErrorCode.Unavailable, ': it is archived, and has to be restored there first']
    case 'QuotaExceeded':
    case 'XMinioStorageFull':
    case 'XMinioAdminBucketQuotaExceeded':
      return [ErrorCode.OutOfSpace, ': the store is full']
    default:
      if (status === 507) return [ErrorCode.OutOfSpace, ': the store is full']
      if (status === 401 || status === 403) return [ErrorCode.Forbidden, '']
      return [ErrorCode.Unavailable, status === 503 ? ', for half a minute now' : '']
  }
}
