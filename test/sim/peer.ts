/** A simulated peer: what stays over its boots, and one boot of it. */
import { Cluster } from '../../src/cluster/cluster.ts'
import { GroupTable, type PoolView } from '../../src/cluster/group-table.ts'
import { encodeRecord } from '../../src/cluster/records.ts'
import { Writers } from '../../src/cluster/writers.ts'
import { StoreError } from '../../src/core/errors.ts'
import type { MemberService } from '../../src/replication/member-service.ts'
import { SealedMembersStore } from '../../src/replication/sealed-members.ts'
import { KEY_BYTES } from '../../src/seal/key-mailbox.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import type { BlockStore } from '../../src/replication/block-store.ts'
import { ReplicatedStore } from '../../src/replication/replicated-store.ts'
import { ReplicatedWriters } from '../../src/replication/replicated-writers.ts'
import { randomId128 } from '../../src/cluster/ids.ts'
import { ModelDisk, ModelMember } from '../helpers/model-member.ts'
import { TestArena } from '../helpers/test-arena.ts'
import type { SimCluster } from './cluster.ts'
import { EngineDisk } from './engine.ts'
import { type Host, type Incoming, SimMembers } from './link.ts'
import { listAbsent, resync, takePlaces } from './model-resync.ts'
import { moveGroups } from './mover.ts'
import { RemoteMetadata } from './metadata.ts'
import { SimSession } from './session.ts'
import { Process } from './world.ts'

export const TTL_MS = 3000
const CLUSTER_ID = 'c'.repeat(32)
const ARENA_PAGES = 4096

/** One run of a peer's process. */
export class Boot implements Host {
  readonly peerId: string
  readonly bootId: string
  readonly place: string
  readonly process: Process
  readonly arena: TestArena = new TestArena(ARENA_PAGES)
  readonly incoming: Map<string, Incoming> = new Map()
  service: MemberService | null = null
  readonly sim: SimCluster
  readonly members: SimMembers
  readonly metadata: RemoteMetadata
  readonly session: SimSession
  isClean = false
  cluster: Cluster | null = null
  store: ReplicatedStore | null = null
  /** The same as volumes see it: sealing, where they are encrypted. */
  blocks: BlockStore | null = null
  writers: ReplicatedWriters | null = null
  table: GroupTable | null = null

  constructor(sim: SimCluster, peer: SimPeer, bootId: string) {
    this.sim = sim
    this.peerId = peer.peerId
    this.bootId = bootId
    this.place = peer.name
    this.process = new Process(sim.world, peer.name)
    this.members = new SimMembers(sim.network, this, sim)
    const from = { process: this.process, place: peer.name, server: sim.metadataProcess }
    this.metadata = new RemoteMetadata(sim.metadata, sim.network, from)
    this.session = new SimSession(this.metadata, this.process, TTL_MS)
  }
}

/** One key for all volumes. */
function sealedBlocks(boot: Boot, store: ReplicatedStore): BlockStore {
  const keys = new KeyRing(0)
  const slot = keys.hold(Buffer.alloc(KEY_BYTES, 0x5a))
  return new SealedMembersStore({
    store,
    arena: boot.arena,
    families: { slotOf: () => slot },
    keys,
    onBroken: (what) => {
      throw new Error(`${boot.place}: ${what}`)
    }
  })
}

export class SimPeer {
  readonly sim: SimCluster
  readonly name: string
  readonly peerId: string
  /** Null where members have the real engine. */
  readonly disk: ModelDisk | null
  readonly engine: EngineDisk
  bootCounter = 0
  boot: Boot | null = null
  #starts = 0

  constructor(sim: SimCluster, name: string) {
    this.sim = sim
    this.name = name
    this.peerId = randomId128(sim.world.random)
    this.disk = sim.options.engine ? null : new ModelDisk()
    this.engine = new EngineDisk(sim.world, this.peerId)
  }

  start(): void {
    if (this.boot !== null || this.sim.isHalted) return
    const { sim } = this
    const boot = new Boot(sim, this, randomId128(sim.world.random))
    this.boot = boot
    this.bootCounter++
    const start = ++this.#starts
    sim.world.log(`${this.name} boots ${boot.bootId.slice(0, 4)}`)
    const run = (): void => {
      this.#run(boot).catch((thrown: unknown) => {
        if (!(thrown instanceof StoreError)) {
          sim.world.fail(`${this.name} cannot start: ${(thrown as Error).stack}`)
          return
        }
        // The metadata is away: a supervisor starts it again.
        boot.process.start(200, () => {
          if (this.#starts !== start) return
          boot.process.kill()
          this.boot = null
          this.start()
        })
      })
    }
    run()
  }

  /** The process ends at once. With `power` the disk forgets what was not synced. */
  crash(power: boolean): void {
    const { boot, sim } = this
    if (boot === null) return
    sim.world.log(`${this.name} ${power ? 'loses power' : 'is killed'}`)
    boot.process.kill()
    this.boot = null
    sim.onCrash(this.peerId, boot.bootId)
    if (this.disk === null) this.engine.crash(power)
    else if (power) this.disk.losePower(() => sim.world.chance(2))
  }

  async #run(boot: Boot): Promise<void> {
    const { sim, disk } = this
    const { world } = sim
    const self = {
      clusterId: CLUSTER_ID,
      peerId: this.peerId,
      bootId: boot.bootId,
      bootCounter: this.bootCounter,
      capacityBytes: 2 ** 30
    }
    const environment = { clock: boot.process, random: world.random, timers: boot.process }
    const cluster = await Cluster.open(boot.metadata, self, environment)
    boot.cluster = cluster
    await boot.session.open()
    await this.#announce(boot, cluster)
    boot.session.onReplaced = () => {
      this.#announce(boot, cluster).catch(expected)
      for (const volume of sim.volumes) volume.onSessionReplaced(boot)
    }
    if (disk === null) {
      boot.service = await this.engine.open(boot, cluster, cluster.bootCounterFollows)
    } else {
      await takePlaces(cluster, sim.pool.number, null)
      const start = (delayMs: number, run: () => void): void =>
        void boot.process.start(delayMs, run)
      const member = new ModelMember(disk, boot.arena, start)
      member.delayMs = () => world.between(0.02, 0.2)
      boot.service = member
    }
    boot.table = new GroupTable(cluster)
    boot.store = new ReplicatedStore({
      members: boot.members,
      groups: boot.table,
      arena: boot.arena,
      clock: boot.process,
      timers: boot.process,
      local: null,
      trustedForMs: () => boot.session.trustedForMs(),
      onTrouble: (what, error) => world.log(`${this.name}: ${what} ${error?.message ?? ''}`)
    })
    boot.blocks = sim.options.sealed ? sealedBlocks(boot, boot.store) : boot.store
    boot.writers = new ReplicatedWriters({
      store: boot.store,
      cluster,
      writers: new Writers(cluster, boot.session),
      poolOf: async () => sim.pool,
      ttlMs: TTL_MS
    })
    this.#chores(boot, cluster, sim.pool)
    world.log(`${this.name} serves`)
  }

  async #announce(boot: Boot, cluster: Cluster): Promise<void> {
    const value = encodeRecord('alive', {
      v: 1,
      bootId: boot.bootId,
      startedAt: cluster.nowText(),
      peerAddress: this.name,
      adminAddresses: [],
      nbdAddresses: [],
      usedBytes: 0
    })
    const key = cluster.keys.alive(this.peerId)
    await boot.metadata.transact({ success: [{ put: key, value, lease: boot.session.lease }] })
  }

  async #control(cluster: Cluster, pool: PoolView): Promise<void> {
    const { options, peers, world, isMoving } = this.sim
    await listAbsent(cluster, pool.number)
    if (!options.moves) return
    const ids = peers.map(({ peerId }) => peerId)
    const { copies } = options
    await moveGroups({ cluster, pool: pool.number, peers: ids, copies, world, isMoving })
  }

  /** Resyncs one group after the other; one peer lists who is absent. */
  #chores(boot: Boot, cluster: Cluster, pool: PoolView): void {
    const { disk, sim } = this
    const round = async (): Promise<void> => {
      if (sim.peers[0] === this) await this.#control(cluster, pool)
      if (disk === null) return
      const host = {
        cluster,
        members: boot.members,
        arena: boot.arena,
        disk,
        pool: { number: pool.number, groups: pool.groups },
        fenceSelf: (family: string, writerEpoch: number) => {
          const known = disk.familyEpochs.get(family) ?? 0
          disk.familyEpochs.set(family, Math.max(known, writerEpoch))
        }
      }
      for (let group = 0; group < pool.groups; group++) {
        if (!(await resync(host, group))) sim.world.log(`${this.name}: resync of ${group} waits`)
      }
    }
    const again = (): void => {
      boot.process.start(300, () => {
        round().catch(expected).finally(again)
      })
    }
    again()
  }
}

function expected(thrown: unknown): void {
  if (!(thrown instanceof StoreError)) throw thrown
}
