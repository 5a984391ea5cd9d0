/** TCP links on loopback that can be cut, held (half-open), or made slow, by who opened them. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

export type LinkRule =
  | { readonly kind: 'pass' }
  /** Connections are reset, and new ones at once. */
  | { readonly kind: 'cut' }
  /** Connections stay open and nothing arrives: of both ends' bytes, or of one's only. */
  | { readonly kind: 'hold'; readonly from: 'both' | 'client' | 'server' }
  | { readonly kind: 'delay'; readonly ms: number }

export const PASS: LinkRule = { kind: 'pass' }
/** What is held of one end's bytes before its socket is read no more. */
const HELD_BYTES_MAX = 1024 * 1024

interface Link {
  /** Who opened it, as `whoIs` told; null for unknown. */
  readonly opener: number | null
  readonly client: Pipe
  readonly server: Pipe
}

export class LoopbackProxy {
  readonly #server: Server
  readonly #links = new Set<Link>()
  readonly #whoIs: (port: number) => number | null
  /** By opener; null for everybody else. */
  readonly #rules = new Map<number | null, LinkRule>()

  private constructor(server: Server, whoIs: (port: number) => number | null) {
    this.#server = server
    this.#whoIs = whoIs
  }

  /** Passes connections to a port on to another. `whoIs` tells who has a local port. */
  static async listen(
    targetPort: number,
    whoIs: (port: number) => number | null = () => null
  ): Promise<LoopbackProxy> {
    const server = createServer({ allowHalfOpen: true })
    const proxy = new LoopbackProxy(server, whoIs)
    server.on('connection', (socket) => proxy.#accept(socket, targetPort))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return proxy
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** For the connections that `opener` has and will have. */
  set(opener: number | null, rule: LinkRule): void {
    this.#rules.set(opener, rule)
    for (const link of [...this.#links]) {
      if (link.opener === opener) apply(link, rule)
    }
  }

  close(): void {
    this.#server.close()
    for (const { client } of this.#links) client.source.destroy()
  }

  #accept(socket: Socket, targetPort: number): void {
    const opener = this.#whoIs(socket.remotePort ?? 0)
    const rule = this.#rules.get(opener) ?? PASS
    socket.on('error', () => {}) // 'close' follows
    if (rule.kind === 'cut') {
      socket.resetAndDestroy()
      return
    }
    const target = connect({ port: targetPort, host: '127.0.0.1', allowHalfOpen: true })
    target.on('error', () => {})
    for (const each of [socket, target]) each.setNoDelay(true)
    const link = { opener, client: new Pipe(socket, target), server: new Pipe(target, socket) }
    this.#links.add(link)
    apply(link, rule)
    const end = (): void => {
      socket.destroy()
      target.destroy()
      this.#links.delete(link)
    }
    socket.on('close', end)
    target.on('close', end)
  }
}

function apply({ client, server }: Link, rule: LinkRule): void {
  if (rule.kind === 'cut') {
    client.source.resetAndDestroy()
    server.source.resetAndDestroy()
    return
  }
  const isHeld = (from: 'client' | 'server'): boolean =>
    rule.kind === 'hold' && (rule.from === 'both' || rule.from === from)
  const delayMs = rule.kind === 'delay' ? rule.ms : 0
  client.set(isHeld('client'), delayMs)
  server.set(isHeld('server'), delayMs)
}

/** One direction. What was held is delivered late, in order, when it is held no more. */
class Pipe {
  readonly source: Socket
  readonly #target: Socket
  #waiting: { readonly bytes: Buffer | null; readonly atMs: number }[] = []
  #waitingBytes = 0
  #isHeld = false
  #delayMs = 0
  #timer: NodeJS.Timeout | null = null

  constructor(source: Socket, target: Socket) {
    this.source = source
    this.#target = target
    source.on('data', (bytes: Buffer) => this.#take(bytes))
    source.on('end', () => this.#take(null))
    source.on('close', () => this.#timer !== null && clearTimeout(this.#timer))
    target.on('drain', () => this.#pass())
  }

  set(isHeld: boolean, delayMs: number): void {
    this.#isHeld = isHeld
    this.#delayMs = delayMs
    this.#pass()
  }

  #take(bytes: Buffer | null): void {
    this.#waiting.push({ bytes, atMs: performance.now() + this.#delayMs })
    this.#waitingBytes += bytes?.length ?? 0
    if (this.#waitingBytes > HELD_BYTES_MAX) this.source.pause()
    this.#pass()
  }

  #pass(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    while (!this.#isHeld && this.#waiting.length > 0 && !this.#target.writableNeedDrain) {
      const { bytes, atMs } = this.#waiting[0]!
      const leftMs = this.#delayMs === 0 ? 0 : atMs - performance.now()
      if (leftMs > 0) {
        this.#timer = setTimeout(() => this.#pass(), leftMs)
        return
      }
      this.#waiting.shift()
      this.#waitingBytes -= bytes?.length ?? 0
      if (bytes === null) this.#target.end()
      else this.#target.write(bytes)
    }
    if (this.#waitingBytes <= HELD_BYTES_MAX && this.source.isPaused()) this.source.resume()
  }
}

/** Which of the processes has a TCP socket on this local port; null for none of them. */
export function ownerOf(port: number, pids: readonly number[]): number | null {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  const inodes = new Set<string>()
  for (const line of readFileSync('/proc/net/tcp', 'utf8').split('\n')) {
    const fields = line.trim().split(/\s+/)
    if (fields[1]?.endsWith(`:${hex}`) === true) inodes.add(`socket:[${fields[9]}]`)
  }
  const found = pids.find((pid) => inodes.size > 0 && socketsOf(pid).some((at) => inodes.has(at)))
  return found ?? null
}

function socketsOf(pid: number): string[] {
  if (pid === 0) return []
  const directory = `/proc/${pid}/fd`
  try {
    return readdirSync(directory).map((name) => {
      try {
        return readlinkSync(`${directory}/${name}`)
      } catch {
        return '' // closed meanwhile
      }
    })
  } catch {
    return []
  }
}
