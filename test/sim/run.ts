/** One seed: a cluster under load and faults, then quiet, then everything must be right again. */
import { SimCluster, type SimOptions } from './cluster.ts'
import { readBackup, writeBackup } from '../../src/cluster/metadata-copy.ts'
import type { GroupRecord } from '../../src/cluster/records.ts'
import { restoredBackup } from '../../src/cluster/restored.ts'
import { type SimPeer, TTL_MS } from './peer.ts'

/** Reads of each volume at the end. */
const QUIET_READS = 30
/** So long after all is well copies that are not wanted may be there. */
const LEAKS_MS = 120_000
/** Longer than any process is stopped. */
const STOPPED_MS = 15_000

export interface RunReport {
  readonly seed: number
  readonly events: number
  readonly acknowledged: number
  readonly reads: number
  readonly opens: number
  readonly faults: number
  /** Groups that waited for an operator after a restore: the run ends there. */
  readonly behind: number
  readonly trace: readonly string[]
}

export interface RunOptions {
  readonly seed: number
  /** Simulated time under faults. */
  readonly faultyMs?: number
  readonly faults?: boolean
  /** Members with the real engine, service and resync; models by default. */
  readonly engine?: boolean
  /** Groups move between peers all the time. */
  readonly moves?: boolean
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

function optionsOf({ seed, engine = false, moves = false }: RunOptions): SimOptions {
  // Small and different: two copies or three, spare peers or none.
  const copies = 2 + (seed % 2)
  return {
    seed,
    peers: copies + (Math.floor(seed / 2) % 2) + (moves ? 1 : 0),
    copies,
    writeMinimum: Math.ceil(copies / 2),
    volumes: 1 + (Math.floor(seed / 4) % 2),
    groups: 2,
    engine,
    sealed: engine && seed % 2 === 0,
    moves
  }
}

export async function runSeed(options: RunOptions): Promise<RunReport> {
  const { seed, faultyMs = 8000, faults: wantsFaults = true } = options
  const sim = new SimCluster(optionsOf(options))
  const { world } = sim
  const faults = new Faults(sim)
  try {
    await sim.start()
    moveClients(sim)
    await world.runUntil(world.nowMs + 300)
    if (wantsFaults) faults.begin()
    sim.isMoving = true
    await world.runUntil(world.nowMs + faultyMs)
    const behind = options.restore === true ? await loseMetadata(sim) : 0
    faults.end()
    sim.isMoving = false
    if (behind === 0) await quiet(sim)
    return {
      seed,
      events: world.events,
      acknowledged: sum(sim.volumes.map(({ acknowledged }) => acknowledged)),
      reads: sum(sim.volumes.map(({ reads }) => reads)),
      opens: sum(sim.volumes.map(({ opens }) => opens)),
      faults: faults.count,
      behind,
      trace: world.trace
    }
  } catch (thrown) {
    throw new SimFailure(seed, thrown, world.trace, `${sim.describeGroups()}\n${gateways(sim)}`)
  } finally {
    for (const { boot } of sim.peers) {
      boot?.process.kill()
      boot?.store?.close()
    }
  }
}

/** How old the copy is, at most. */
const COPY_AGE_MS = 4000
/** Long enough for a takeover that waits for a lease to end. */
const AWAY_MS = 3 * TTL_MS

/** Returns how many groups wait for an operator then. */
async function loseMetadata(sim: SimCluster): Promise<number> {
  const { world, keys, metadata, peers } = sim
  const copy = await world.until(5000, 'a copy', readBackup(metadata, keys, world.nowMs))
  const stale = peers[world.random.below(peers.length)]!
  if (world.chance(2)) stale.crash(true)
  await world.runUntil(world.nowMs + world.between(0, COPY_AGE_MS))
  sim.isHalted = true
  world.log('everything loses power, and the metadata is lost')
  for (const peer of peers) peer.crash(true)
  await world.runUntil(world.nowMs + 2 * TTL_MS)
  const restored = restoredBackup(copy, keys, world.nowMs)
  await world.until(5000, 'a restore', writeBackup(metadata, keys, restored, { force: true }))
  sim.isHalted = false
  sim.network.healAll()
  const isSaid = ({ restored: open }: GroupRecord): boolean => (open?.unproven ?? []).length === 0
  await world.runFor(30_000, 'all say what they remember', () => {
    for (const peer of peers) peer.start()
    return [...sim.groups().values()].every(isSaid)
  })
  // The others serve alone for a while: each has to be right, not just one of them.
  const away =
    peers[(peers.indexOf(stale) + 1 + world.random.below(peers.length - 1)) % peers.length]!
  away.crash(true)
  await world.runUntil(world.nowMs + AWAY_MS)
  away.start()
  return [...sim.groups().values()].filter(({ restored: open }) => open !== undefined).length
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

/** All works again and clients rest: everything must be whole. */
async function quiet(sim: SimCluster): Promise<void> {
  const { world } = sim
  sim.network.healAll()
  for (const peer of sim.peers) peer.start()
  await world.runFor(60_000, 'groups are whole again', () => {
    for (const peer of sim.peers) peer.start()
    const groups = [...sim.groups().values()]
    return groups.every(({ members, inSync, syncing }) => {
      const runs = inSync.every(({ peer, boot }) => sim.hostOf(peer)?.bootId === boot)
      return runs && inSync.length === members.length && syncing.length === 0
    })
  })
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
        session.boot.store!.ring()
      }
      return volume.reads >= wanted
    })
  }
  await compareMembers(sim)
  if (sim.options.engine) await findLeaks(sim)
}

/** What groups have elsewhere takes no space here. */
async function findLeaks(sim: SimCluster): Promise<void> {
  const { world } = sim
  const endMs = world.nowMs + LEAKS_MS
  for (const { peerId, name, engine } of sim.peers) {
    for (;;) {
      // A gateway may still find out that a member was away.
      const others = [...sim.groups()].filter(([, { members, inSync, syncing }]) => {
        const isPresent = [...inSync, ...syncing].some(({ peer }) => peer === peerId)
        return !isPresent && !members.includes(peerId)
      })
      const wanted = new Set(others.map(([group]) => group))
      const chunks = engine.chunksOf(sim.pool.groups, wanted)
      const count = await world.until(STOPPED_MS, `${name} tells its chunks`, chunks)
      if (count === 0) break
      if (world.nowMs > endMs) throw new Error(`${name} keeps ${count} chunks that nobody wants`)
      await world.runUntil(world.nowMs + 500)
    }
  }
}

/** Members in sync hold the same bytes under the same versions. */
async function compareMembers(sim: SimCluster): Promise<void> {
  for (const volume of sim.volumes) {
    for (const [group, { inSync, epoch }] of sim.groups()) {
      const held: string[] = []
      for (const { peer } of inSync) {
        const { boot } = sim.peers.find(({ peerId }) => peerId === peer)!
        const found = volume.heldBy(boot!, group, epoch)
        held.push(await sim.world.until(5000, 'a member tells what it holds', found))
      }
      if (held.some((each) => each !== held[0])) {
        throw new Error(`members in sync differ in group ${group}:\n${held.join('\n----\n')}`)
      }
    }
  }
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

class Faults {
  readonly #sim: SimCluster
  #running = false
  count = 0

  constructor(sim: SimCluster) {
    this.#sim = sim
  }

  begin(): void {
    this.#running = true
    this.#next()
  }

  end(): void {
    this.#running = false
  }

  #next(): void {
    const { world } = this.#sim
    world.after(world.between(50, 900), () => {
      if (!this.#running) return
      this.count++
      this.#one()
      this.#next()
    })
  }

  #one(): void {
    const { world, peers } = this.#sim
    const { random } = world
    const peer = peers[random.below(peers.length)]!
    const other = peers[random.below(peers.length)]!
    const faults: (() => void)[] = [
      () => this.#crash(peer, false),
      () => this.#crash(peer, true),
      () => {
        for (const each of world.chance(3) ? peers : [peer]) this.#crash(each, true)
      },
      () => this.#cut(peer.name, other.name, true),
      () => this.#cut(peer.name, other.name, false),
      () => this.#cut(peer.name, 'metadata', world.chance(2)),
      () => {
        for (const each of peers) if (each !== peer) this.#cut(peer.name, each.name, true)
        if (world.chance(2)) this.#cut(peer.name, 'metadata', true)
      },
      () => {
        world.log(`${peer.name} stops`)
        peer.boot?.process.stop(world.between(100, 5000))
      },
      () => peer.boot?.members.breakAll(),
      () => {
        world.log(`${peer.name} is slow`)
        this.#sim.network.slowMs.set(peer.name, world.between(1, 60))
        world.after(world.between(100, 2000), () => this.#sim.network.slowMs.delete(peer.name))
      }
    ]
    faults[random.below(faults.length)]!()
  }

  #crash(peer: SimPeer, power: boolean): void {
    const { world } = this.#sim
    peer.crash(power)
    world.after(world.between(10, 3000), () => peer.start())
  }

  #cut(from: string, to: string, both: boolean): void {
    if (from === to) return
    const { world, network } = this.#sim
    world.log(`cut ${from} > ${to}${both ? ' and back' : ''}`)
    network.cut(from, to)
    if (both) network.cut(to, from)
    world.after(world.between(50, 4000), () => {
      world.log(`healed ${from} > ${to}`)
      network.heal(from, to)
      if (both) network.heal(to, from)
    })
  }
}
