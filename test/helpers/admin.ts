/** A real admin server before a fake backend, on a free port and a socket in a temporary folder. */
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AuditLog } from '../../src/admin/audit-log.ts'
import { type AdminOptions, type AdminServer, startAdmin } from '../../src/admin/server.ts'
import { Cluster } from '../../src/cluster/cluster.ts'
import { Tokens } from '../../src/cluster/tokens.ts'
import { type Clock, systemClock } from '../../src/core/clock.ts'
import { resolveConfig } from '../../src/core/config.ts'
import { configEntries } from '../../src/core/config-entries.ts'
import { LogRing, silentLog } from '../../src/core/log.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { FakeBackend } from './fake-backend.ts'
import { SeededRandom } from './manual-clock.ts'

/** Tokens on metadata in memory, and an audit log in `folder`. */
export async function makeSecurity(
  folder: string,
  clock: Clock = systemClock
): Promise<{ tokens: Tokens; audit: AuditLog }> {
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const ids = { clusterId: 'c'.repeat(32), peerId: 'a'.repeat(32), bootId: 'b'.repeat(32) }
  const self = { ...ids, bootCounter: 1, capacityBytes: 1 }
  const cluster = await Cluster.open(store, self, { clock, random })
  const tokens = new Tokens(cluster)
  await tokens.ready
  const audit = await AuditLog.open({ directory: join(folder, 'audit'), clock, log: silentLog() })
  return { tokens, audit }
}

export interface AdminFixture {
  readonly tokens: Tokens
  readonly audit: AuditLog
  readonly backend: FakeBackend
  readonly server: AdminServer
  readonly ring: LogRing
  readonly url: string
  readonly socket: string
  readonly folder: string
  stop(): Promise<void>
}

export async function startFixture(options: Partial<AdminOptions> = {}): Promise<AdminFixture> {
  const folder = mkdtempSync(join(tmpdir(), 'torus-admin-'))
  const socket = join(folder, 'admin.sock')
  const backend = new FakeBackend()
  const ring = new LogRing(100)
  const resolved = resolveConfig({ flags: { dataDir: folder }, env: {}, file: null })
  const security = await makeSecurity(folder, options.clock)
  const server = await startAdmin({
    backend,
    ...security,
    log: silentLog(),
    ring,
    configEntries: configEntries(resolved),
    listen: { host: '127.0.0.1', port: 0 },
    socket,
    processMetrics: false,
    ...options
  })
  const url = server.addresses.find((address) => address.startsWith('http')) ?? ''
  const stop = async () => {
    await server.stop()
    await security.audit.close()
    rmSync(folder, { recursive: true, force: true })
  }
  return { ...security, backend, server, ring, url, socket, folder, stop }
}

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly bytes: Buffer
  readonly text: string
  // biome-ignore lint/suspicious/noExplicitAny: a test looks into answers of every shape
  readonly json: any
}

export interface HttpOptions {
  readonly method?: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** `target` is a URL with a path, or `unix:SOCKET:/path`. */
export function http(target: string, options: HttpOptions = {}): Promise<HttpAnswer> {
  const [, socketPath, path] = /^unix:([^:]+):(.*)$/.exec(target) ?? []
  const body = options.body === undefined ? undefined : JSON.stringify(options.body)
  const length = String(Buffer.byteLength(body ?? ''))
  const headers = {
    ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': length }),
    ...options.headers
  }
  return new Promise((resolve, reject) => {
    const common = { method: options.method ?? 'GET', headers, agent: false as const }
    const outgoing =
      socketPath === undefined
        ? request(target, common)
        : request({ ...common, socketPath, path: path ?? '/' })
    outgoing.on('error', reject)
    outgoing.on('response', (response) => {
      const parts: Buffer[] = []
      response.on('error', reject)
      response.on('data', (part: Buffer) => parts.push(part))
      response.on('end', () => {
        const bytes = Buffer.concat(parts)
        const text = bytes.toString()
        const isJson = (response.headers['content-type'] ?? '').includes('json')
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          bytes,
          text,
          json: isJson && text !== '' ? JSON.parse(text) : null
        })
      })
    })
    outgoing.end(body)
  })
}
