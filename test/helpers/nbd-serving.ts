/** An NBD server over memory for the time of one test, and what must hold when it is over. */
import { strictEqual } from 'node:assert'
import type { NbdLimits } from '../../src/nbd/limits.ts'
import { type NbdOptions, NbdServer } from '../../src/nbd/server.ts'
import { MemorySource, type MemoryVolume } from './memory-devices.ts'
import { NbdWireClient } from './nbd-wire-client.ts'

export const MIB = 1024 * 1024

export interface Serving {
  readonly port: number
  readonly source: MemorySource
  readonly server: NbdServer
  readonly demo: MemoryVolume
  readonly logged: string[]
  connect(): Promise<NbdWireClient>
}

export interface ServingOptions {
  readonly arenaPages?: number
  readonly sizeBytes?: number
  readonly limits?: Partial<NbdLimits>
  readonly options?: Partial<NbdOptions>
  /** A test must be over by then. */
  readonly timeoutMs?: number
}

/** Serves volume `demo` and checks at the end that nothing is held any more. */
export async function serving(
  body: (serving: Serving) => Promise<void>,
  options: ServingOptions = {}
): Promise<void> {
  const source = new MemorySource(options.arenaPages ?? 4096)
  const demo = source.add('demo', options.sizeBytes ?? 64 * MIB, { description: 'a test' })
  const logged: string[] = []
  const server = new NbdServer({
    source,
    limits: options.limits ?? {},
    log: (_level, message) => logged.push(message),
    ...options.options
  })
  const at = await server.listen({ host: '127.0.0.1', port: 0 })
  const port = 'port' in at ? at.port : 0
  const clients: NbdWireClient[] = []
  const connect = async () => {
    const client = await NbdWireClient.connect({ port })
    clients.push(client)
    return client
  }
  try {
    await bounded(
      body({ port, source, server, demo, logged, connect }),
      options.timeoutMs ?? 20_000
    )
  } finally {
    for (const client of clients) client.destroy()
    for (const volume of source.volumes.values()) source.release(volume)
    await bounded(server.close(2_000), 5_000)
  }
  strictEqual(source.arena.pagesFree, source.arena.pagesTotal, 'every page came back')
  strictEqual(server.budget.requestsInUse, 0, 'every request came back')
  strictEqual(server.budget.replyBuffers.inUse, 0, 'every reply buffer came back')
  for (const volume of source.volumes.values()) strictEqual(volume.opens, 0, 'devices are closed')
}

/** Rejects when `promise` takes longer: uvu has no timeout of its own. */
export async function bounded<T>(promise: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not over after ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Waits until `condition` holds. */
export async function until(condition: () => boolean, timeoutMs = 10_000): Promise<void> {
  const end = Date.now() + timeoutMs
  while (!condition()) {
    if (Date.now() > end) throw new Error(`did not hold within ${timeoutMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Bytes that differ from place to place and from seed to seed, none of them zero. */
export function pattern(length: number, seed = 1): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4))
  let state = Math.imul(seed + 1, 0x9e37_79b1)
  for (let index = 0; index < words.length; index++) {
    state = Math.imul(state ^ (state >>> 15), 0x85eb_ca77) + index
    words[index] = state | 0x0101_0101
  }
  return Buffer.from(words.buffer, 0, length)
}
