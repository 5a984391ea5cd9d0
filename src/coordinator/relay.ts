/**
 * What stands between a client that must not lose its connection (the kernel, FUSE) and gateways
 * that come and go: an NBD server on a unix socket, and behind it a volume at whichever gateway
 * serves it. Lives as long as it has clients.
 */
import { SharedArena } from '../handoff/arena.ts'
import { RemoteVolume, type RemoteVolumeOptions } from '../nbd/remote-volume.ts'
import { NbdServer } from '../nbd/server.ts'

export interface RelayOptions extends Omit<RemoteVolumeOptions, 'arena'> {
  /** Unix socket to listen on. */
  readonly path: string
  /** How long the first answer of a gateway may take. */
  readonly connectMs: number
}

export interface Relay {
  /** Resolves when the last client has gone, and none came for a while. */
  readonly unused: Promise<void>
  close(): Promise<void>
}

/** Payloads of requests in flight: 128 of 128 KiB, as the kernel has them, and some. */
const ARENA_BYTES = 64 * 1024 * 1024
/** nbd-client opens its connections one after the other; nobody at all comes for this long. */
const FIRST_CLIENT_MS = 60_000
const LAST_CLIENT_MS = 2000
const POLL_MS = 200

/** @throws StoreError when no gateway serves the volume */
export async function startRelay(options: RelayOptions): Promise<Relay> {
  const { path, connectMs, log } = options
  const arena = new SharedArena(ARENA_BYTES)
  const volume = new RemoteVolume({ ...options, arena })
  await volume.connect(connectMs)
  const server = new NbdServer({
    source: volume,
    defaultExport: options.volume,
    log: (level, message) => {
      if (level === 'warn') log?.('warn', message)
    }
  })
  await server.listen({ path })
  let poll: NodeJS.Timeout | undefined
  const unused = new Promise<void>((resolve) => {
    let idleMs = 0
    let limitMs = FIRST_CLIENT_MS
    poll = setInterval(() => {
      idleMs = volume.opens > 0 ? 0 : idleMs + POLL_MS
      if (volume.opens > 0) limitMs = LAST_CLIENT_MS
      if (idleMs > limitMs) resolve()
    }, POLL_MS)
  })
  return {
    unused,
    close: async () => {
      clearInterval(poll)
      await server.close()
      await volume.close()
    }
  }
}
