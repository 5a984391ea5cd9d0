/** R41 to R45: groups become two while they are used. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { GroupRecords } from '../../src/cluster/groups.ts'
import { Writers } from '../../src/cluster/writers.ts'
import { OpKind } from '../../src/replication/block-store.ts'
import { setState } from './mover.ts'
import { QuietCluster, REQUESTS } from './quiet.ts'
import type { SimPeer } from './peer.ts'
import { change, every, isIn, LIMIT_MS, readAll } from './scenario.ts'
import { split } from './splitter.ts'

const isSplit = (sim: QuietCluster, groups: number): boolean =>
  sim.pool.groups === groups && sim.pool.splitting === undefined

async function splitInto(sim: QuietCluster, groups: number, asked: SimPeer): Promise<void> {
  split(sim, groups / sim.pool.groups, asked)
  await sim.world.runFor(LIMIT_MS, 'groups are split', () => isSplit(sim, groups))
}

/** Who is elected first. */
async function byOffice(sim: QuietCluster): Promise<[SimPeer, SimPeer, SimPeer]> {
  const elected = (): string | null => sim.peers[0]!.boot!.serving!.controller.elected
  await sim.world.runFor(LIMIT_MS, 'one is elected', () => elected() !== null)
  const all = [...sim.peers].sort(({ peerId }) => (peerId === elected() ? -1 : 1))
  return all as [SimPeer, SimPeer, SimPeer]
}

/** As a controller does it, while there is none. */
async function splitBy(sim: QuietCluster, asked: SimPeer): Promise<GroupRecords> {
  const { world } = sim
  const records = new GroupRecords(asked.boot!.serving!.cluster)
  const { number, groups } = sim.pool
  split(sim, 2, asked)
  for (const [group, known] of await world.until(LIMIT_MS, 'read', records.readAll(number))) {
    await world.until(LIMIT_MS, 'split', records.split(number, group, known, groups, []))
  }
  return records
}

test('a client goes on while its groups are split again and again', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { volume, session } = await sim.open()
  for (const groups of [4, 8, 32]) {
    split(sim, groups / sim.pool.groups)
    await sim.world.runFor(LIMIT_MS, 'groups are split', () => {
      if (session.inFlight < 4) sim.ask(volume, session)
      return isSplit(sim, groups)
    })
    await sim.ended(session, LIMIT_MS)
    volume.flush(session)
    await sim.ended(session, LIMIT_MS)
    await readAll(sim, volume, session)
  }
  ok(!session.isOver && volume.opens === 1, 'nobody had to open it again')
  const splits = [...sim.groups().values()].map((record) => record.split?.groups)
  ok(splits.length === 32 && splits.every((groups) => groups === 32), splits.join())
  const again = await sim.openAt(1, volume)
  await readAll(sim, volume, again)
})

/** The groups that have chunks and are the upper halves of what they came from. */
const usedHalves = (sim: QuietCluster, groups: number): number[] => {
  const used = [...sim.volumes[0]!.blocks.keys()].map((block) => sim.volumes[0]!.groupOf(block))
  return [...new Set(used)].filter((group) => group >= groups / 2)
}

test('R42: what is sent under an old record reaches nobody a half was copied from', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2, ttlMs: 20_000 })
  await sim.start()
  const { world, network } = sim
  const [gateway, old, other] = await byOffice(sim)
  setState(sim, other, 'drained')
  const volume = sim.volumes[0]!
  const session = await sim.openAt(sim.peers.indexOf(gateway), volume)
  change(volume, session, OpKind.Write)
  volume.flush(session)
  await sim.ended(session, LIMIT_MS)
  await every(sim, 'two have it', (record) => isIn(record, gateway) && isIn(record, old))
  // The gateway hears nothing of what follows, and as controller it does nothing.
  network.cut(gateway.name, 'metadata')
  network.cut('metadata', gateway.name)
  const records = await splitBy(sim, old)
  const halves = usedHalves(sim, 4)
  ok(halves.length > 0, 'a half has something')
  // Only these move: what becomes of the lower ones tells nobody anything.
  for (const group of halves) {
    const listed = (await world.until(LIMIT_MS, 'read', records.read(0, group)))!
    const { members } = listed.record
    const entry = { peer: other.peerId, boot: other.boot!.bootId }
    const wanted = { ...listed.record, members: [...members, entry.peer], syncing: [entry] }
    await world.until(LIMIT_MS, 'listed', records.change(0, group, listed, wanted))
    await world.runFor(LIMIT_MS, 'it has it', () => isIn(sim.groups().get(group)!, other))
    const known = (await world.until(LIMIT_MS, 'read', records.read(0, group)))!
    const inSync = known.record.inSync.filter(({ peer }) => peer !== old.peerId)
    const left = { members: inSync.map(({ peer }) => peer), inSync, syncing: [] }
    await world.until(LIMIT_MS, 'left', records.change(0, group, known, left))
  }
  change(volume, session, OpKind.Write)
  session.boot.store!.ring()
  await world.runUntil(world.nowMs + 2000)
  gateway.crash(false)
  gateway.isGone = true
  const next = await sim.openAt(sim.peers.indexOf(other), volume)
  await readAll(sim, volume, next)
})

test('R43: a gateway that takes over finds halves of which it knew the whole', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { volume, session } = await sim.open()
  const { world } = sim
  const [left, , other] = sim.peers as [SimPeer, SimPeer, SimPeer]
  // Each of them has used the pool as it was.
  for (const at of [1, 2, 0]) await sim.openAt(at, volume)
  const again = volume.live.find(({ boot }) => boot === left.boot)!
  await splitInto(sim, 8, other)
  for (let i = 0; i < REQUESTS; i++) volume.write(again, OpKind.Write)
  await sim.ended(again, LIMIT_MS)
  left.crash(true)
  await readAll(sim, volume, await sim.openAt(2, volume))
  left.start()
  await every(sim, 'all are back', ({ inSync }) => inSync.length === 2)
  await world.runUntil(world.nowMs + 500)
  await readAll(sim, volume, await sim.openAt(1, volume))
  ok(session.isOver)
})

test('R43: halves that come while a takeover is noted are served', async () => {
  const sim = new QuietCluster({ peers: 3, copies: 2 })
  const { volume } = await sim.open()
  const { world } = sim
  const { settle } = Writers.prototype
  let splits = 0
  Writers.prototype.settle = async function (...args) {
    if (splits++ === 0) {
      split(sim, 2)
      await new Promise<void>((resolve) => {
        const look = (): void => void world.after(100, () => (isSplit(sim, 4) ? resolve() : look()))
        look()
      })
    }
    await settle.apply(this, args)
  }
  sim.peers[0]!.crash(false)
  try {
    const session = await sim.openAt(1, volume)
    strictEqual(splits, 1)
    ok(usedHalves(sim, 4).length > 0, 'a half has something')
    await readAll(sim, volume, session)
    volume.flush(session)
    await sim.ended(session, LIMIT_MS)
  } finally {
    Writers.prototype.settle = settle
  }
})

/** p1 starts anew, and so long after each of the groups that list it is split. */
async function splitAtStart(delayMs: number): Promise<void> {
  const sim = new QuietCluster({ peers: 2, copies: 2 })
  await sim.open()
  const { world } = sim
  const [there, back] = sim.peers as [SimPeer, SimPeer]
  back.crash(true)
  back.start()
  await world.runUntil(world.nowMs + delayMs)
  await splitBy(sim, there)
  await every(sim, 'p1 is in under its present start', (record) => {
    const entries = [...record.inSync, ...record.syncing]
    const entry = entries.find(({ peer }) => peer === back.peerId)
    return entry === undefined || entry.boot === back.boot?.bootId
  })
  strictEqual(sim.errors.length, 0)
}

test('R45: a peer that starts meanwhile puts its present start in both halves', async () => {
  for (let delayMs = 0; delayMs < 8; delayMs += 0.5) await splitAtStart(delayMs)
})

test.run()
