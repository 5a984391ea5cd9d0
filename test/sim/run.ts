/** One seed: a cluster under load and faults, then quiet, then everything must be right again. */
import { SimCluster, type SimOptions } from './cluster.ts'
import type { ShardMemberService } from '../../src/replication/shard-member-service.ts'
import { damageIsMended } from './damage.ts'
import { Faults } from './faults.ts'
import { heldByMembers } from './held.ts'
import { Mover } from './mover.ts'
import { TTL_MS } from './peer.ts'
import { loseMetadata } from './restore.ts'
import { Splitter } from './splitter.ts'
import type { View } from './block-model.ts'
import { CHUNK_BLOCKS_USED, CHUNKS, type Session, type SimVolume } from './volume.ts'

/** Reads of each volume at the end. */
const QUIET_READS = 30
/** So long after all is well copies that are not wanted may be there. */
const LEAKS_MS = 120_000
/** Rounds of the controller, and a resync. */
const SETTLED_MS = 5000
/** Longer than any process is stopped. */
const STOPPED_MS = 15_000

export interface RunReport {
  readonly seed: number
  readonly events: number
  readonly acknowledged: number
  readonly reads: number
  /** Chunks of which it was found that there is nothing. */
  readonly absent: number
  readonly opens: number
  readonly faults: number
  /** Damaged blocks that a scrub got back from others. */
  readonly mended: number
  /** Groups that waited for an operator after a restore: the run ends there. */
  readonly behind: number
  readonly trace: readonly string[]
}

export interface RunOptions {
  readonly seed: number
  /** Simulated time under faults. */
  readonly faultyMs?: number
  readonly faults?: boolean
  /** Shards are the real engine; models by default. */
  readonly engine?: boolean
  /** Groups move between peers all the time. */
  readonly moves?: boolean
  /** Groups are split again and again. */
  readonly splits?: boolean
  /** Volumes have snapshots, go back to them, and are cloned. With the real engine. */
  readonly layers?: boolean
  /** Shards are read, and members compared, again and again; at the end a disk is damaged. */
  readonly scrub?: boolean
  /** Gateways ask where there is anything at all; with the real engine. */
  readonly finds?: boolean
  /** At the end all peers lose power, and the metadata is restored from a copy of some time ago. */
  readonly restore?: boolean
}

export class SimFailure extends Error {
  readonly trace: readonly string[]
  constructor(seed: number, cause: unknown, trace: readonly string[], groups: string) {
    super(`SEED=${seed}: ${(cause as Error).message}\n${groups}`, { cause })
    this.trace = trace
  }
}

function optionsOf(options: RunOptions): SimOptions {
  const { seed, engine = false, moves = false, layers = false } = options
  // Small and different: two copies or three, spare peers or none.
  const copies = 2 + (seed % 2)
  return {
    seed,
    peers: copies + (Math.floor(seed / 2) % (moves ? 2 : 3)) + (moves ? 1 : 0),
    copies,
    writeMinimum: Math.ceil(copies / 2),
    volumes: 1 + (Math.floor(seed / 4) % 2),
    groups: 2,
    engine,
    sealed: engine && seed % 2 === 0,
    moves,
    layers: layers && engine,
    scrub: options.scrub === true,
    splits: options.splits === true,
    finds: options.finds === true && engine,
    downAfterMs: 1500 + (seed % 5) * 1500,
    lateOneIn: seed % 3 === 0 ? 50 : 2000
  }
}

export async function runSeed(options: RunOptions): Promise<RunReport> {
  const { seed, faultyMs = 8000, faults: wantsFaults = true } = options
  const sim = new SimCluster(optionsOf(options))
  const { world } = sim
  const faults = new Faults(sim, options.restore !== true)
  const mover = new Mover(sim)
  const splitter = new Splitter(sim)
  try {
    await sim.start()
    moveClients(sim)
    await world.runUntil(world.nowMs + 300)
    if (wantsFaults) faults.begin()
    if (sim.options.moves) mover.begin()
    if (sim.options.splits === true) splitter.begin()
    await world.runUntil(world.nowMs + faultyMs)
    const behind = options.restore === true ? await loseMetadata(sim) : 0
    faults.end()
    mover.end()
    splitter.end()
    if (behind === 0) await quiet(sim, faults)
    const mended = options.scrub === true ? await damageIsMended(sim) : 0
    return {
      seed,
      events: world.events,
      acknowledged: sum(sim.volumes.map(({ acknowledged }) => acknowledged)),
      reads: sum(sim.volumes.map(({ reads }) => reads)),
      absent: sum(sim.volumes.map(({ absent }) => absent)),
      opens: sum(sim.volumes.map(({ opens }) => opens)),
      faults: faults.count,
      mended,
      behind,
      trace: world.trace
    }
  } catch (thrown) {
    throw new SimFailure(seed, thrown, world.trace, `${sim.describeGroups()}\n${gateways(sim)}`)
  } finally {
    sim.close()
  }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((all, one) => all + one, 0)

/** Clients find another gateway when theirs is gone, and sometimes move for no reason. */
function moveClients(sim: SimCluster): void {
  const { world } = sim
  const look = (): void => {
    for (const volume of sim.volumes) {
      const open = volume.live
      const peer = sim.peers[world.random.below(sim.peers.length)]!
      if (open.length === 0) {
        if (peer.boot !== null) volume.open(peer.boot, world.chance(3))
      } else if (!volume.isQuiet && world.chance(40)) {
        if (world.chance(2)) volume.release(open[0]!)
        else if (peer.boot !== null) volume.open(peer.boot, true)
      }
    }
    world.after(world.between(20, 120), look)
  }
  look()
}

/** Every group has all its copies, on members that run. */
function isWhole(sim: SimCluster): boolean {
  const { copies } = sim.options
  if (sim.pool.splitting !== undefined) return false
  // Halves have to find their places yet.
  if (sim.options.splits === true && sim.world.nowMs - sim.groupsChangedMs < SETTLED_MS)
    return false
  return [...sim.groups().values()].every(({ members, inSync, syncing }) => {
    const isFull = inSync.length === copies && members.length === copies && syncing.length === 0
    return isFull && inSync.every((entry) => sim.runs(entry))
  })
}

/** What whoever looks after a cluster does at last. */
function operate(sim: SimCluster, isLate: boolean): void {
  const { world, peers } = sim
  for (const peer of peers) {
    // A group has nothing good but what it has, or waits for it below its write minimum: the
    // disk goes into another machine.
    const isBad = (id: string): boolean => [...sim.flipped].some(({ peerId }) => peerId === id)
    const isLast = [...sim.groups().values()].some(
      ({ inSync }) =>
        inSync.some((entry) => entry.peer === peer.peerId) &&
        (isLate || inSync.every((entry) => entry.peer === peer.peerId || isBad(entry.peer)))
    )
    const isNeeded = isLast || peers.filter(({ isGone }) => !isGone).length < sim.options.copies
    if (peer.isGone && isNeeded) {
      world.log(`${peer.name} is brought back`)
      peer.isGone = false
    }
    // A shard that could not write down something takes no more until the next start.
    if (isLate && peer.boot !== null && peer.disk.isBroken && !peer.disk.isFailing) {
      peer.crash(false)
    }
    const right = sim.reverted.get(peer)
    if (peer.boot?.isDistrusted === true && right !== undefined) {
      world.log(`the right disk of ${peer.name} is put back`)
      peer.crash(false)
      peer.disk.revert({ ...right, bootCounter: peer.disk.bootCounter })
      sim.reverted.delete(peer)
    }
    peer.start()
  }
}

function readView(volume: SimVolume, session: Session, view: View): void {
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    volume.read(session, { chunk, first: 0, count: CHUNK_BLOCKS_USED }, view)
  }
}

function readAll(volume: SimVolume): void {
  const session = volume.live.find(({ inFlight }) => inFlight < 50)
  if (session === undefined) return
  for (let chunk = 0; chunk < CHUNKS; chunk++) {
    for (let first = 0; first < CHUNK_BLOCKS_USED; first++) {
      volume.read(session, { chunk, first, count: 1 })
    }
  }
  session.boot.store!.ring()
}

/** All works again and clients rest: everything must be whole. */
async function quiet(sim: SimCluster, faults: Faults): Promise<void> {
  const { world } = sim
  for (const peer of sim.peers) peer.start()
  const endMs = world.nowMs + 300_000
  let healed = world.nowMs
  while (faults.pending > 0 || !isWhole(sim)) {
    if (world.nowMs > endMs) throw new Error('groups are whole again: not within 300 s')
    operate(sim, endMs - world.nowMs < 270_000)
    // What is bad everywhere is written anew by who reads it.
    if (sim.flipped.size > 0 && world.nowMs - healed > 2000) {
      healed = world.nowMs
      for (const volume of sim.volumes) readAll(volume)
    }
    await world.runUntil(world.nowMs + 100)
  }
  for (const volume of sim.volumes) volume.isQuiet = true
  // A gateway that slept finds out what became of its lease.
  await world.runUntil(world.nowMs + TTL_MS)
  for (const volume of sim.volumes) {
    const wanted = volume.reads + QUIET_READS
    let asked = -Infinity
    await world.runFor(60_000, 'clients are served', () => {
      const session = volume.live.find(({ inFlight }) => inFlight === 0)
      if (session !== undefined && world.nowMs - asked > 500) {
        asked = world.nowMs
        for (let i = 0; i < QUIET_READS; i++) volume.read(session)
        for (const view of volume.history.snapshots) readView(volume, session, view)
        session.boot.store!.ring()
      }
      return volume.reads >= wanted
    })
  }
  await compareMembers(sim)
  await findLeaks(sim)
}

/** What groups have elsewhere takes no space here. */
async function findLeaks(sim: SimCluster): Promise<void> {
  const { world } = sim
  const endMs = world.nowMs + LEAKS_MS
  for (const peer of sim.peers) {
    const { peerId, name } = peer
    for (;;) {
      // A gateway may still find out that a member was away.
      const others = [...sim.groups()].filter(([, { members, inSync, syncing }]) => {
        const isPresent = [...inSync, ...syncing].some(({ peer }) => peer === peerId)
        return !isPresent && !members.includes(peerId)
      })
      const wanted = new Set(others.map(([group]) => group))
      // One that starts tells them later.
      const service = peer.boot?.service ?? null
      if (peer.boot === null) break
      const chunks = service === null ? Promise.resolve(1) : chunksOf(service, sim, wanted)
      const count = await world.until(STOPPED_MS, `${name} tells its chunks`, chunks)
      if (count === 0) break
      if (world.nowMs > endMs) throw new Error(`${name} keeps ${count} chunks that nobody wants`)
      await world.runUntil(world.nowMs + 500)
    }
  }
}

async function chunksOf(
  { questions }: ShardMemberService,
  { pool }: SimCluster,
  wanted: ReadonlySet<number>
): Promise<number> {
  let chunks = 0
  await questions.listChunks(pool.groups, wanted, () => chunks++)
  return chunks
}

/** Members in sync hold the same bytes under the same versions. */
async function compareMembers(sim: SimCluster): Promise<void> {
  await heldByMembers(sim, (group, held) => {
    for (const key of new Set(held.flatMap((each) => [...each.keys()]))) {
      const good = held.filter((each) => each.get(key) !== null)
      const [first = new Map()] = good
      if (good.every((each) => each.get(key) === first.get(key))) continue
      const all = held.map((each) => each.get(key)).join(', ')
      throw new Error(`members in sync differ in group ${group}, block ${key}: ${all}`)
    }
  })
}

/** How gateways stand, for who looks into a failure. */
function gateways(sim: SimCluster): string {
  const lines: string[] = []
  for (const { name, boot } of sim.peers) {
    if (boot === null || boot.store === null) continue
    const { store } = boot
    lines.push(`${name}: ${store.pendings.count} pending, trusted ${store.isTrusted}`)
    for (const family of store.families()) {
      const { id, writerEpoch, isClosed, isRetaken, unsettled, pending } = family
      const so = `closed ${isClosed}, retaken ${isRetaken}, unsettled ${[...unsettled].join(' ')}`
      lines.push(`  ${id} epoch ${writerEpoch}, ${so}, ${pending} pending`)
    }
    for (const group of store.allGroups()) {
      const { epoch, isReady, isTroubled, isTreated, isStale, failed } = group
      const so = `ready ${isReady}, troubled ${isTroubled}, treated ${isTreated}, stale ${isStale}`
      const behind = store.isBehind(group)
      const down = group.targets.filter(({ member }) => member === null).length
      lines.push(
        `  group ${group.name}: epoch ${epoch}, ${so}, behind ${behind}, ` +
          `failed ${failed.size}, down ${down} of ${group.targets.length}`
      )
    }
  }
  return lines.join('\n')
}
