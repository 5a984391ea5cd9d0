/**
 * Where backups are kept: named objects, each written whole or not at all. What was put is there
 * for every later `list` and `get` of anybody (S3 and its like have that, and so do disks).
 */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { resolve } from 'node:path'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { DirectoryStore } from './directory-store.ts'
import { S3Profile } from './s3-credentials.ts'
import { S3Store } from './s3-store.ts'
import { systemReason } from '../core/system-reason.ts'

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
  readonly profile?: string | undefined
  /** File with certificates of those to trust. */
  readonly ca?: string | undefined
  readonly addressing?: string | undefined
}

/**
 * A directory, or s3://bucket/prefix with credentials from where the tools of AWS have them.
 * @throws StoreError InvalidArgument, Forbidden
 */
export function openStore(
  place: string,
  options: S3Options,
  env: Readonly<Record<string, string | undefined>>
): BackupStore {
  const [, scheme] = /^([a-z0-9]+):\/\//.exec(place) ?? []
  if (scheme === undefined) return new DirectoryStore(resolve(place.replace(/^~(?=\/)/, homedir())))
  const [, bucket, prefix = ''] = /^s3:\/\/([^/]+)\/?(.*?)\/*$/.exec(place) ?? []
  if (bucket === undefined)
    throw invalid(`"${place}" is neither a directory nor like s3://bucket/prefix`)
  const profile = new S3Profile(env, options.profile)
  const region = profile.setting('region', 'AWS_REGION', 'AWS_DEFAULT_REGION')
  const variables = ['AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL']
  const endpoint = options.endpoint ?? (profile.setting('endpoint_url', ...variables) || null)
  if (
    endpoint !== null &&
    !/^https?:$/.test(URL.canParse(endpoint) ? new URL(endpoint).protocol : '')
  ) {
    throw invalid(`S3 endpoint "${endpoint}" is not like https://HOST:PORT`)
  }
  const { addressing = null } = options
  if (addressing !== null && addressing !== 'path' && addressing !== 'virtual') {
    throw invalid(`--s3-addressing "${addressing}" must be path or virtual`)
  }
  return new S3Store({
    ...{ endpoint, bucket, prefix, addressing },
    region: options.region ?? (region || 'us-east-1'),
    ca: certificates(options.ca ?? profile.setting('ca_bundle', 'AWS_CA_BUNDLE')),
    credentials: () => profile.credentials()
  })
}

const invalid = (text: string): StoreError => new StoreError(ErrorCode.InvalidArgument, text)

function certificates(path: string): Buffer | null {
  try {
    return path === '' ? null : readFileSync(path)
  } catch (thrown) {
    throw invalid(`--s3-ca ${path} cannot be read: ${systemReason(thrown)}`)
  }
}
