/**
 * Flags, environment, config file and defaults meet here and nowhere else, in that order of
 * precedence. The result is complete, checked and frozen, and knows where each value came from.
 */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { isMap, LineCounter, parseDocument } from 'yaml'
import { completeConfig } from './config-rules.ts'
import { type Source, sourceText } from './config-source.ts'
import { editDistance } from './edit-distance.ts'
import { ErrorCode, StoreError } from './errors.ts'
import { ARENA_BYTES_DEFAULT, ETCD_WAIT_MS_DEFAULT } from './limits.ts'
import { environmentNameOf, optionInfo, optionKeys } from './option-info.ts'
import { type Config, type OptionKey, optionsSchema, type UnlockSource } from './options.ts'
import { systemReason } from './system-reason.ts'

const DAY_MS = 24 * 3600 * 1000

/** Without `dataDir`, which has no default: a store must never appear where nobody asked. */
const defaults: Omit<Config, 'dataDir'> = {
  capacityBytes: null, // what the filesystem has, less a margin
  shards: null, // what the data directory was made with; for a new one, by the number of cores
  segmentBytes: null, // likewise; 16 to 128 MiB for a new one, by capacity
  arenaBytes: ARENA_BYTES_DEFAULT,
  volumes: [],
  nbdListen: { host: '127.0.0.1', port: 10_809 }, // IANA: nbd. Loopback: nobody logs in yet
  nbdSocket: null,
  nbdSocketMode: 0o600, // whoever may open it may have every volume
  nbdTls: 'off', // certificates cannot be guessed
  nbdTlsCert: null,
  nbdTlsKey: null,
  nbdTlsCa: null,
  nbdTlsPskFile: null,
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
  scheduling: 'normal', // with batch single requests wait longer beside other programs
  shutdownMs: 30_000, // systemd kills after 90 s; a checkpoint of a full index takes a few
  plugins: [],
  logLevel: 'info',
  logFormat: 'auto',
  logLines: 2000 // about 500 KB, and hours of a quiet peer
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
      `config file ${path} cannot be read: ${systemReason(error)}`,
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
