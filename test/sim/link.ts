/**
 * Links between simulated processes: `Member` on one side, a `MemberService` on the other. What
 * goes over a link keeps its order; a new link of a peer ends its older one (R5); a link that
 * carries nothing for a while is given up by either side for itself.
 */
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { BlockOp, OpKind } from '../../src/replication/block-store.ts'
import { LocalMember } from '../../src/replication/local-member.ts'
import { tagBytesOf } from '../../src/replication/peer-request.ts'
import type { MemberService } from '../../src/replication/member-service.ts'
import type { Member, MemberAnswer, MemberCall, Members } from '../../src/replication/member.ts'
import type { ShardMemberService } from '../../src/replication/shard-member-service.ts'
import type { TestArena } from '../helpers/test-arena.ts'
import type { Network, Pipe, Place } from './network.ts'
import type { Process } from './world.ts'

const CONNECT_MS = 5
const RECONNECT_MS = 50
/** Within it a peer sees that another one's process is gone. */
const SEEN_MS = 20
/** A request without an answer for so long ends the link. */
const LINK_DEADLINE_MS = 1200

/** A boot of a peer, as links see it. */
export interface Host {
  readonly peerId: string
  readonly bootId: string
  readonly place: Place
  readonly process: Process
  /** Null while it does not accept links yet. */
  service: MemberService | null
  readonly arena: TestArena
  /** The server's side of links, by peer that called. */
  readonly incoming: Map<string, Incoming>
}

export class Incoming {
  isDestroyed = false
}

/** Which boot runs where now. */
export interface Directory {
  hostOf(peerId: string): Host | null
}

type Reply = (answer: () => void) => void

/** Pages that an op's payload has. */
function pagesOf(op: BlockOp): number {
  switch (op.kind) {
    case OpKind.Read:
    case OpKind.Write:
      return op.blockCount
    case OpKind.BlockStatus:
      return Math.max(1, Math.ceil((op.blockCount * 8) / BLOCK_BYTES))
    case OpKind.ReadVersions:
      return op.blockCount + 1
    default:
      return 0
  }
}

export class SimMember implements Member {
  readonly peerId: string
  readonly bootId: string
  readonly isLocal = false
  inFlight = 0
  readonly #network: Network
  readonly #from: Host
  readonly #to: Host
  readonly #there: Pipe
  readonly #back: Pipe
  readonly #incoming = new Incoming()
  readonly #lost: ((why: string) => void)[] = []
  readonly #open = new Set<(error: number) => void>()
  #queued: BlockOp[] = []
  #why: string | null = null

  constructor(network: Network, from: Host, to: Host) {
    this.#network = network
    this.#from = from
    this.#to = to
    this.peerId = to.peerId
    this.bootId = to.bootId
    this.#there = network.pipe()
    this.#back = network.pipe()
    // The hello is the first message: it ends the older link before anything of this one is done.
    this.#send((_reply) => {
      const older = to.incoming.get(from.peerId)
      if (older !== undefined) older.isDestroyed = true
      // It is about to end.
      if (to.service === null) this.#incoming.isDestroyed = true
      to.incoming.set(from.peerId, this.#incoming)
    })
  }

  submit(op: BlockOp): void {
    this.inFlight++
    if (this.#why === null) this.#queued.push(op)
    else this.#sendOp(op)
  }

  ring(): void {
    const ops = this.#queued
    this.#queued = []
    for (const op of ops) this.#sendOp(op)
    if (ops.length > 0) this.#send(() => this.#to.service?.ring())
  }

  putAside(op: BlockOp, payload: number): boolean {
    op.payload = payload
    return true
  }

  flush(done: (error: number) => void): void {
    const ended = this.#expect(done)
    this.#send((reply) => {
      this.#to.service!.flush((error) => reply(() => ended(error)))
    })
  }

  call(request: MemberCall): Promise<MemberAnswer> {
    return new Promise((resolve, reject) => {
      let answer: MemberAnswer | null = null
      let thrown: unknown = null
      const ended = this.#expect((error) => {
        if (answer !== null) resolve(answer)
        else reject(thrown ?? new StoreError(error as ErrorCode, `peer ${this.peerId} is lost`))
      })
      this.#send((reply) => {
        const { peerId, bootId } = this.#from
        this.#to.service!.call(request, { peerId, bootId }).then(
          (got) =>
            reply(() => {
              answer = got
              ended(0)
            }),
          (error: unknown) =>
            reply(() => {
              thrown = error
              ended(0)
            })
        )
      })
    })
  }

  onLost(listener: (why: string) => void): void {
    if (this.#why === null) this.#lost.push(listener)
    else {
      const why = this.#why
      queueMicrotask(() => listener(why))
    }
  }

  get isLost(): boolean {
    return this.#why !== null
  }

  lose(why: string): void {
    if (this.#why !== null) return
    this.#why = why
    this.#back.isBroken = true
    this.#from.process.world.log(`${this.#from.place} loses link to ${this.#to.place}: ${why}`)
    for (const queued of this.#queued.splice(0)) {
      queued.error = ErrorCode.PeerLost
      this.#from.process.at(0, () => queued.onDone(queued))
    }
    for (const end of [...this.#open]) end(ErrorCode.PeerLost)
    for (const listener of this.#lost) listener(why)
  }

  #sendOp(op: BlockOp): void {
    const pages = pagesOf(op)
    const { arena } = this.#from
    const there = this.#to.arena
    const copy = Object.assign(new BlockOp(), op, { owner: null, onDone: () => {} })
    const isWrite = op.kind === OpKind.Write
    const bytes = isWrite ? Buffer.from(pagesIn(arena, op.payload, pages)) : null
    const tagBytes = tagBytesOf(op)
    const tags = Buffer.from(arena.bytes.subarray(op.tags, op.tags + tagBytes))
    const ended = this.#expect((error) => {
      op.error = error
      this.inFlight--
      op.onDone(op)
    })
    this.#send((reply) => {
      const tagPages = Math.ceil(tagBytes / BLOCK_BYTES)
      copy.payload = pages > 0 ? there.acquire(pages + tagPages) : 0
      copy.tags = copy.payload + pages * BLOCK_BYTES
      if (bytes !== null) bytes.copy(there.bytes, copy.payload)
      tags.copy(there.bytes, copy.tags)
      copy.onDone = () => {
        const { error, resultA, resultB } = copy
        const read =
          isWrite || pages === 0 ? null : Buffer.from(pagesIn(there, copy.payload, pages))
        const entries = Buffer.from(there.bytes.subarray(copy.tags, copy.tags + tagBytes))
        if (pages > 0) there.release(copy.payload)
        reply(() => {
          if (read !== null && error === 0) {
            read.copy(arena.bytes, op.payload)
            entries.copy(arena.bytes, op.payload + pages * BLOCK_BYTES)
          }
          op.resultA = resultA
          op.resultB = resultB
          ended(error)
        })
      }
      this.#to.service!.submit(copy)
    })
  }

  /** One answer that is owed; the link ends when it takes too long. */
  #expect(done: (error: number) => void): (error: number) => void {
    const { process } = this.#from
    let cancel = (): void => {}
    const end = (error: number): void => {
      if (!this.#open.delete(end)) return
      cancel()
      done(error)
    }
    this.#open.add(end)
    if (this.#why !== null) process.at(0, () => end(ErrorCode.PeerLost))
    else cancel = process.start(LINK_DEADLINE_MS, () => this.lose('deadline'))
    return end
  }

  #send(arrive: (reply: Reply) => void): void {
    const from = this.#from
    const to = this.#to
    if (this.#why !== null) return
    const reply: Reply = (answer) => {
      if (!to.process.isAlive) return
      this.#network.send(this.#back, to.place, from.place, from.process, answer)
    }
    this.#network.send(this.#there, from.place, to.place, to.process, () => {
      // Bytes of a connection that was ended are not looked at any more.
      if (!this.#incoming.isDestroyed) arrive(reply)
    })
  }
}

/** Members as one process finds them. */
export class SimMembers implements Members {
  readonly #network: Network
  readonly #self: Host
  readonly #directory: Directory
  readonly #links = new Map<string, SimMember>()
  readonly #connecting = new Set<string>()
  readonly #listeners: ((peerId: string) => void)[] = []
  #local: LocalMember | null = null
  #isClosed = false

  constructor(network: Network, self: Host, directory: Directory) {
    this.#network = network
    this.#self = self
    this.#directory = directory
  }

  find(peerId: string): Member | null {
    if (peerId === this.#self.peerId) return this.#local
    const link = this.#links.get(peerId)
    if (link !== undefined && !link.isLost) return link
    this.#connect(peerId, CONNECT_MS)
    return null
  }

  onChange(listener: (peerId: string) => void): void {
    this.#listeners.push(listener)
  }

  /** The own shards: no network between. */
  serveHere(service: ShardMemberService): void {
    const { peerId, bootId } = this.#self
    this.#local = new LocalMember({ peerId, bootId }, service)
  }

  close(): void {
    this.#isClosed = true
    for (const link of this.#links.values()) link.lose('closed')
  }

  /** All links break, as when the machine's network restarts. */
  breakAll(): void {
    for (const link of this.#links.values()) link.lose('broken')
  }

  #connect(peerId: string, delayMs: number): void {
    if (this.#isClosed || this.#connecting.has(peerId)) return
    this.#connecting.add(peerId)
    this.#self.process.start(delayMs, () => {
      this.#connecting.delete(peerId)
      const host = this.#directory.hostOf(peerId)
      const { place, process } = this.#self
      const isThere =
        host !== null &&
        host.service !== null &&
        host.process.isAlive &&
        !host.process.isStopped &&
        !this.#network.isCut(place, host.place) &&
        !this.#network.isCut(host.place, place)
      if (!isThere) {
        this.#connect(peerId, RECONNECT_MS)
        return
      }
      const link = new SimMember(this.#network, this.#self, host)
      link.onLost(() => process.start(RECONNECT_MS, () => this.#connect(peerId, 0)))
      watchHost(link, host, process)
      this.#links.set(peerId, link)
      process.world.log(`${place} links to ${host.place}`)
      for (const listener of this.#listeners) listener(peerId)
    })
  }
}

/** A process that is killed closes its connections: seen soon, where the network lets it. */
function watchHost(link: SimMember, host: Host, process: Process): void {
  host.process.onKill(() => {
    if (link.isLost) return
    process.start(process.world.between(0, SEEN_MS), () => link.lose('closed by the other side'))
  })
}

const pagesIn = (arena: TestArena, offset: number, pages: number): Buffer =>
  arena.bytes.subarray(offset, offset + pages * BLOCK_BYTES)
