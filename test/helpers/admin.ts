/** A real admin server before a fake backend, on a free port and a socket in a temporary folder. */
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type AdminOptions, type AdminServer, startAdmin } from '../../src/admin/server.ts'
import { configEntries, resolveConfig } from '../../src/core/config.ts'
import { LogRing, silentLog } from '../../src/core/log.ts'
import { FakeBackend } from './fake-backend.ts'

export interface AdminFixture {
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
  const server = await startAdmin({
    backend,
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
    rmSync(folder, { recursive: true, force: true })
  }
  return { backend, server, ring, url, socket, folder, stop }
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
