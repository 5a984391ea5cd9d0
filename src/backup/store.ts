/**
 * Where backups are kept: named objects, each written whole or not at all. What was put is there
 * for every later `list` and `get` of anybody (S3 and its like have that, and so do disks).
 */
import { homedir } from 'node:os'
import { resolve } from 'node:path'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { DirectoryStore } from './directory-store.ts'
import { S3Store } from './s3-store.ts'

export interface StoredObject {
  /** With `/` between its parts. */
  readonly key: string
  readonly bytes: number
  /** When it was put, by the store's clock. */
  readonly modifiedMs: number
}

export interface BackupStore {
  /** For people. */
  readonly name: string
  /** Before the first object of a new store. @throws StoreError when it cannot be here */
  prepare?(): Promise<void>
  /** Keys that start so, in any order. */
  list(prefix: string): AsyncIterable<StoredObject>
  /** Null: there is none. */
  get(key: string): Promise<Buffer | null>
  /** Durable when it resolves; takes the place of what is there. */
  put(key: string, bytes: Buffer): Promise<void>
  /** False: there is one already, which stays. */
  putIfAbsent(key: string, bytes: Buffer): Promise<boolean>
  /** Also of what is not there. */
  delete(key: string): Promise<void>
}

export interface S3Options {
  readonly endpoint?: string | undefined
  readonly region?: string | undefined
}

/**
 * A directory, or s3://bucket/prefix with credentials from the usual variables of AWS.
 * @throws StoreError InvalidArgument
 */
export function openStore(
  place: string,
  { endpoint, region }: S3Options,
  env: Readonly<Record<string, string | undefined>>
): BackupStore {
  const [, scheme] = /^([a-z0-9]+):\/\//.exec(place) ?? []
  if (scheme === undefined) return new DirectoryStore(resolve(place.replace(/^~(?=\/)/, homedir())))
  const [, bucket, prefix = ''] = /^s3:\/\/([^/]+)\/?(.*?)\/*$/.exec(place) ?? []
  if (bucket === undefined) {
    const text = `"${place}" is neither a directory nor like s3://bucket/prefix`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  const accessKeyId = env['AWS_ACCESS_KEY_ID'] ?? ''
  const secretAccessKey = env['AWS_SECRET_ACCESS_KEY'] ?? ''
  if (accessKeyId === '' || secretAccessKey === '') {
    const text = `${place} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY`
    throw new StoreError(ErrorCode.Forbidden, text)
  }
  const where = region ?? env['AWS_REGION'] ?? env['AWS_DEFAULT_REGION'] ?? 'us-east-1'
  const given = endpoint ?? env['AWS_ENDPOINT_URL_S3'] ?? env['AWS_ENDPOINT_URL']
  const url = given ?? `https://s3.${where}.amazonaws.com`
  if (!URL.canParse(url)) {
    throw new StoreError(ErrorCode.InvalidArgument, `S3 endpoint "${url}" is no URL`)
  }
  const sessionToken = env['AWS_SESSION_TOKEN'] || null
  const credentials = { accessKeyId, secretAccessKey, sessionToken }
  return new S3Store({ endpoint: url, region: where, bucket, prefix, credentials })
}
