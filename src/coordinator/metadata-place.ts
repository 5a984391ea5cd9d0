/**
 * Where the metadata of a data directory is. `D/metadata-place` says so when it is not in
 * `D/metadata`: a directory that was served from etcd must never start on an older, embedded
 * state, and one with embedded metadata never on an empty etcd.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { replaceFile } from '../core/directories.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Config } from '../core/options.ts'

const PLACE_FILE = 'metadata-place'
const placeSchema = z.looseObject({
  v: z.literal(1),
  kind: z.literal('etcd'),
  /** As of the last start; they may change. */
  endpoints: z.array(z.string()),
  prefix: z.string(),
  clusterId: z.string()
})
type EtcdPlace = z.infer<typeof placeSchema>

/** null: the metadata is embedded, or the directory is new. @throws StoreError Corrupt */
export function readPlace(dataDir: string): EtcdPlace | null {
  const path = join(dataDir, PLACE_FILE)
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new StoreError(ErrorCode.DiskFailure, `${path} cannot be read`, { cause })
  }
  try {
    return placeSchema.parse(JSON.parse(text))
  } catch (cause) {
    const message = `${path} is damaged, or of a newer Torus: it should tell where the metadata is`
    throw new StoreError(ErrorCode.Corrupt, message, { cause })
  }
}

/** @throws StoreError DiskFailure */
export function writePlace(dataDir: string, place: EtcdPlace): void {
  const path = join(dataDir, PLACE_FILE)
  try {
    replaceFile(path, [Buffer.from(`${JSON.stringify(place, null, 2)}\n`)])
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new StoreError(ErrorCode.DiskFailure, `${path}: ${message}`, { cause })
  }
}

const placeText = ({ endpoints, prefix }: Pick<EtcdPlace, 'endpoints' | 'prefix'>): string =>
  `--etcd ${endpoints.join(',')} --etcd-prefix ${prefix}`

type PlaceOptions = Pick<Config, 'dataDir' | 'etcd' | 'etcdPrefix'>

/**
 * Do the options fit what the directory knows? Returns what it knows.
 * @throws StoreError InvalidArgument with the command to use instead
 */
export function requirePlace(options: PlaceOptions, metadataPath: string): EtcdPlace | null {
  const { dataDir, etcd, etcdPrefix } = options
  const place = readPlace(dataDir)
  if (etcd.length === 0) {
    if (place === null) return null
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `the metadata of ${dataDir} is in etcd: use "torus serve --data-dir ${dataDir} ` +
        `${placeText(place)}"`
    )
  }
  if (place !== null || !existsSync(metadataPath)) return place
  throw new StoreError(
    ErrorCode.InvalidArgument,
    `${dataDir} has its metadata itself: leave --etcd out, or move it with "torus metadata ` +
      `migrate --to etcd --data-dir ${dataDir} ` +
      `${placeText({ endpoints: [...etcd], prefix: etcdPrefix })}"`
  )
}
