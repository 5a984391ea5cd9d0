import { readFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import type { AcceptLoss, WaitingGroups } from '../admin/recovery-schemas.ts'
import { isLoopback } from '../core/addresses.ts'
import { request as secureRequest } from 'node:https'
import type * as cluster from '../admin/cluster-schemas.ts'
import type * as keys from '../admin/key-schemas.ts'
import type * as audit from '../admin/audit-schemas.ts'
import type * as schemas from '../admin/schemas.ts'
import { CommandError, UsageError } from './errors.ts'
import { type Deleted, LifeApi } from './life-api.ts'
import { StreamApi } from './stream-api.ts'
import { programName } from './programs.ts'
import type { GivenToken } from './token.ts'
import { systemReason } from '../core/system-reason.ts'

export const DEFAULT_ADMIN = 'http://127.0.0.1:4321'
/** A little more than the server gives itself, so that its own message arrives. */
const ANSWER_TIMEOUT_MS = 65_000

/** Where a peer's admin API is: a unix socket or an HTTP address. */
export type AdminAddress =
  | { readonly kind: 'tcp'; readonly url: URL }
  | { readonly kind: 'unix'; readonly path: string }

/** 'unix:PATH', 'http://HOST:PORT', 'https://HOST:PORT' or 'HOST:PORT'. @throws UsageError */
export function parseAdmin(text: string): AdminAddress {
  const path = /^unix:(?:\/\/)?(.*)$/.exec(text)?.[1]
  if (path !== undefined && path !== '') return { kind: 'unix', path }
  const given = /^\w+:\/\//.test(text) ? text : `http://${text}`
  const url = URL.canParse(given) ? new URL(given) : null
  const isHttp = /^https?:$/.test(url?.protocol ?? '') && url?.hostname !== ''
  if (url === null || !isHttp || path !== undefined) {
    throw new UsageError(
      `--admin "${text}" must be http://HOST:PORT, https://HOST:PORT or unix:PATH`
    )
  }
  return { kind: 'tcp', url }
}

/** Files for an address with https. */
export interface AdminTlsOptions {
  /** Whom to trust; what the system trusts if not given. */
  readonly adminCa?: string | undefined
  readonly adminCert?: string | undefined
  readonly adminKey?: string | undefined
}

/** Flags first, then TORUS_ADMIN_CA and its like. */
export const adminTlsOptions = (flags: AdminTlsOptions): AdminTlsOptions => ({
  adminCa: flags.adminCa ?? (process.env['TORUS_ADMIN_CA'] || undefined),
  adminCert: flags.adminCert ?? (process.env['TORUS_ADMIN_CERT'] || undefined),
  adminKey: flags.adminKey ?? (process.env['TORUS_ADMIN_KEY'] || undefined)
})

function readPem(option: string, path: string | undefined): Buffer | undefined {
  try {
    return path === undefined ? undefined : readFileSync(path)
  } catch (cause) {
    throw new UsageError(`${option} ${path} cannot be read: ${systemReason(cause)}`)
  }
}

export type Volume = schemas.Volume
export type Client = schemas.Client
export type Status = schemas.Status
export type Peer = schemas.Peer
export type Shard = schemas.Shard
export type VolumeStats = schemas.VolumeStats
export type Task = schemas.Task
export type TaskName = schemas.TaskName
export type ClusterPeer = cluster.ClusterPeer
export type ClusterStatus = cluster.ClusterStatus
export type Pool = cluster.Pool
export type Ring = cluster.Ring
export type Token = audit.Token
export type AuditEntry = audit.AuditEntry
export type ClusterSettings = cluster.ClusterSettings

export interface ConfigEntry {
  readonly name: string
  readonly value?: unknown
  readonly source: string
  readonly description: string
}

/** The admin API as functions. Every failure is a CommandError that says what to do. */
export class ApiClient {
  readonly #admin: AdminAddress
  /** Looked for when the first request is made. */
  readonly #token: () => GivenToken | null
  readonly #tls: AdminTlsOptions
  /** As the user wrote it. */
  readonly address: string
  readonly life: LifeApi = new LifeApi(
    (method, path, body) => this.#send(method, path, body),
    (path) => this.#stream(path)
  )

  readonly streams: StreamApi = new StreamApi((...request) => this.#send(...request))

  constructor(
    address: string,
    token: () => GivenToken | null = () => null,
    tls: AdminTlsOptions = {}
  ) {
    this.address = address
    this.#admin = parseAdmin(address)
    this.#token = token
    this.#tls = tls
  }

  status = (): Promise<Status> => this.#get('/v1/status')
  peer = (): Promise<Peer> => this.#get('/v1/peer')

  async certificates(): Promise<schemas.CertificateInfo[]> {
    const path = '/v1/certificates'
    return (await this.#get<{ certificates: schemas.CertificateInfo[] }>(path)).certificates
  }

  async config(): Promise<ConfigEntry[]> {
    return (await this.#get<{ entries: ConfigEntry[] }>('/v1/config')).entries
  }

  async volumes(): Promise<Volume[]> {
    return (await this.#get<{ volumes: Volume[] }>('/v1/volumes')).volumes
  }

  volume = (name: string): Promise<Volume> => this.#get(volumePath(name))

  createVolume = (volume: {
    name: string
    sizeBytes: number
    type?: string
    description?: string
    pool?: string
    access?: schemas.VolumeCreate['access']
    encrypt?: keys.NewSlotBody
  }): Promise<Volume> => this.#send('POST', '/v1/volumes', volume)

  changeVolume = (name: string, change: schemas.VolumeChange): Promise<Volume> =>
    this.#send('POST', volumePath(name), change)

  renameVolume = (name: string, newName: string): Promise<Volume> =>
    this.#send('POST', `${volumePath(name)}/rename`, { newName })

  resizeVolume = (name: string, request: schemas.VolumeResize): Promise<Volume> =>
    this.#send('POST', `${volumePath(name)}/resize`, request)

  takeVolume = (name: string, takeover: boolean): Promise<Volume> =>
    this.#send('POST', `${volumePath(name)}/take`, { takeover })

  deleteVolume = (name: string, { force, now }: schemas.VolumeDelete): Promise<Deleted> =>
    this.#send('DELETE', `${volumePath(name)}?force=${force}&now=${now}`)

  unlockVolume = (name: string, body: keys.UnlockBody): Promise<keys.KeySlotAnswer> =>
    this.#send('POST', `${volumePath(name)}/unlock`, body)

  lockVolume = (name: string): Promise<void> => this.#send('POST', `${volumePath(name)}/lock`)

  keySlots = (name: string): Promise<keys.KeySlotList> => this.#get(`${volumePath(name)}/keys`)

  addKeySlot = (name: string, body: keys.SlotChangeBody): Promise<keys.KeySlotAnswer> =>
    this.#send('POST', `${volumePath(name)}/keys`, body)

  rotateKeySlot = (name: string, body: keys.SlotChangeBody): Promise<keys.KeySlotAnswer> =>
    this.#send('POST', `${volumePath(name)}/keys/rotate`, body)

  revokeKeySlot = (name: string, slot: number): Promise<void> =>
    this.#send('DELETE', `${volumePath(name)}/keys/${slot}`)

  rekeyVolume = (name: string): Promise<void> => this.#send('POST', `${volumePath(name)}/rekey`)

  backupKey = (name: string, salt: string): Promise<keys.BackupKey> =>
    this.#send('POST', `${volumePath(name)}/keys/backup`, { salt })

  exportKeys = (name: string): Promise<keys.ExportedKeys> =>
    this.#get(`${volumePath(name)}/keys/export`)

  importKeys = (name: string, body: keys.ExportedKeys): Promise<void> =>
    this.#send('POST', `${volumePath(name)}/keys/import`, body)

  async clients(): Promise<Client[]> {
    return (await this.#get<{ clients: Client[] }>('/v1/clients')).clients
  }

  disconnectClient = (id: number): Promise<void> => this.#send('DELETE', `/v1/clients/${id}`)

  task = (task: TaskName): Promise<Task> => this.#get(`/v1/tasks/${task}`)
  startTask = (task: TaskName): Promise<Task> => this.#send('POST', `/v1/tasks/${task}/start`)
  stopTask = (task: TaskName): Promise<Task> => this.#send('POST', `/v1/tasks/${task}/stop`)

  clusterStatus = (): Promise<ClusterStatus> => this.#get('/v1/cluster')

  async peers(): Promise<ClusterPeer[]> {
    return (await this.#get<{ peers: ClusterPeer[] }>('/v1/peers')).peers
  }

  changePeer = (id: string, change: cluster.PeerChange): Promise<ClusterPeer> =>
    this.#send('POST', `/v1/peers/${encodeURIComponent(id)}`, change)

  removePeer = (id: string, force: boolean): Promise<void> =>
    this.#send('DELETE', `/v1/peers/${encodeURIComponent(id)}?force=${force}`)

  addPeer = (id: string): Promise<ClusterPeer> =>
    this.#send('POST', `/v1/peers/${encodeURIComponent(id)}/add`)

  replacePeer = (id: string, by: string): Promise<ClusterPeer> =>
    this.#send('POST', `/v1/peers/${encodeURIComponent(id)}/replace`, { by })

  clusterSettings = (): Promise<ClusterSettings> => this.#get('/v1/cluster/settings')

  changeClusterSettings = (change: Readonly<Record<string, string>>): Promise<ClusterSettings> =>
    this.#send('POST', '/v1/cluster/settings', change)

  finalize = (dryRun: boolean): Promise<cluster.Upgrade> =>
    this.#send('POST', '/v1/cluster/finalize', { dryRun })

  waitingGroups = (): Promise<WaitingGroups> => this.#get('/v1/cluster/waiting')
  acceptLoss = (accepted: AcceptLoss): Promise<WaitingGroups> =>
    this.#send('POST', '/v1/cluster/accept-loss', accepted)

  ring = (pool: string): Promise<Ring> => this.#get(`${poolPath(pool)}/ring`)

  async pools(): Promise<Pool[]> {
    return (await this.#get<{ pools: Pool[] }>('/v1/pools')).pools
  }

  pool = (name: string): Promise<Pool> => this.#get(poolPath(name))
  createPool = (pool: cluster.PoolCreate): Promise<Pool> => this.#send('POST', '/v1/pools', pool)

  changePool = (name: string, change: cluster.PoolChange): Promise<Pool> =>
    this.#send('POST', poolPath(name), change)

  async tokens(): Promise<Token[]> {
    return (await this.#get<{ tokens: Token[] }>('/v1/tokens')).tokens
  }

  createToken = (token: audit.TokenCreate): Promise<audit.CreatedToken> =>
    this.#send('POST', '/v1/tokens', token)

  revokeToken = (id: string): Promise<void> =>
    this.#send('DELETE', `/v1/tokens/${encodeURIComponent(id)}`)

  async audit(query: { last: number; after: number; volume?: string | undefined }) {
    const { last, after, volume } = query
    const only = volume === undefined ? '' : `&volume=${encodeURIComponent(volume)}`
    const path = `/v1/audit?last=${last}&after=${after}${only}`
    return (await this.#get<{ entries: AuditEntry[] }>(path)).entries
  }

  metadataBackup = (): Promise<Buffer> => this.#exchange('GET', '/v1/metadata/backup', undefined)

  /** A .tar.gz. */
  debugBundle = (): Promise<Buffer> => this.#exchange('GET', '/v1/debug/bundle', undefined)

  #get<T>(path: string): Promise<T> {
    return this.#send('GET', path)
  }

  async #send<T>(method: string, path: string, body?: unknown): Promise<T> {
    const bytes = await this.#exchange(method, path, body)
    return (bytes.length === 0 ? undefined : this.#parse(bytes)) as T
  }

  #parse(bytes: Buffer): unknown {
    try {
      return JSON.parse(bytes.toString())
    } catch (cause) {
      const message = `what answers at ${this.address} is not a Torus peer`
      throw new CommandError('Unavailable', message, { cause })
    }
  }

  /** The body of a successful answer. */
  async #exchange(method: string, path: string, body: unknown): Promise<Buffer> {
    const { status, bytes } = await this.#roundTrip(method, path, body)
    if (status >= 200 && status < 300) return bytes
    throw this.#failureOf(status, bytes)
  }

  #failureOf(status: number, bytes: Buffer): CommandError {
    const answer = this.#parse(bytes) as { error?: { code?: string; message?: string } }
    const { code = 'Unavailable', message = `HTTP status ${status}` } = answer?.error ?? {}
    const hint = status === 401 ? `; ${TOKEN_HINT}` : ''
    return new CommandError(code, message + hint)
  }

  /** The body of an answer as it comes. */
  async #stream(path: string): Promise<IncomingMessage> {
    const response = await this.#begin('GET', path, undefined)
    if (response.statusCode === 200) return response
    const { status, bytes } = await wholeOf(response)
    throw this.#failureOf(status, bytes)
  }

  /** What shows who asks. @throws UsageError, CommandError */
  #authorization(): { authorization?: string } {
    const token = this.#token()
    if (token === null) return {}
    const admin = this.#admin
    // The owner of a socket needs none, and may do more without than with the usual one.
    if (admin.kind === 'unix') return token.isAsked ? bearer(token) : {}
    const { protocol, hostname } = admin.url
    const isPrivate = protocol === 'https:' || isLoopback(hostname.replace(/^\[|\]$/g, ''))
    if (isPrivate || process.env['TORUS_INSECURE']) return bearer(token)
    const message = `the token is not sent to ${hostname} without TLS, where others can read it`
    throw new CommandError('Forbidden', `${message}: use https://, or accept it: TORUS_INSECURE=1`)
  }

  async #roundTrip(method: string, path: string, body: unknown) {
    const response = await this.#begin(method, path, body)
    return wholeOf(response).catch((error: Error) => {
      throw this.#unreachable(error)
    })
  }

  async #begin(method: string, path: string, body: unknown): Promise<IncomingMessage> {
    const isBytes = Buffer.isBuffer(body)
    const text = body === undefined || isBytes ? body : JSON.stringify(body)
    const admin = this.#admin
    const authorization = this.#authorization()
    return new Promise((resolve, reject) => {
      const common = {
        method,
        path,
        // One request a process: a kept connection would only delay the exit.
        agent: false as const,
        timeout: ANSWER_TIMEOUT_MS,
        headers: {
          ...authorization,
          ...(text === undefined ? {} : isBytes ? BYTES_TYPE : JSON_TYPE)
        }
      }
      const outgoing =
        admin.kind === 'unix'
          ? request({ ...common, socketPath: admin.path })
          : admin.url.protocol === 'https:'
            ? secureRequest(admin.url, { ...common, ...this.#secure() })
            : request(admin.url, common)
      outgoing.on('timeout', () => outgoing.destroy(new Error('ETIMEDOUT')))
      outgoing.on('error', (error) => reject(this.#unreachable(error)))
      outgoing.on('response', resolve)
      outgoing.end(text)
    })
  }

  #secure() {
    const { adminCa, adminCert, adminKey } = this.#tls
    const files = {
      ca: readPem('--admin-ca', adminCa),
      cert: readPem('--admin-cert', adminCert),
      key: readPem('--admin-key', adminKey)
    }
    return Object.fromEntries(Object.entries(files).filter(([, pem]) => pem !== undefined))
  }

  #unreachable(error: NodeJS.ErrnoException): CommandError {
    const why = error.code ?? error.message
    const tls = this.address.startsWith('https:') ? tlsTrouble(why, error.message) : null
    if (tls !== null) {
      const message = `${this.address}: ${tls} (${error.message})`
      return new CommandError('Forbidden', message, { cause: error })
    }
    if (why === 'EACCES' || why === 'EPERM') {
      const message = `${this.address} may not be opened by this user: ask its owner, or use sudo`
      return new CommandError('Forbidden', message, { cause: error })
    }
    return new CommandError(
      'Unavailable',
      `no peer answers at ${this.address} (${why}): start one with ` +
        `"${programName()} serve --data-dir DIR", ` +
        'or name another with --admin or TORUS_ADMIN',
      { cause: error }
    )
  }
}

async function wholeOf(response: IncomingMessage): Promise<{ status: number; bytes: Buffer }> {
  const parts: Buffer[] = []
  for await (const part of response) parts.push(part as Buffer)
  return { status: response.statusCode ?? 0, bytes: Buffer.concat(parts) }
}

const BYTES_TYPE = { 'content-type': 'application/octet-stream' }
const JSON_TYPE = { 'content-type': 'application/json' }
const TOKEN_HINT = 'give it with --token-file, TORUS_TOKEN or ~/.config/torus/token'
const bearer = ({ text }: GivenToken) => ({ authorization: `Bearer ${text}` })

/** What to do about what TLS says; null: it is nothing of TLS. */
function tlsTrouble(code: string, message: string): string | null {
  if (/CERTIFICATE_REQUIRED|certificate required/i.test(`${code} ${message}`)) {
    return 'it asks for a certificate: --admin-cert and --admin-key'
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'its certificate has other names'
  if (code === 'CERT_HAS_EXPIRED') return 'its certificate expired'
  if (/UNABLE_TO|SELF_SIGNED|CERT_/.test(code)) return 'it is not trusted: see --admin-ca'
  if (code === 'ECONNRESET') return 'it cut us off: it may not take our certificate (--admin-cert)'
  return code.startsWith('ERR_SSL') ? 'no TLS connection came about' : null
}

const volumePath = (name: string): string => `/v1/volumes/${encodeURIComponent(name)}`
const poolPath = (name: string): string => `/v1/pools/${encodeURIComponent(name)}`
