/** Peers with real engines, a gateway as plain as can be, and group records in memory. */
import { strict } from 'node:assert'
import type { KnownGroup } from '../../src/cluster/groups.ts'
import type { GroupRecord } from '../../src/cluster/records.ts'
import type { Timers } from '../../src/core/clock.ts'
import { systemClock } from '../../src/core/clock.ts'
import type { Compare } from '../../src/metadata/store.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { BlockOp, OpFlag, OpKind } from '../../src/replication/block-store.ts'
import { copyPages } from '../../src/replication/copied-tags.ts'
import type { Member, MemberAnswer, MemberCall, Members } from '../../src/replication/member.ts'
import { GroupScrub } from '../../src/replication/group-scrub.ts'
import { type FamilyState, Resyncer } from '../../src/replication/resync.ts'
import { decodeHeld, type HeldRun } from '../../src/replication/resync-plan.ts'
import { settleAtStart } from '../../src/replication/start-rule.ts'
import { MemberPeer } from './member-peer.ts'

export const SHAPE = { pool: 1, groups: 4 }
export const FAMILY = '0000000000000001'
/** Stands for the family's revision: its writerEpoch. */
const UNCHANGED = { key: FAMILY, modRevision: 0 }
const NO_WRITER = { key: 'writer', is: 'absent' } as const
const LAYER = '0000000000000007'

/** Real time, and the process waits for it. */
const timers: Timers = {
  start: (delayMs, run) => {
    const timer = setTimeout(run, delayMs)
    return () => clearTimeout(timer)
  }
}

/** A member over the wire: its pages are its own, and it can be lost. */
class RemoteMember implements Member {
  readonly peerId: string
  readonly bootId: string
  readonly isLocal = false
  inFlight = 0
  isLost = false
  readonly #asker: MemberPeer
  readonly #peer: MemberPeer
  readonly #waiting = new Set<() => void>()
  /** Asked before each op and call: true loses the link. */
  cut: (what: string) => boolean = () => false

  constructor(asker: MemberPeer, peer: MemberPeer) {
    this.#asker = asker
    this.#peer = peer
    this.peerId = peer.peerId
    this.bootId = peer.bootId
  }

  lose(): void {
    this.isLost = true
    for (const fail of [...this.#waiting]) fail()
    this.#waiting.clear()
  }

  submit(op: BlockOp): void {
    if (this.cut('op')) this.lose()
    const there = Object.assign(new BlockOp(), op)
    const pages = copyPages(op.blockCount)
    const { arena } = this.#peer
    let answered = false
    const answer = (error: number): void => {
      if (answered) return
      answered = true
      this.inFlight--
      op.error = error
      op.onDone(op)
    }
    this.inFlight++
    const fail = (): void => answer(ErrorCode.PeerLost)
    if (this.isLost) {
      queueMicrotask(fail)
      return
    }
    this.#waiting.add(fail)
    there.payload = arena.acquire(pages)
    strict(there.payload >= 0, 'the peer has pages')
    there.tags = there.payload + op.tags - op.payload
    if (op.kind === OpKind.Write) {
      const from = this.#asker.arena.bytes
      const bytes = op.blockCount * 4096
      there.tags = there.payload + bytes
      from.copy(arena.bytes, there.payload, op.payload, op.payload + bytes)
      from.copy(arena.bytes, there.tags, op.tags, op.tags + op.blockCount * 16)
    }
    there.onDone = ({ error, resultA }) => {
      this.#waiting.delete(fail)
      if (!answered) {
        const bytes = arena.bytes.subarray(there.payload, there.payload + pages * 4096)
        if (op.kind === OpKind.ReadVersions) bytes.copy(this.#asker.arena.bytes, op.payload)
        op.resultA = resultA
      }
      arena.release(there.payload)
      answer(error)
    }
    this.#peer.member.submit(there)
  }

  ring(): void {
    if (!this.isLost) this.#peer.member.ring()
  }

  flush(done: (error: number) => void): void {
    this.#peer.member.flush(done)
  }

  async call(request: MemberCall): Promise<MemberAnswer> {
    if (this.cut(request.call)) this.lose()
    const lost = new StoreError(ErrorCode.PeerLost, 'the peer is lost')
    if (this.isLost) throw lost
    return new Promise((resolve, reject) => {
      const fail = (): void => reject(lost)
      this.#waiting.add(fail)
      this.#peer.service
        .call(request, this.#asker)
        .then(resolve, reject)
        .finally(() => this.#waiting.delete(fail))
    })
  }

  onLost(): void {}
}

export class MemberCluster {
  readonly peers: MemberPeer[] = []
  readonly up = new Set<MemberPeer>()
  readonly records: (KnownGroup | null)[] = []
  readonly families: FamilyState[] = [
    { family: FAMILY, writerEpoch: 1, settledEpoch: 1, unchanged: UNCHANGED, noWriter: NO_WRITER }
  ]
  /** Every op and call of a resync passes here; true loses the link it would take. */
  cut: (what: string, to: MemberPeer) => boolean = () => false
  deletions = 0
  readonly resyncers: Resyncer[] = []
  readonly scrubs: GroupScrub[] = []
  readonly log: { message: string; fields: Record<string, unknown> }[] = []
  /** Volumes are encrypted, and peers have the key. */
  isSealed = false
  #sequence = 0
  #revision = 1

  static async create(count: number, seed = 1): Promise<MemberCluster> {
    const cluster = new MemberCluster()
    for (let number = 1; number <= count; number++) {
      const peer = await MemberPeer.create(number, { seed })
      cluster.peers.push(peer)
      cluster.up.add(peer)
    }
    const entries = cluster.peers.map(({ peerId, bootId }) => ({ peer: peerId, boot: bootId }))
    for (let group = 0; group < SHAPE.groups; group++) {
      cluster.#put(group, {
        members: entries.map(({ peer }) => peer),
        inSync: entries,
        syncing: []
      })
    }
    return cluster
  }

  get writerEpoch(): number {
    return this.families[0]?.writerEpoch ?? 0
  }

  readonly groups = {
    read: async (_pool: number, group: number): Promise<KnownGroup | null> => {
      await Promise.resolve()
      return this.records[group] ?? null
    },
    change: async (
      _pool: number,
      group: number,
      from: KnownGroup | null,
      record: Pick<GroupRecord, 'members' | 'inSync' | 'syncing'>,
      guards: readonly Compare[] = []
    ): Promise<KnownGroup | null> => {
      await Promise.resolve()
      if (this.records[group] !== from) return null
      for (const guard of guards) {
        if ('modRevision' in guard && guard.modRevision !== this.writerEpoch) return null
      }
      return this.#put(group, record)
    }
  }

  #put(group: number, record: Pick<GroupRecord, 'members' | 'inSync' | 'syncing'>): KnownGroup {
    const { members, inSync, syncing } = record
    const epoch = (this.records[group]?.record.epoch ?? 0) + 1
    const known: KnownGroup = {
      record: { v: 1, epoch, members, inSync, syncing },
      modRevision: this.#revision++
    }
    this.records[group] = known
    return known
  }

  peerOf(peerId: string): MemberPeer {
    return this.peers.find((peer) => peer.peerId === peerId)!
  }

  runs = (peerId: string, bootId: string): boolean => {
    const peer = this.peerOf(peerId)
    return this.up.has(peer) && peer.bootId === bootId
  }

  membersFor(asker: MemberPeer): Members {
    const known = new Map<string, RemoteMember>()
    return {
      find: (peerId) => {
        const peer = this.peerOf(peerId)
        if (!this.up.has(peer)) return null
        if (peer === asker) return peer.member
        const old = known.get(peerId)
        if (old !== undefined && !old.isLost && old.bootId === peer.bootId) return old
        const member = new RemoteMember(asker, peer)
        member.cut = (what) => !this.up.has(peer) || this.cut(what, peer)
        known.set(peerId, member)
        return member
      },
      onChange: () => {}
    }
  }

  resyncerOf(peer: MemberPeer): Resyncer {
    const resyncer = new Resyncer({ ...this.#partsOf(peer), bytesPerSecond: 1e9 })
    this.resyncers.push(resyncer)
    return resyncer
  }

  /** Compares once when forced; its pauses take a thousandth of the time. */
  scrubOf(peer: MemberPeer): GroupScrub {
    const scrub = new GroupScrub({
      ...this.#partsOf(peer),
      timers: { start: (delayMs, run) => timers.start(delayMs / 1000, run) },
      random: { u32: () => 2 ** 32 - 1 },
      periodMs: 3600_000
    })
    for (const [group, known] of this.records.entries()) scrub.learn(SHAPE, group, known!.record)
    this.scrubs.push(scrub)
    return scrub
  }

  #partsOf(peer: MemberPeer) {
    return {
      self: { peerId: peer.peerId, bootId: peer.bootId },
      service: peer.service,
      store: peer.store,
      arena: peer.arena,
      members: this.membersFor(peer),
      groups: this.groups,
      families: {
        applyDeletions: async () => {
          await Promise.resolve()
          this.deletions++
        },
        list: () => {
          const { writerEpoch } = this
          const unchanged = { ...UNCHANGED, modRevision: writerEpoch }
          return Promise.resolve(this.families.map((family) => ({ ...family, unchanged })))
        }
      },
      isPresentBoot: () => false,
      clock: systemClock,
      timers,
      log: (_level: string, message: string, fields: object) => {
        this.log.push({ message, fields: { ...fields } })
      }
    }
  }

  /** Resolves when the scrub has compared, or tried to, all groups that are the peer's. */
  async compare(scrub: GroupScrub): Promise<void> {
    scrub.force()
    const endMs = Date.now() + 20_000
    while (scrub.progress.groupsLeft > 0) {
      strict(Date.now() < endMs, `comparing takes too long: ${JSON.stringify(this.log.slice(-3))}`)
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
    scrub.close()
  }

  /** Dies; the gateway takes it out of all groups where others are left. */
  kill(peer: MemberPeer, power = true): void {
    peer.die(power)
    this.up.delete(peer)
    for (const [group, known] of this.records.entries()) {
      const others = known!.record.inSync.filter((entry) => entry.peer !== peer.peerId)
      const syncing = known!.record.syncing.filter((entry) => entry.peer !== peer.peerId)
      if (others.length > 0) this.#put(group, { ...known!.record, inSync: others, syncing })
    }
  }

  /** Boots, and is listed as syncing wherever it is a member and not in sync. */
  async start(peer: MemberPeer): Promise<void> {
    await peer.boot()
    this.up.add(peer)
    const self = {
      peerId: peer.peerId,
      bootId: peer.bootId,
      cleanPredecessor: null,
      counterFollows: true
    }
    for (let group = 0; group < SHAPE.groups; group++) {
      const { known } = await settleAtStart(this.groups, { pool: 1, group }, self, this.runs)
      const { record } = known!
      const isListed = [...record.inSync, ...record.syncing].some((e) => e.peer === peer.peerId)
      if (isListed) continue
      const present = { peer: peer.peerId, boot: peer.bootId }
      this.#put(group, { ...record, syncing: [...record.syncing, present] })
    }
  }

  /** Resolves when the peer is in sync everywhere. */
  async resync(peer: MemberPeer, resyncer = this.resyncerOf(peer)): Promise<Resyncer> {
    for (let group = 0; group < SHAPE.groups; group++) resyncer.want(SHAPE, group)
    const endMs = Date.now() + 20_000
    while (resyncer.progress.groupsLeft > 0) {
      strict(Date.now() < endMs, `resync takes too long: ${JSON.stringify(this.log.slice(-3))}`)
      await new Promise((resolve) => setImmediate(resolve))
    }
    return resyncer
  }

  isInSync(peer: MemberPeer): boolean {
    return this.records.every((known) =>
      known!.record.inSync.some((e) => e.peer === peer.peerId && e.boot === peer.bootId)
    )
  }

  /**
   * What a gateway does with a change: to all members of the group that are up, or to `only` one
   * of them.
   */
  async change(
    kind: number,
    where: { chunk: number; firstBlock: number; blockCount: number },
    value = 0,
    only: MemberPeer | null = null
  ): Promise<void> {
    const group = groupOfChunk(0, 1, where.chunk, SHAPE.groups)
    const { record } = this.records[group]!
    const sequence = ++this.#sequence
    const entries = [...record.inSync, ...record.syncing]
    const targets = entries.filter((e) => this.runs(e.peer, e.boot)).map((e) => this.peerOf(e.peer))
    const answers = await Promise.all(
      targets
        .filter((peer) => only === null || peer === only)
        .map((peer) =>
          peer.run(
            kind,
            {
              ...where,
              pool: 1,
              group,
              groupEpoch: record.epoch,
              fenceEpoch: this.writerEpoch,
              writerEpoch: this.writerEpoch,
              sequence,
              keySlot: this.isSealed ? peer.keySlot : 0,
              flags: OpFlag.KeepHole | (kind === OpKind.WriteZeroes ? OpFlag.NoHole : 0)
            },
            value
          )
        )
    )
    for (const { error } of answers) strict.equal(error, 0, 'a member takes the change')
  }

  /** What a peer holds in a chunk, by block: kind and version, '' for nothing. */
  async held(peer: MemberPeer, chunk: number, layer = LAYER): Promise<string[]> {
    const request = { call: 'versions', family: FAMILY, layer, chunk } as const
    const { data } = await peer.member.call(request)
    const blocks = new Array<string>(CHUNK_BLOCKS).fill('')
    for (const run of decodeHeld(data, 0, data.length / 24)) {
      blocks.fill(textOf(run), run.firstBlock, run.firstBlock + run.blockCount)
    }
    return blocks
  }

  /** First byte of each block of a range at a peer, read as its own. */
  async values(peer: MemberPeer, chunk: number, first: number, count: number): Promise<number[]> {
    const fields = { chunk, firstBlock: first, blockCount: count, groupEpoch: 99_999 }
    const op = Object.assign(new BlockOp(), { ...fields, kind: OpKind.Read })
    op.familyLow = 1
    op.layerLow = 7
    op.payload = peer.arena.acquire(count)
    op.keySlot = this.isSealed ? peer.keySlot : 0
    await new Promise<void>((resolve) => {
      op.onDone = () => resolve()
      peer.store.submit(op)
      peer.store.ring()
    })
    strict.equal(op.error, 0)
    const values = Array.from({ length: count }, (_, i) => peer.arena.bytes[op.payload + i * 4096]!)
    peer.arena.release(op.payload)
    return values
  }
}

const textOf = ({ kind, writerEpoch, sequence }: HeldRun): string =>
  `${kind === 1 ? 'd' : kind === 2 ? 'z' : 'h'}${writerEpoch}.${sequence}`
