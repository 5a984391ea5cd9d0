/**
 * Flags, environment, config file and defaults meet here and nowhere else, in that order of
 * precedence. The result is complete, checked and frozen, and knows where each value came from.
 */
import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { isMap, LineCounter, parseDocument } from 'yaml'
import { isLoopback, isWildcard } from './addresses.ts'
import { editDistance } from './edit-distance.ts'
import { ErrorCode, StoreError } from './errors.ts'
import { ARENA_BYTES_DEFAULT, ETCD_WAIT_MS_DEFAULT } from './limits.ts'
import { environmentNameOf, optionInfo, optionKeys } from './option-info.ts'
import {
  type Address,
  type Config,
  type OptionKey,
  optionsSchema,
  SEGMENT_BYTES_MIN,
  type UnlockSource
} from './options.ts'
import { formatSizeExact } from './units.ts'

const DAY_MS = 24 * 3600 * 1000

/** Without `dataDir`, which has no default: a store must never appear where nobody asked. */
const defaults: Omit<Config, 'dataDir'> = {
  capacityBytes: null, // what the filesystem has, less a margin
  shards: null, // what the data directory was made with; for a new one, by the number of cores
  segmentBytes: null, // likewise; 128 MiB for a new one, less where the capacity is small
  arenaBytes: ARENA_BYTES_DEFAULT,
  volumes: [],
  nbdListen: { host: '127.0.0.1', port: 10_809 }, // IANA: nbd. Loopback: nobody logs in yet
  nbdSocket: null,
  nbdSocketMode: 0o600, // whoever may open it may have every volume
  nbdTls: 'off', // certificates cannot be guessed
  nbdTlsCert: null,
  nbdTlsKey: null,
  nbdTlsCa: null,
  nbdDefaultExport: null,
  adminListen: { host: '127.0.0.1', port: 4321 },
  adminTlsCert: null,
  adminTlsKey: null,
  adminTlsCa: null,
  adminTlsAdmins: [],
  adminSocketMode: 0o600, // whoever may open it may do everything
  adminSocket: null, // D/admin.sock, see `resolveConfig`
  insecure: false,
  etcd: [],
  etcdPrefix: '/torus',
  etcdCa: null,
  etcdCert: null,
  etcdKey: null,
  etcdUser: null,
  etcdPasswordFile: null,
  etcdWaitMs: ETCD_WAIT_MS_DEFAULT,
  peerListen: null, // a machine alone has nobody to talk to
  peerAdvertise: null,
  clusterSecretFile: null,
  peerTlsCa: null,
  peerTlsCert: null,
  peerTlsKey: null,
  scrubPeriodMs: 14 * DAY_MS, // disks are read twice before most monthly jobs would start
  join: false,
  labels: [],
  downAfterMs: 10 * 60_000, // longer than a reboot, shorter than a second failure is likely
  resyncBytes: 200 * 1024 * 1024, // a disk of many does it, and has time for clients
  unlockWith: [],
  shutdownMs: 30_000, // systemd kills after 90 s; a checkpoint of a full index takes a few
  plugins: [],
  logLevel: 'info',
  logFormat: 'auto',
  logLines: 2000 // about 500 KB, and hours of a quiet peer
}

/** Bytes of `sockaddr_un.sun_path` on Linux, less the final zero. */
const SOCKET_PATH_BYTES_MAX = 107

/** Three of them are kept for compaction; with a few more it has a choice of victims. */
const SEGMENTS_PER_SHARD_MIN = 8

export interface Source {
  readonly kind: 'flag' | 'environment' | 'file' | 'default'
  /** The flag, variable or file:line; empty for a default. */
  readonly name: string
}

export interface ResolvedConfig {
  readonly config: Config
  readonly sources: Readonly<Record<OptionKey, Source>>
  /** What the operator should know, though it stops nothing. */
  readonly warnings: readonly string[]
}

export interface ConfigInput {
  /** By option key; undefined means not given. */
  readonly flags: Readonly<Partial<Record<OptionKey, unknown>>>
  readonly env: Readonly<Record<string, string | undefined>>
  /** YAML file; null for none. */
  readonly file: string | null
}

/** `TORUS_` variables that are no options: the CLI reads them. */
const otherVariables = new Set([
  ...['TORUS_ADMIN', 'TORUS_ADMIN_CA', 'TORUS_ADMIN_CERT', 'TORUS_ADMIN_KEY'],
  ...['TORUS_CONFIG', 'TORUS_RUN_DIR', 'TORUS_TOKEN', 'TORUS_TOKEN_FILE']
])

interface Given {
  readonly value: unknown
  readonly source: Source
  /** Where relative paths start. */
  readonly directory: string
}

/** @throws StoreError InvalidArgument that names the option, the value, its source and the limit */
export function resolveConfig(input: ConfigInput): ResolvedConfig {
  const file = input.file === null ? new Map<OptionKey, Given>() : readConfigFile(input.file)
  const values: Partial<Record<OptionKey, unknown>> = {}
  const sources: Partial<Record<OptionKey, Source>> = {}
  for (const key of optionKeys) {
    const given = fromFlag(input, key) ?? fromEnvironment(input, key) ?? file.get(key)
    if (given !== undefined) {
      values[key] = checkValue(key, given)
      sources[key] = given.source
    } else if (key === 'dataDir') {
      throw invalid(
        `data-dir is not set: pass --data-dir DIR, or set TORUS_DATA_DIR, or data-dir in the ` +
          `config file`
      )
    } else {
      values[key] = defaults[key]
      sources[key] = { kind: 'default', name: '' }
    }
  }
  const warnings = misspeltVariables(input.env)
  const config = completeConfig(values as Config, sources as Record<OptionKey, Source>, warnings)
  return Object.freeze({
    config: Object.freeze(config),
    sources: Object.freeze(sources as Record<OptionKey, Source>),
    warnings
  })
}

const invalid = (message: string): StoreError => new StoreError(ErrorCode.InvalidArgument, message)

function fromFlag(input: ConfigInput, key: OptionKey): Given | undefined {
  const value = input.flags[key]
  if (value === undefined) return undefined
  const source: Source = { kind: 'flag', name: `--${optionInfo[key].name}` }
  return { value, source, directory: process.cwd() }
}

function fromEnvironment(input: ConfigInput, key: OptionKey): Given | undefined {
  const name = environmentNameOf(key)
  const value = input.env[name]
  // An empty variable is how a shell unsets one for a single command.
  if (value === undefined || value === '') return undefined
  return { value, source: { kind: 'environment', name }, directory: process.cwd() }
}

function readConfigFile(path: string): Map<OptionKey, Given> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new StoreError(
      ErrorCode.InvalidArgument,
      `config file ${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`,
      { cause: error }
    )
  }
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines })
  const lineOf = (offset: number | undefined) => `${path}:${lines.linePos(offset ?? 0).line}`
  const firstError = document.errors[0]
  if (firstError !== undefined) {
    const what = firstError.message.split('\n')[0]
    throw invalid(`config file ${lineOf(firstError.pos[0])} is not YAML: ${what}`)
  }
  const given = new Map<OptionKey, Given>()
  if (document.contents === null) return given
  if (!isMap(document.contents)) {
    throw invalid(`config file ${path} must be a mapping, like "data-dir: /var/lib/torus"`)
  }
  for (const pair of document.contents.items) {
    const node = pair.key as { value?: unknown; range?: [number, number, number] | null }
    const name = String(node.value)
    const at = lineOf(node.range?.[0])
    const key = keyNamed(name)
    if (key === undefined) throw invalid(`config file ${at}: unknown option "${name}"${hint(name)}`)
    const value = (pair.value as { toJSON(): unknown } | null)?.toJSON() ?? null
    // `capacity:` without a value means: as if the line were not there.
    if (value === null) continue
    given.set(key, { value, source: { kind: 'file', name: at }, directory: dirname(resolve(path)) })
  }
  return given
}

const keyNamed = (name: string): OptionKey | undefined =>
  optionKeys.find((key) => optionInfo[key].name === name)

function hint(name: string): string {
  const near = nearestOption(name)
  return near === null ? '' : `; did you mean "${optionInfo[near].name}"?`
}

function nearestOption(name: string): OptionKey | null {
  const plain = (word: string) => word.toLowerCase().replaceAll(/[^a-z]/g, '')
  const isNear = (key: OptionKey) => editDistance(plain(optionInfo[key].name), plain(name)) <= 2
  return optionKeys.find(isNear) ?? null
}

function checkValue(key: OptionKey, given: Given): unknown {
  const result = optionsSchema.shape[key].safeParse(given.value)
  if (!result.success) {
    const why = result.error.issues[0]!.message
    const shown = typeof given.value === 'string' ? `"${given.value}"` : JSON.stringify(given.value)
    throw invalid(`${optionInfo[key].name} ${shown}: ${why} (from ${sourceText(given.source)})`)
  }
  const value = result.data
  if (optionInfo[key].path === true && typeof value === 'string') {
    return resolve(given.directory, value)
  }
  if (key === 'plugins') {
    return (value as string[]).map((name) =>
      name.startsWith('.') ? resolve(given.directory, name) : name
    )
  }
  if (key === 'unlockWith') {
    return (value as UnlockSource[]).map((source) =>
      source.kind === 'command'
        ? source
        : { ...source, from: resolve(given.directory, source.from) }
    )
  }
  return value
}

/** Rules between options, and defaults that follow from others. */
function completeConfig(
  values: Config,
  sources: Readonly<Record<OptionKey, Source>>,
  warnings: string[]
): Config {
  for (const key of ['nbdListen', 'adminListen'] as const) {
    const address = values[key]
    if (address === null || isLoopback(address.host) || values.insecure) continue
    if (asksWho(values, key)) continue
    throw invalid(
      `${optionInfo[key].name} ${formatAddress(address)} (from ${sourceText(sources[key])}) ` +
        `can be reached from other machines and nobody has to log in: listen on 127.0.0.1 or a ` +
        `unix socket, use TLS (${
          key === 'nbdListen'
            ? '--nbd-tls require with --nbd-tls-ca'
            : '--admin-tls-cert, with tokens or --admin-tls-ca and --admin-tls-admins'
        }), or accept that with --insecure`
    )
  }
  checkCapacity(values, sources)
  if (values.nbdTls !== 'off' && (values.nbdTlsCert === null || values.nbdTlsKey === null)) {
    throw invalid(`nbd-tls ${values.nbdTls} needs nbd-tls-cert and nbd-tls-key`)
  }
  if (values.nbdTls === 'off' && (values.nbdTlsCert ?? values.nbdTlsKey ?? values.nbdTlsCa)) {
    throw invalid('nbd-tls is off although certificates are given: set it to allow or require')
  }
  requireEtcdRules(values, sources)
  requirePeerRules(values, warnings)
  requireAdminRules(values)
  for (const key of ['nbdSocket', 'adminSocket'] as const) {
    const path = values[key]
    if (path === null || Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) continue
    throw invalid(
      `${optionInfo[key].name} ${path} has ${Buffer.byteLength(path)} bytes, and the path of a ` +
        `unix socket at most ${SOCKET_PATH_BYTES_MAX}`
    )
  }
  if (sources.adminSocket.kind !== 'default') return values
  const adminSocket = join(values.dataDir, 'admin.sock')
  if (Buffer.byteLength(adminSocket) <= SOCKET_PATH_BYTES_MAX) return { ...values, adminSocket }
  warnings.push(
    `no admin socket: ${adminSocket} is longer than ${SOCKET_PATH_BYTES_MAX} bytes; ` +
      `choose a shorter one with --admin-socket`
  )
  return values
}

/** The size of segments may be unknown as yet: then the smallest there is. */
function checkCapacity(values: Config, sources: Readonly<Record<OptionKey, Source>>): void {
  const { capacityBytes, segmentBytes, shards } = values
  if (capacityBytes === null) return
  const each = Math.floor(capacityBytes / (shards ?? 1))
  const segments = Math.floor(each / (segmentBytes ?? SEGMENT_BYTES_MIN))
  if (segments >= SEGMENTS_PER_SHARD_MIN) return
  const size = formatSizeExact(segmentBytes ?? SEGMENT_BYTES_MIN)
  const of = segmentBytes === null ? `the smallest, ${size}` : `segment-size ${size}`
  throw invalid(
    `capacity ${formatSizeExact(capacityBytes)} (from ${sourceText(sources.capacityBytes)}) ` +
      `gives a shard ${segments} segments of ${of}; it needs ${SEGMENTS_PER_SHARD_MIN}` +
      `${shards === null ? '' : `, and there are ${shards} shards`}`
  )
}

function requireEtcdRules(values: Config, sources: Readonly<Record<OptionKey, Source>>): void {
  const { etcd, etcdCa, etcdCert, etcdKey, etcdUser, etcdPasswordFile } = values
  const files = ['etcdCa', 'etcdCert', 'etcdKey', 'etcdUser', 'etcdPasswordFile'] as const
  const given = files.find((key) => values[key] !== null)
  if (etcd.length === 0 && values.join) throw invalid('join means nothing without etcd')
  if (etcd.length === 0 && given !== undefined) {
    const from = sourceText(sources[given])
    throw invalid(`${optionInfo[given].name} (from ${from}) means nothing without etcd`)
  }
  const secure = etcd.some((url) => url.startsWith('https:'))
  if (!secure && (etcdCa ?? etcdCert ?? etcdKey) !== null) {
    throw invalid('etcd certificates are given, but etcd is reached by http: write https://')
  }
  if ((etcdCert === null) !== (etcdKey === null)) {
    throw invalid('etcd-cert and etcd-key are only given together')
  }
  if ((etcdUser === null) !== (etcdPasswordFile === null)) {
    throw invalid('etcd-user and etcd-password-file are only given together')
  }
}

/** Who connects to `peerListen` proves that it is of the cluster: it needs no `insecure`. */
function requirePeerRules(values: Config, warnings: string[]): void {
  const { peerTlsCa, peerTlsCert, peerTlsKey, peerListen, peerAdvertise } = values
  if (peerListen === null && peerAdvertise !== null) {
    throw invalid('peer-advertise means nothing without peer-listen')
  }
  if (peerListen !== null && peerAdvertise === null && isWildcard(peerListen.host)) {
    throw invalid(
      `peer-listen ${formatAddress(peerListen)} is no address that others can connect to: ` +
        'add --peer-advertise HOST:PORT'
    )
  }
  const given = [peerTlsCa, peerTlsCert, peerTlsKey].filter((file) => file !== null).length
  if (given === 1 || given === 2) {
    throw invalid('peer-tls-ca, peer-tls-cert and peer-tls-key are only given together')
  }
  if (peerListen === null || isLoopback(peerListen.host) || given > 0) return
  warnings.push(
    `peer-listen ${formatAddress(peerListen)} can be reached from other machines, and with a ` +
      'cluster secret alone what peers send each other is authenticated but not encrypted: use ' +
      'certificates (--peer-tls-ca, -cert, -key; torus tls init) unless the network is trusted'
  )
}

/** Nobody comes in without a certificate of the operator's authority, or a token over TLS. */
const asksWho = (values: Config, key: 'nbdListen' | 'adminListen'): boolean =>
  key === 'nbdListen'
    ? values.nbdTls === 'require' && values.nbdTlsCa !== null
    : values.adminTlsCert !== null

function requireAdminRules(values: Config): void {
  const { adminTlsCert, adminTlsKey, adminTlsCa, adminTlsAdmins, adminListen } = values
  if ((adminTlsCert === null) !== (adminTlsKey === null)) {
    throw invalid('admin-tls-cert and admin-tls-key are only given together')
  }
  if (adminTlsCa !== null && adminTlsCert === null) {
    throw invalid('admin-tls-ca needs admin-tls-cert and admin-tls-key')
  }
  if (adminTlsCa === null && adminTlsAdmins.length > 0) {
    throw invalid('admin-tls-admins needs admin-tls-ca')
  }
  if (adminListen === null && adminTlsCert !== null) {
    throw invalid('admin-tls-cert means nothing without admin-listen')
  }
}

/**
 * A variable that looks like a misspelt option only warns, and others say nothing: Kubernetes makes
 * some up for a service called torus (`TORUS_SERVICE_HOST`), and they must not stop a start.
 */
function misspeltVariables(env: ConfigInput['env']): string[] {
  const known = new Set([...otherVariables, ...optionKeys.map(environmentNameOf)])
  return Object.keys(env)
    .filter((name) => name.startsWith('TORUS_') && !known.has(name))
    .flatMap((name) => {
      const near = nearestOption(name.slice('TORUS_'.length))
      if (near === null) return []
      return [`environment variable ${name} does nothing; did you mean ${environmentNameOf(near)}?`]
    })
}

export const formatAddress = (address: Address): string =>
  address.host.includes(':')
    ? `[${address.host}]:${address.port}`
    : `${address.host}:${address.port}`

/** 'flag --capacity', 'environment TORUS_CAPACITY', 'file torus.yaml:3', 'default'. */
export const sourceText = (source: Source): string =>
  source.kind === 'default' ? 'default' : `${source.kind} ${source.name}`
