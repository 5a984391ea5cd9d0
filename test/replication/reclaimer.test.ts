/** A peer gives back what groups want no more, and nothing else. */
import { deepStrictEqual, ok } from 'node:assert/strict'
import { setTimeout as pause } from 'node:timers/promises'
import { suite } from 'uvu'
import { type Clock, systemClock, type Timers } from '../../src/core/clock.ts'
import { splitRecord } from '../../src/cluster/group-shape.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { groupOfChunk } from '../../src/placement/hash.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import type { Member } from '../../src/replication/member.ts'
import { giveBackRule } from '../../src/replication/reclaim-rules.ts'
import { Reclaimer } from '../../src/replication/reclaimer.ts'
import { FAMILY, MemberCluster, SHAPE } from '../helpers/member-cluster.ts'
import type { MemberPeer } from '../helpers/member-peer.ts'

const test = suite('reclaimer')

const CHUNKS = 6
const BLOCKS = 40
/** Time goes faster than on a real clock. */
const FASTER = 100
const clock: Clock = {
  monotonicMs: () => systemClock.monotonicMs() * FASTER,
  wallMs: () => systemClock.wallMs()
}
const timers: Timers = {
  start: (delayMs, run) => {
    const timer = setTimeout(run, delayMs / FASTER)
    return () => clearTimeout(timer)
  }
}

/** Three have all of it; two copies are wanted. */
class Site {
  readonly cluster: MemberCluster
  readonly peers: readonly [MemberPeer, MemberPeer, MemberPeer]
  readonly reclaimer: Reclaimer
  readonly #members: ReturnType<MemberCluster['membersFor']>

  private constructor(cluster: MemberCluster) {
    this.cluster = cluster
    this.peers = cluster.peers as unknown as [MemberPeer, MemberPeer, MemberPeer]
    const [, , leaving] = this.peers
    this.#members = cluster.membersFor(leaving)
    const parts = { self: leaving, members: this.#members, isPresentBoot: () => false }
    this.reclaimer = new Reclaimer({
      rule: giveBackRule(parts, () => 2),
      service: leaving.service,
      store: leaving.store,
      members: this.#members,
      groups: cluster.groups,
      families: { list: () => Promise.resolve(cluster.families) },
      clock,
      timers,
      log: () => {}
    })
  }

  static async create(): Promise<Site> {
    const site = new Site(await MemberCluster.create(3))
    for (let chunk = 0; chunk < CHUNKS; chunk++) await site.write(chunk, chunk + 1)
    return site
  }

  write(chunk: number, value: number): Promise<void> {
    const where = { chunk, firstBlock: 0, blockCount: BLOCKS }
    return this.cluster.change(OpKind.Write, where, value)
  }

  linkTo(peer: MemberPeer): Member {
    return this.#members.find(peer.peerId)!
  }

  entriesOf(...peers: MemberPeer[]): { peer: string; boot: string }[] {
    return peers.map(({ peerId, bootId }) => ({ peer: peerId, boot: bootId }))
  }

  /** Every group is what `change` makes of two members in sync, and the third is told. */
  async put(
    change: (record: Parameters<MemberCluster['groups']['change']>[3]) => object = () => ({})
  ): Promise<void> {
    const [one, other] = this.peers
    const inSync = this.entriesOf(one, other)
    const record = { members: inSync.map(({ peer }) => peer), inSync, syncing: [] }
    for (let group = 0; group < SHAPE.groups; group++) {
      const from = this.cluster.records[group]!
      const next = { ...record, ...change(record) }
      const known = await this.cluster.groups.change(1, group, from, next)
      this.reclaimer.learn(SHAPE, group, known!.record)
    }
  }

  async chunksOf(peer: MemberPeer): Promise<number> {
    let count = 0
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      const held = await this.cluster.held(peer, chunk)
      if (held.some((text) => text !== '')) count++
    }
    return count
  }

  async done(): Promise<void> {
    const endMs = Date.now() + 5000
    while ((await this.chunksOf(this.peers[2])) > 0) {
      ok(Date.now() < endMs, 'nothing is given back')
      await pause(5)
    }
  }
}

/** Longer than all waits of a reclaimer that may begin. */
const idle = (): Promise<void> => pause(5000 / FASTER + 150)

test('what is wanted elsewhere goes, for good, once the members have it on disk', async () => {
  const site = await Site.create()
  const [one, other, leaving] = site.peers
  await leaving.flush()
  await site.put()
  await site.done()
  for (const peer of site.peers) peer.die(true)
  for (const peer of site.peers) await peer.boot()
  deepStrictEqual(await site.chunksOf(leaving), 0, 'R29')
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    for (const peer of [one, other]) {
      const values = await site.cluster.values(peer, chunk, 0, BLOCKS)
      deepStrictEqual(new Set(values), new Set([chunk + 1]), 'R27: flushed before')
    }
  }
})

test('nothing goes while the others are not whole, or not there', async () => {
  const cases: Record<string, (site: Site) => Promise<void>> = {
    'one is brought up to date': (site) =>
      site.put(() => ({ syncing: site.entriesOf(site.peers[1]) })),
    'one is wanted and not in sync': (site) =>
      site.put(() => ({ inSync: site.entriesOf(site.peers[0]) })),
    'there are too few': (site) => {
      const inSync = site.entriesOf(site.peers[0])
      return site.put(() => ({ members: inSync.map(({ peer }) => peer), inSync }))
    },
    'one is in sync under another boot': (site) =>
      site.put(({ inSync }) => ({ inSync: [inSync[0]!, { ...inSync[1]!, boot: 'older' }] })),
    'one is away': (site) => {
      site.cluster.up.delete(site.peers[1])
      return site.put()
    },
    'one cannot flush': (site) => {
      site.linkTo(site.peers[1]).flush = (done) => done(ErrorCode.DiskFailure)
      return site.put()
    },
    'its link is lost behind the flush': (site) => {
      const link = site.linkTo(site.peers[1])
      link.flush = (done) => {
        site.cluster.up.delete(site.peers[1])
        done(0)
      }
      return site.put()
    },
    'it is the only one of a family that nobody knows': (site) => {
      site.cluster.families.length = 0
      return site.put()
    }
  }
  for (const [name, begin] of Object.entries(cases)) {
    const site = await Site.create()
    await begin(site)
    await idle()
    site.reclaimer.close()
    deepStrictEqual(await site.chunksOf(site.peers[2]), CHUNKS, name)
  }
})

test('R41: of groups that are split meanwhile only what the record is of goes', async () => {
  const site = await Site.create()
  const { records, groups } = site.cluster
  const read = groups.read
  // The upper halves want this peer, and nobody has told it so.
  groups.read = async (pool, group) => {
    const known = await read(pool, group)
    return known === null ? null : { ...known, record: splitRecord(known.record, SHAPE.groups) }
  }
  await site.put()
  await idle()
  site.reclaimer.close()
  const upper = (chunk: number): boolean => groupOfChunk(0, 1, chunk, 8) >= SHAPE.groups
  const left: number[] = []
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    const held = await site.cluster.held(site.peers[2], chunk)
    if (held.some((text) => text !== '')) left.push(chunk)
  }
  deepStrictEqual(left, Array.from({ length: CHUNKS }, (_, chunk) => chunk).filter(upper))
  ok(left.length > 0 && left.length < CHUNKS && records.length === SHAPE.groups, left.join())
})

test('who is listed again while the members flush keeps all, and what is written now', async () => {
  const site = await Site.create()
  const [one, , leaving] = site.peers
  const flush = one.member.flush.bind(one.member)
  let isBack: Promise<void> | null = null
  site.linkTo(one).flush = (done) => {
    // Nothing tells the reclaimer but the fence that the write raises.
    isBack ??= (async () => {
      for (const [group, known] of site.cluster.records.entries()) {
        const { record } = known!
        const syncing = site.entriesOf(leaving)
        const members = [...record.members, leaving.peerId]
        await site.cluster.groups.change(1, group, known, { ...record, members, syncing })
      }
      for (let chunk = 0; chunk < CHUNKS; chunk++) await site.write(chunk, 99)
    })()
    void isBack.then(() => flush(done))
  }
  await site.put()
  await idle()
  site.reclaimer.close()
  ok(isBack !== null, FAMILY)
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    const values = await site.cluster.values(leaving, chunk, 0, BLOCKS)
    deepStrictEqual(new Set(values), new Set([99]))
  }
})

test.run()
