/** What happens to a simulated cluster, one thing after the other, drawn from the seed. */
import { ErrorCode } from '../../src/core/errors.ts'
import type { SimCluster } from './cluster.ts'
import type { SimPeer } from './peer.ts'

type Fault = (peer: SimPeer, other: SimPeer) => void

export class Faults {
  readonly #sim: SimCluster
  readonly #loses: boolean
  readonly #all: readonly Fault[]
  /** Disks as they were, for those that go back to that. */
  readonly #states = new Map<SimPeer, ReturnType<SimPeer['disk']['state']>>()
  #running = false
  count = 0
  /** Consequences that are still to come. */
  pending = 0

  /** `loses`: disks are lost as well, or go back to an older state. */
  constructor(sim: SimCluster, loses: boolean = true) {
    this.#sim = sim
    this.#loses = loses
    this.#all = [...this.#processes(), ...this.#network(), ...this.#clocks(), ...this.#disks()]
  }

  begin(): void {
    this.#running = true
    this.#next()
  }

  /** All works again, but for what only a client or an operator can mend. */
  end(): void {
    this.#running = false
    const { network, peers } = this.#sim
    network.healAll()
    for (const peer of peers) {
      const { disk } = peer
      if (disk.isBroken) this.#crash(peer, false)
      disk.slowness = 1
      disk.fillUp(false)
      disk.fail('nothing')
    }
  }

  /** What follows from a fault: nothing is quiet before. */
  #later(delayMs: number, run: () => void): void {
    this.pending++
    this.#sim.world.after(delayMs, () => {
      this.pending--
      run()
    })
  }

  #next(): void {
    const { world, peers } = this.#sim
    world.after(world.between(50, 900), () => {
      if (!this.#running) return
      this.count++
      const { random } = world
      const peer = peers[random.below(peers.length)]!
      const other = peers[random.below(peers.length)]!
      this.#all[random.below(this.#all.length)]!(peer, other)
      this.#next()
    })
  }

  #processes(): Fault[] {
    const { world, peers } = this.#sim
    return [
      (peer) => this.#crash(peer, false),
      (peer) => this.#crash(peer, true),
      (peer) => {
        for (const each of world.chance(3) ? peers : [peer]) this.#crash(each, true)
      },
      (peer) => this.#restart(peer),
      (peer) => this.#restart(peer),
      (peer) => {
        world.log(`${peer.name} stops`)
        peer.boot?.process.stop(world.between(100, 5000))
      },
      (peer) => this.#leaveForEver(peer)
    ]
  }

  #network(): Fault[] {
    const { world, peers, network, metadataProcess } = this.#sim
    return [
      (peer, other) => this.#cut(peer.name, other.name, true),
      (peer, other) => this.#cut(peer.name, other.name, false),
      (peer) => this.#cut(peer.name, 'metadata', world.chance(2)),
      (peer) => this.#cut('metadata', peer.name, false),
      (peer) => {
        for (const each of peers) if (each !== peer) this.#cut(peer.name, each.name, true)
        if (world.chance(2)) this.#cut(peer.name, 'metadata', true)
      },
      (peer) => peer.boot?.members.breakAll(),
      (peer) => {
        world.log(`${peer.name} is slow`)
        network.slowMs.set(peer.name, world.between(1, 60))
        world.after(world.between(100, 2000), () => network.slowMs.delete(peer.name))
      },
      () => {
        world.log('the metadata store stops')
        metadataProcess.stop(world.between(100, 6000))
      }
    ]
  }

  #clocks(): Fault[] {
    const { world } = this.#sim
    return [
      (peer) => {
        world.log(`the machine of ${peer.name} sleeps`)
        peer.boot?.process.sleep(world.between(100, 6000))
      },
      (peer) => {
        peer.wallShiftMs += world.between(-20_000, 20_000)
        world.log(`the clock of ${peer.name} is set, ${peer.wallShiftMs.toFixed(0)} ms off`)
        if (peer.boot !== null) peer.boot.process.wallShiftMs = peer.wallShiftMs
      }
    ]
  }

  #disks(): Fault[] {
    const { world, peers, flipped, options } = this.#sim
    return [
      (peer) => {
        peer.disk.slowness = 10 ** world.between(1, 4)
        world.log(`the disk of ${peer.name} is slow: ${peer.disk.slowness.toFixed(0)} times`)
        world.after(world.between(100, 3000), () => {
          peer.disk.slowness = 1
        })
      },
      (peer) => this.#fillUp(world.chance(4) ? peers : [peer]),
      (peer) => {
        world.log(`the disk of ${peer.name} fails writes`)
        peer.disk.fail('write')
        world.after(world.between(50, 1000), () => peer.disk.fail('nothing'))
      },
      (peer) => {
        world.log(`the disk of ${peer.name} fails to sync`)
        peer.disk.fail('sync')
        // Somebody sees that, and starts the peer again.
        world.after(world.between(50, 1000), () => peer.disk.fail('nothing'))
        this.#later(world.between(1000, 3000), () => this.#crash(peer, world.chance(2)))
      },
      // One bad disk in a cluster: what is bad everywhere is lost.
      (peer) => {
        // Nobody writes a snapshot anew: what is bad at the last that has it stays so.
        if (options.layers === true) return
        const [bad = peer] = flipped
        if (bad.disk.flipBits(true)) this.#sim.noteFlips(bad)
        world.log(`bits flip on the disk of ${bad.name}`)
      },
      (peer) => this.#revert(peer)
    ]
  }

  #crash(peer: SimPeer, power: boolean): void {
    const { world } = this.#sim
    peer.crash(power)
    this.#later(world.between(10, 3000), () => peer.start())
  }

  #restart(peer: SimPeer): void {
    const { world } = this.#sim
    void peer.stopCleanly()
    // One that takes too long is killed.
    const { boot } = peer
    this.#later(world.between(500, 4000), () => {
      if (peer.boot === boot) peer.crash(false)
      this.#later(world.between(10, 500), () => peer.start())
    })
  }

  #fillUp(full: readonly SimPeer[]): void {
    const { world } = this.#sim
    const ms = world.between(100, 2000)
    for (const { name, disk } of full) {
      world.log(`the disk of ${name} is full`)
      disk.fillUp(true)
      this.#later(ms, () => disk.fillUp(false))
    }
    // Where members are missing, one that is full may be all there is.
    this.#sim.allow(ErrorCode.OutOfSpace, ms + 12_000)
  }

  /** Others have all that it has, as far as it goes: in every group one that runs is in sync. */
  #isSpare(peer: SimPeer): boolean {
    for (const { inSync } of this.#sim.groups().values()) {
      const others = inSync.filter((entry) => entry.peer !== peer.peerId)
      const isIn = others.length < inSync.length
      if (isIn && !others.some((entry) => this.#sim.runs(entry))) return false
    }
    return true
  }

  #leaveForEver(peer: SimPeer): void {
    const { world, peers } = this.#sim
    if (
      !this.#loses ||
      peers.some(({ isGone }) => isGone) ||
      peer.boot === null ||
      !this.#isSpare(peer)
    )
      return
    world.log(`${peer.name} is gone for ever`)
    peer.crash(true)
    peer.isGone = true
  }

  /** A snapshot of its disk is put back, or a copy that another machine has starts instead. */
  #revert(peer: SimPeer): void {
    const { world } = this.#sim
    if (!this.#loses) return
    const state = this.#states.get(peer)
    const known = this.#sim.peerRecord(peer.peerId)?.bootCounter ?? 0
    if (state === undefined || state.bootCounter >= known) {
      if (state === undefined) this.#states.set(peer, peer.disk.state())
      return
    }
    if (!this.#isSpare(peer)) return
    this.#states.delete(peer)
    peer.crash(true)
    const now = peer.disk.state()
    world.log(`the disk of ${peer.name} is as it was in boot ${state.bootCounter}`)
    peer.disk.revert(state)
    this.#later(world.between(10, 1500), () => peer.start())
    this.#sim.reverted.set(peer, now)
  }

  #cut(from: string, to: string, both: boolean): void {
    if (from === to) return
    const { world, network } = this.#sim
    world.log(`cut ${from} > ${to}${both ? ' and back' : ''}`)
    network.cut(from, to)
    if (both) network.cut(to, from)
    this.#later(world.between(50, 4000), () => {
      world.log(`healed ${from} > ${to}`)
      network.heal(from, to)
      if (both) network.heal(to, from)
    })
  }
}
