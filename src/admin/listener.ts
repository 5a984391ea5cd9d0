import { lstatSync, unlinkSync } from 'node:fs'
import { createServer, type RequestListener, type Server as PlainServer } from 'node:http'
import { createServer as createTlsServer, Server as TlsServer } from 'node:https'
import { type AddressInfo, connect } from 'node:net'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Address } from '../core/options.ts'
import type { AdminTls } from './tls.ts'

/** Programs that watch keep one connection each; more than this is a leak in one of them. */
const ADMIN_CONNECTIONS_MAX = 256
const HEADERS_TIMEOUT_MS = 10_000
const REQUEST_TIMEOUT_MS = 30_000
const KEEP_ALIVE_MS = 5_000
const HEADER_BYTES_MAX = 16 * 1024

type Server = PlainServer | TlsServer

function makeServer(listener: RequestListener, tls: AdminTls | null = null): Server {
  const limits = {
    headersTimeout: HEADERS_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: HEADER_BYTES_MAX,
    connectionsCheckingInterval: 1_000
  }
  const server =
    tls === null
      ? createServer(limits, listener)
      : createTlsServer(
          { ...limits, handshakeTimeout: HEADERS_TIMEOUT_MS, ...tls.options },
          listener
        )
  if (server instanceof TlsServer) tls?.attach(server)
  server.maxConnections = ADMIN_CONNECTIONS_MAX
  return server
}

const started = (server: Server, listen: () => void): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once('error', reject)
    server.once('listening', () => {
      server.off('error', reject)
      resolve()
    })
    listen()
  })

export interface Listener {
  readonly server: Server
  /** As `--admin` takes it: `http://127.0.0.1:4321`, `https://…`, `unix:/path/admin.sock`. */
  readonly url: string
}

/** @throws StoreError Busy when the port is taken, Unavailable for other reasons */
export async function listenTcp(
  address: Address,
  listener: RequestListener,
  tls: AdminTls | null
): Promise<Listener> {
  await tls?.load()
  const server = makeServer(listener, tls)
  try {
    await started(server, () => server.listen({ host: address.host, port: address.port }))
  } catch (error) {
    throw listenError(`admin-listen ${address.host}:${address.port}`, error)
  }
  const { port } = server.address() as AddressInfo
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return { server, url: `${tls === null ? 'http' : 'https'}://${host}:${port}` }
}

/** Whoever may open the socket may do everything: `mode` says who that is. */
export async function listenUnix(
  path: string,
  mode: number,
  listener: RequestListener
): Promise<Listener> {
  await removeStaleSocket(path)
  const server = makeServer(listener)
  try {
    await started(server, () => {
      // The socket is bound inside this call, so no moment exists in which others could connect.
      const before = process.umask(0o777 & ~mode)
      try {
        server.listen({ path })
      } finally {
        process.umask(before)
      }
    })
  } catch (error) {
    throw listenError(`admin-socket ${path}`, error)
  }
  return { server, url: `unix:${path}` }
}

/** A socket that a killed process left behind goes; one that still answers, or a file, stays. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  if (!found.isSocket()) {
    throw new StoreError(ErrorCode.Busy, `admin-socket ${path} exists and is not a socket`)
  }
  if (found.uid !== process.getuid?.() && process.getuid?.() !== 0) {
    throw new StoreError(ErrorCode.Busy, `admin-socket ${path} belongs to user ${found.uid}`)
  }
  const answered = await new Promise<boolean>((resolve) => {
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
  if (answered) {
    throw new StoreError(ErrorCode.Busy, `admin-socket ${path} is in use by another process`)
  }
  unlinkSync(path)
}

function listenError(what: string, error: unknown): StoreError {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'EADDRINUSE') {
    return new StoreError(ErrorCode.Busy, `${what} is in use by another process`, { cause: error })
  }
  return new StoreError(ErrorCode.Unavailable, `cannot listen on ${what}: ${code}`, {
    cause: error
  })
}
