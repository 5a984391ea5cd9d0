/** A peer server over memory and links to it, for tests: made, used, and taken down again. */
import { strictEqual } from 'node:assert'
import { setTimeout as sleep } from 'node:timers/promises'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { SharedArena } from '../../src/handoff/arena.ts'
import { BlockOp } from '../../src/replication/block-store.ts'
import type { Member } from '../../src/replication/member.ts'
import type { PeerAddress } from '../../src/replication/peer-dial.ts'
import type { PeerIdentity } from '../../src/replication/peer-handshake.ts'
import type { PeerLimits } from '../../src/replication/peer-limits.ts'
import { PeerLinks, type PeerLinksOptions } from '../../src/replication/peer-links.ts'
import { PeerSecurity } from '../../src/replication/peer-security.ts'
import { PeerServer } from '../../src/replication/peer-server.ts'
import { MemoryMember } from './memory-member.ts'

const CLUSTER = 'c1'.repeat(16)
export const serverIdentity: PeerIdentity = {
  clusterId: CLUSTER,
  peerId: '5e'.repeat(16),
  bootId: 'b5'.repeat(16)
}
export const clientIdentity: PeerIdentity = {
  clusterId: CLUSTER,
  peerId: 'c0'.repeat(16),
  bootId: 'bc'.repeat(16)
}
export const SECRET = 'a secret that only this cluster knows'

export interface PeerServingOptions {
  readonly arenaBytes?: number
  readonly limits?: Partial<PeerLimits>
  readonly security?: PeerSecurity
  readonly refusal?: (peerId: string) => string | null
  readonly timeoutMs?: number
}

export interface PeerServing {
  readonly server: PeerServer
  readonly member: MemoryMember
  readonly arena: SharedArena
  readonly at: PeerAddress
  readonly logged: string[]
  /** Links of one more gateway, with an arena of its own. */
  gateway(options?: Partial<PeerLinksOptions>): Gateway
}

export const until = async (
  probe: () => boolean,
  what = 'it',
  timeoutMs = 5_000
): Promise<void> => {
  const deadline = performance.now() + timeoutMs
  while (!probe()) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(2)
  }
}

export class Gateway {
  readonly arena = new SharedArena(16 * 1024 * 1024)
  readonly links: PeerLinks
  readonly changes: string[] = []
  private readonly pagesTotal = this.arena.pagesFree
  private readonly peerId: string

  constructor(options: Omit<PeerLinksOptions, 'arena'>, peerId: string) {
    this.links = new PeerLinks({ ...options, arena: this.arena })
    this.links.onChange((changed) => this.changes.push(changed))
    this.peerId = peerId
  }

  async member(): Promise<Member> {
    await until(() => this.links.find(this.peerId) !== null, 'a link')
    return this.links.find(this.peerId)!
  }

  /** Submits, rings, and resolves with the op when it is done. */
  run(member: Member, kind: number, fields: Partial<BlockOp>): Promise<BlockOp> {
    return new Promise((resolve) => {
      member.submit(peerOp(kind, fields, resolve))
      member.ring()
    })
  }

  async write(member: Member, chunk: number, firstBlock: number, bytes: Buffer): Promise<number> {
    const pages = this.arena.acquire(bytes.length / BLOCK_BYTES)
    bytes.copy(this.arena.bytes, pages)
    const blockCount = bytes.length / BLOCK_BYTES
    const op = await this.run(member, 2, { chunk, firstBlock, blockCount, payload: pages })
    this.arena.release(pages)
    return op.error
  }

  async read(
    member: Member,
    chunk: number,
    firstBlock: number,
    blockCount: number
  ): Promise<Buffer> {
    const pages = this.arena.acquire(blockCount)
    const op = await this.run(member, 1, { chunk, firstBlock, blockCount, payload: pages })
    const end = pages + blockCount * BLOCK_BYTES
    const bytes = Buffer.from(this.arena.bytes.subarray(pages, end))
    this.arena.release(pages)
    strictEqual(op.error, 0)
    return bytes
  }

  get pagesHeld(): number {
    return this.pagesTotal - this.arena.pagesFree
  }
}

export function peerOp(
  kind: number,
  fields: Partial<BlockOp>,
  onDone: (op: BlockOp) => void
): BlockOp {
  const op = new BlockOp()
  Object.assign(op, {
    kind,
    familyLow: 1,
    layerLow: 1,
    blockCount: 1,
    writerEpoch: 3,
    sequence: 2 ** 33 + 5,
    fenceEpoch: 4,
    pool: 1,
    group: 2,
    groupEpoch: 7
  })
  return Object.assign(op, fields, { onDone })
}

export const filled = (blocks: number, seed: number): Buffer => {
  const bytes = Buffer.alloc(blocks * BLOCK_BYTES)
  for (let at = 0; at < bytes.length; at += 4)
    bytes.writeUInt32LE((at * 2654435761 + seed) >>> 0, at)
  return bytes
}

/** Runs `body` with a server; everything is given back at the end, and the time is bounded. */
export async function peerServing(
  body: (all: PeerServing) => Promise<void>,
  options: PeerServingOptions = {}
): Promise<void> {
  const arena = new SharedArena(options.arenaBytes ?? 16 * 1024 * 1024)
  const free = arena.pagesFree
  const member = new MemoryMember(arena)
  const logged: string[] = []
  const log = (level: string, message: string, fields: object): void => {
    if (level !== 'debug') logged.push(`${message} ${JSON.stringify(fields)}`)
  }
  const security = options.security ?? PeerSecurity.ofSecret(SECRET)
  const limits = options.limits ?? {}
  const refusal = options.refusal ?? (() => null)
  const parts = { service: member, arena, security, limits, refusal, log }
  const server = new PeerServer({ identity: serverIdentity, ...parts })
  const address = await server.listen({ host: '127.0.0.1', port: 0 })
  const at = { ...address, bootId: serverIdentity.bootId }
  const gateways: Gateway[] = []
  const gateway = (extra: Partial<PeerLinksOptions> = {}): Gateway => {
    const addressOf = (): PeerAddress => at
    const made = new Gateway(
      { identity: clientIdentity, addressOf, security, limits, log, ...extra },
      serverIdentity.peerId
    )
    gateways.push(made)
    return made
  }
  const timeoutMs = options.timeoutMs ?? 15_000
  const late = new AbortController()
  const timeout = sleep(timeoutMs, undefined, { signal: late.signal }).then(
    () => Promise.reject(new Error(`not done in ${timeoutMs} ms\n${logged.join('\n')}`)),
    () => {}
  )
  try {
    await Promise.race([body({ server, member, arena, at, logged, gateway }), timeout])
    for (const each of gateways) each.links.close()
    member.release()
    await server.close(500)
    strictEqual(arena.pagesFree, free, 'the server holds no pages')
    for (const each of gateways) {
      await until(() => each.pagesHeld === 0, 'the gateway holds no pages')
    }
  } finally {
    late.abort()
    for (const each of gateways) each.links.close()
  }
}
