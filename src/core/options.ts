/**
 * What an operator may set: check and limit of every option. Flags, config file and environment
 * are read with these schemas (config.ts); names and help stand in option-info.ts.
 */
import { z } from 'zod'
import { StoreError } from './errors.ts'
import {
  BLOCK_BYTES,
  ETCD_ENDPOINTS_MAX,
  PIECE_BYTES_MAX,
  SHARDS_MAX,
  VOLUME_BYTES_MAX
} from './limits.ts'
import { formatDuration, formatSizeExact, parseDuration, parseSize } from './units.ts'

/** The largest piece of a request has to fit; larger ones make a compaction step long. */
export const SEGMENT_BYTES_MIN = 2 * PIECE_BYTES_MAX
const SEGMENT_BYTES_MAX = 1024 * 1024 * 1024
/** Below this a few large requests leave no pages for anybody else. */
const ARENA_BYTES_MIN = 16 * 1024 * 1024
/** The arena is a WebAssembly memory: pages of 64 KiB, 32-bit addresses. */
const ARENA_BYTES_MAX = 4 * 1024 * 1024 * 1024 - 65_536
/** A peer smaller than this could not hold the reserve for compaction. */
const CAPACITY_BYTES_MIN = 64 * 1024 * 1024
/** Locations of a shard's blocks are 32 bits of 4 KiB. */
const CAPACITY_BYTES_MAX = SHARDS_MAX * 2 ** 32 * BLOCK_BYTES
const SHUTDOWN_MS_MAX = 10 * 60_000
const SCRUB_PERIOD_MS_MIN = 60_000
const ETCD_WAIT_MS_MIN = 1000
const ETCD_WAIT_MS_MAX = 30 * 24 * 3600 * 1000
/** Below the lease it would be no patience at all. */
const DOWN_AFTER_MS_MIN = 15_000
const DOWN_AFTER_MS_MAX = 365 * 24 * 3600 * 1000
/** A second. Slower ones would never end, and of faster ones none is. */
const RESYNC_BYTES_MIN = 64 * 1024
const RESYNC_BYTES_MAX = 2 ** 40
const LOG_LINES_MAX = 100_000

export interface Address {
  readonly host: string
  /** 0 lets the system choose a free one. */
  readonly port: number
}

/** What unlocks an encrypted volume without a person. */
export interface UnlockSource {
  /** Name of a volume, or `*`. */
  readonly volume: string
  readonly kind: 'passphrase-file' | 'key-file' | 'command'
  /** Path of the file, or the command for /bin/sh. */
  readonly from: string
}

export interface InitialVolume {
  readonly name: string
  readonly sizeBytes: number
}

/** A schema from a function that throws StoreError for what it does not take. */
function parsed<T>(parse: (text: string) => T) {
  return z.union([z.string(), z.number(), z.boolean()]).transform((input, context): T => {
    try {
      return parse(String(input))
    } catch (error) {
      if (!(error instanceof StoreError)) throw error
      context.issues.push({ code: 'custom', message: error.message, input })
      return z.NEVER
    }
  })
}

const sizeBetween = (min: number, max: number, multipleOf: number) =>
  parsed(parseSize)
    .refine((bytes) => bytes >= min && bytes <= max, {
      error: `must be ${formatSizeExact(min)} to ${formatSizeExact(max)}`
    })
    .refine((bytes) => bytes % multipleOf === 0, {
      error: `must be a multiple of ${formatSizeExact(multipleOf)}`
    })

const powerOfTwoBetween = (min: number, max: number) =>
  sizeBetween(min, max, 1).refine((bytes) => 2 ** Math.round(Math.log2(bytes)) === bytes, {
    error: 'must be a power of two'
  })

const integerBetween = (min: number, max: number) =>
  z.coerce
    .number({ error: 'must be a number' })
    .refine((value) => Number.isInteger(value) && value >= min && value <= max, {
      error: `must be a whole number from ${min} to ${max}`
    })

const durationBetween = (min: number, max: number, orOff: boolean) =>
  parsed((text) => (orOff && text === 'off' ? 0 : parseDuration(text))).refine(
    (ms) => (orOff && ms === 0) || (ms >= min && ms <= max),
    { error: `must be ${formatDuration(min)} to ${formatDuration(max)}${orOff ? ', or off' : ''}` }
  )

const text = z.string({ error: 'must be text' }).min(1, { error: 'must not be empty' })

const fileOrOff = text.transform((path) => (path === 'off' ? null : path))

const choice = <const T extends readonly string[]>(values: T) =>
  z.enum(values, { error: `must be one of ${values.join(', ')}` })

const flag = z
  .union([z.boolean(), z.enum(['true', 'false', '1', '0', 'yes', 'no'])], {
    error: 'must be true or false'
  })
  .transform((value) => value === true || value === 'true' || value === '1' || value === 'yes')

const ADDRESS = /^(?:(?<host>[^:[\]]+)|\[(?<bracketed>[0-9a-f:.]+)\]):(?<port>\d+)$/i

/** 'HOST:PORT', '[IPV6]:PORT', a port alone (on 127.0.0.1), or 'off'. */
const listenAddress = z
  .union([z.string(), z.number(), z.literal(false)])
  .transform((input, context): Address | null => {
    if (input === 'off' || input === false) return null
    const given = /^\d+$/.test(String(input)) ? `127.0.0.1:${input}` : String(input)
    const groups = ADDRESS.exec(given)?.groups
    const port = Number(groups?.['port'] ?? -1)
    if (groups === undefined || port > 65_535) {
      context.issues.push({
        code: 'custom',
        message: 'must be HOST:PORT with a port from 0 to 65535, or off',
        input
      })
      return z.NEVER
    }
    return { host: (groups['host'] ?? groups['bracketed'])!, port }
  })

/** Octal, as chmod takes it; for a number YAML has read it already. */
const socketMode = z
  .union([z.string(), z.number()])
  .refine((input) => /^0?[0-7]{3}$/.test(String(input)), {
    error: 'must be three octal digits, like 600 or 660'
  })
  .transform((input) => Number.parseInt(String(input), 8))

const initialVolume = z.string().transform((input, context): InitialVolume => {
  const at = input.lastIndexOf('=')
  try {
    const sizeBytes = parseSize(input.slice(at + 1))
    const fits = sizeBytes > 0 && sizeBytes <= VOLUME_BYTES_MAX && sizeBytes % BLOCK_BYTES === 0
    if (at > 0 && fits) return { name: input.slice(0, at), sizeBytes }
  } catch (error) {
    if (!(error instanceof StoreError)) throw error
  }
  context.issues.push({
    code: 'custom',
    message:
      `must be NAME=SIZE with a multiple of ${BLOCK_BYTES} up to ` +
      formatSizeExact(VOLUME_BYTES_MAX),
    input
  })
  return z.NEVER
})

const unlockSource = z.string().transform((input, context): UnlockSource => {
  const found = /^([^=]+)=(passphrase-file|key-file|command):(.+)$/s.exec(input)
  if (found !== null) {
    const [, volume = '', kind = '', from = ''] = found
    return { volume, kind: kind as UnlockSource['kind'], from }
  }
  context.issues.push({
    code: 'custom',
    message: 'must be NAME=passphrase-file:FILE, NAME=key-file:FILE or NAME=command:COMMAND',
    input
  })
  return z.NEVER
})

/** Accepts what a list option gets from any source: an array, or one comma-separated string. */
const listOf = <T extends z.ZodType>(item: T) =>
  z.preprocess(
    (input) => (typeof input === 'string' ? input.split(',').filter(Boolean) : input),
    z.array(item).readonly()
  )

const ETCD_URL = /^https?:\/\/(\[[0-9a-f:.]+\]|[^\s/:[\]]+):\d{1,5}\/?$/i

const etcdUrl = z
  .string({ error: 'must be text' })
  .regex(ETCD_URL, { error: 'must be http://HOST:PORT or https://HOST:PORT' })
  .transform((url) => url.replace(/\/$/, ''))

/** As `listOf`; each part may again be several, with commas between. */
const etcdUrls = z.preprocess(
  (input) =>
    [input].flat().flatMap((part) => (typeof part === 'string' ? part.split(',') : [part])),
  z
    .array(etcdUrl)
    .max(ETCD_ENDPOINTS_MAX, { error: `must be ${ETCD_ENDPOINTS_MAX} at most` })
    .refine((urls) => new Set(urls.map((url) => url.startsWith('https:'))).size <= 1, {
      error: 'must all be http or all be https'
    })
    .readonly()
)

const etcdPrefix = z
  .string({ error: 'must be text' })
  .regex(/^(\/[A-Za-z0-9._-]+)+\/?$/, { error: 'must be like /torus or /storage/torus' })
  .max(128, { error: 'must have 128 characters at most' })
  .transform((prefix) => prefix.replace(/\/$/, ''))

const LABEL = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}=[^,]{1,256}$/

const label = z
  .string({ error: 'must be text' })
  .regex(LABEL, { error: 'must be KEY=VALUE, like rack=r1' })

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

const DAY_MS = 24 * 3600 * 1000

export const optionsSchema = z.strictObject({
  dataDir: text,
  capacityBytes: sizeBetween(CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX, 1).nullable(),
  shards: integerBetween(1, SHARDS_MAX).nullable(),
  segmentBytes: powerOfTwoBetween(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).nullable(),
  arenaBytes: sizeBetween(ARENA_BYTES_MIN, ARENA_BYTES_MAX, 65_536),
  volumes: listOf(initialVolume),
  nbdListen: listenAddress.nullable(),
  nbdSocket: fileOrOff.nullable(),
  nbdSocketMode: socketMode,
  nbdTls: choice(['off', 'allow', 'require']),
  nbdTlsCert: text.nullable(),
  nbdTlsKey: text.nullable(),
  nbdTlsCa: text.nullable(),
  nbdTlsPskFile: text.nullable(),
  nbdDefaultExport: text.nullable(),
  adminListen: listenAddress.nullable(),
  adminTlsCert: text.nullable(),
  adminTlsKey: text.nullable(),
  adminTlsCa: text.nullable(),
  adminTlsAdmins: listOf(text),
  adminSocket: fileOrOff.nullable(),
  adminSocketMode: socketMode,
  insecure: flag,
  etcd: etcdUrls,
  etcdPrefix,
  etcdCa: text.nullable(),
  etcdCert: text.nullable(),
  etcdKey: text.nullable(),
  etcdUser: text.nullable(),
  etcdPasswordFile: text.nullable(),
  etcdWaitMs: durationBetween(ETCD_WAIT_MS_MIN, ETCD_WAIT_MS_MAX, false),
  peerListen: listenAddress.nullable(),
  peerAdvertise: listenAddress
    .refine((address) => address !== null && address.port !== 0, {
      error: 'must be HOST:PORT with the port that others connect to'
    })
    .nullable(),
  clusterSecretFile: text.nullable(),
  peerTlsCa: text.nullable(),
  peerTlsCert: text.nullable(),
  peerTlsKey: text.nullable(),
  scrubPeriodMs: durationBetween(SCRUB_PERIOD_MS_MIN, 365 * DAY_MS, true),
  join: flag,
  labels: listOf(label),
  downAfterMs: durationBetween(DOWN_AFTER_MS_MIN, DOWN_AFTER_MS_MAX, false),
  resyncBytes: sizeBetween(RESYNC_BYTES_MIN, RESYNC_BYTES_MAX, 1),
  unlockWith: listOf(unlockSource),
  scheduling: choice(['batch', 'normal']),
  shutdownMs: durationBetween(100, SHUTDOWN_MS_MAX, false),
  plugins: listOf(text),
  logLevel: choice(logLevels),
  logFormat: choice(['auto', 'json', 'pretty']),
  logLines: integerBetween(0, LOG_LINES_MAX)
})

export type Config = Readonly<z.output<typeof optionsSchema>>
export type OptionKey = keyof Config
