/** A simulated peer: what stays over its boots, and one boot of it. */
import { Bases } from '../../src/cluster/bases.ts'
import { startCounted } from '../../src/cluster/boot-counter.ts'
import { Cluster } from '../../src/cluster/cluster.ts'
import { Controller } from '../../src/cluster/controller.ts'
import { GroupTable } from '../../src/cluster/group-table.ts'
import { GroupRecords } from '../../src/cluster/groups.ts'
import { randomId128 } from '../../src/cluster/ids.ts'
import { Membership } from '../../src/cluster/membership.ts'
import { DEFAULT_POOL } from '../../src/cluster/pools.ts'
import { PoolViews } from '../../src/cluster/pool-views.ts'
import { Session } from '../../src/cluster/session.ts'
import { Writers } from '../../src/cluster/writers.ts'
import { GroupsHere } from '../../src/coordinator/groups-here.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { Transaction } from '../../src/metadata/store.ts'
import { BaseTeacher } from '../../src/replication/base-teacher.ts'
import { Fences } from '../../src/replication/fences.ts'
import type { LocalMember } from '../../src/replication/local-member.ts'
import type { BlockStore } from '../../src/replication/block-store.ts'
import { ReplicatedStore } from '../../src/replication/replicated-store.ts'
import { ReplicatedWriters } from '../../src/replication/replicated-writers.ts'
import { SealedMembersStore } from '../../src/replication/sealed-members.ts'
import { ShardMemberService } from '../../src/replication/shard-member-service.ts'
import { KEY_BYTES } from '../../src/seal/key-mailbox.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import type { TestArena } from '../helpers/test-arena.ts'
import type { SimCluster } from './cluster.ts'
import { SimDisk, SimFences, SimShards } from './disk.ts'
import { type Host, type Incoming, SimMembers } from './link.ts'
import { RemoteMetadata } from './metadata.ts'
import { Process } from './world.ts'

export const TTL_MS = 3000
/** Longer than anything stands still. */
export const TOMBSTONE_PAUSE_MS = 8000
export const CLUSTER_ID = 'c'.repeat(32)

/** The parts of a process that serves. */
interface Serving {
  readonly cluster: Cluster
  readonly session: Session
  readonly membership: Membership
  readonly controller: Controller
  readonly pools: PoolViews
  readonly shards: SimShards
  readonly here: GroupsHere
  readonly table: GroupTable
  readonly store: ReplicatedStore
  /** The same as volumes see it: sealing, where they are encrypted. */
  readonly blocks: BlockStore
  readonly writers: ReplicatedWriters
}

/** One run of a peer's process. */
export class Boot implements Host {
  readonly peerId: string
  readonly bootId: string
  readonly place: string
  readonly process: Process
  readonly arena: TestArena
  readonly incoming: Map<string, Incoming> = new Map()
  service: ShardMemberService | null = null
  local: LocalMember | null = null
  readonly sim: SimCluster
  readonly members: SimMembers
  readonly metadata: RemoteMetadata
  /** Null until it serves. */
  serving: Serving | null = null
  /** The boot before, if that ended cleanly: what it had is this one's to lose. */
  predecessor = ''
  /** An operator has to decide about a group: this disk is not what the cluster knows. */
  isDistrusted = false

  constructor(sim: SimCluster, peer: SimPeer, bootId: string) {
    this.sim = sim
    this.peerId = peer.peerId
    this.bootId = bootId
    this.place = peer.name
    this.arena = sim.arenas.acquire()
    this.process = new Process(sim.world, peer.name)
    this.process.wallShiftMs = peer.wallShiftMs
    this.members = new SimMembers(sim.network, this, sim)
    const from = {
      process: this.process,
      place: peer.name,
      server: sim.metadataProcess,
      onChanging: (transaction: Transaction): void => sim.checkChange(this, transaction)
    }
    this.metadata = new RemoteMetadata(sim.metadata, sim.network, from)
  }

  get store(): ReplicatedStore | null {
    return this.serving?.store ?? null
  }
  get blocks(): BlockStore | null {
    return this.serving?.blocks ?? null
  }
  get writers(): ReplicatedWriters | null {
    return this.serving?.writers ?? null
  }
}

const scrubPeriodOf = ({ options }: SimCluster): number => (options.scrub === true ? 3000 : 0)

export class SimPeer {
  readonly sim: SimCluster
  readonly name: string
  readonly peerId: string
  readonly disk: SimDisk
  /** It never comes back by itself: an operator may bring it back. */
  isGone = false
  boot: Boot | null = null
  wallShiftMs = 0
  /** Id of the last boot while it counts as ended cleanly. */
  #cleanBoot = ''
  #starts = 0

  constructor(sim: SimCluster, name: string) {
    this.sim = sim
    this.name = name
    this.peerId = randomId128(sim.world.random)
    this.disk = new SimDisk(sim.world, this.peerId, sim.options.engine, scrubPeriodOf(sim))
  }

  start(): void {
    if (this.boot !== null || this.isGone || this.sim.isHalted) return
    const { sim } = this
    const boot = new Boot(sim, this, randomId128(sim.world.random))
    this.boot = boot
    boot.predecessor = this.#cleanBoot
    this.#cleanBoot = ''
    this.disk.isBroken = this.disk.isFailing
    const start = ++this.#starts
    sim.world.log(`${this.name} boots ${boot.bootId.slice(0, 4)}`)
    this.#run(boot).catch((thrown: unknown) => {
      if (!(thrown instanceof StoreError)) {
        sim.world.fail(`${this.name} cannot start: ${(thrown as Error).stack}`)
        return
      }
      sim.world.log(`${this.name} does not start: ${thrown.message}`)
      // The metadata is away: a supervisor starts it again.
      boot.process.start(200, () => {
        if (this.#starts !== start) return
        boot.process.kill()
        this.boot = null
        this.start()
      })
    })
  }

  /** The process ends at once. With `power` the disk forgets what was not synced. */
  crash(power: boolean): void {
    const { boot, sim } = this
    if (boot === null) return
    sim.world.log(`${this.name} ${power ? 'loses power' : 'is killed'}`)
    boot.process.kill()
    this.boot = null
    sim.onEnd(boot)
    this.disk.crash(power)
  }

  /** Ends in the order in which the coordinator ends a peer. */
  async stopCleanly(): Promise<void> {
    const { boot, sim } = this
    if (boot === null || boot.serving === null) return
    const { serving } = boot
    sim.world.log(`${this.name} is asked to end`)
    for (const volume of sim.volumes) await volume.leave(boot)
    if (!boot.process.isAlive) return
    boot.service = null
    for (const incoming of boot.incoming.values()) incoming.isDestroyed = true
    serving.here.close()
    serving.writers.close()
    serving.store.close()
    serving.table.close()
    boot.members.close()
    serving.pools.close()
    const error = await new Promise<number>((resolve) => serving.shards.flush(resolve))
    if (!boot.process.isAlive) return
    if (error === ErrorCode.Ok) serving.shards.close()
    await serving.controller.close()
    if (error === ErrorCode.Ok) await serving.membership.leaveCleanly().catch(expected)
    serving.membership.close()
    await serving.session.close()
    if (!boot.process.isAlive) return
    sim.world.log(`${this.name} ended`)
    this.#cleanBoot = boot.bootId
    boot.process.kill()
    this.boot = null
    sim.onEnd(boot)
    this.disk.crash(false)
  }

  async #run(boot: Boot): Promise<void> {
    const { sim, disk } = this
    const { world } = sim
    const { process, peerId, bootId } = boot
    const self = { clusterId: CLUSTER_ID, peerId, bootId, capacityBytes: 2 ** 30 }
    const environment = { clock: process, random: world.random, timers: process }
    const known = { store: boot.metadata, keys: sim.keys, peerId }
    const cluster = await startCounted(disk, known, (bootCounter) =>
      Cluster.open(boot.metadata, { ...self, bootCounter }, environment)
    )
    const onTrouble = (what: string, error: Error | null): void =>
      world.log(`${this.name}: ${what} ${error?.message ?? ''}`)
    const log = (_: string, message: string, fields: Record<string, unknown>): void => {
      if (message.includes('this disk is an older state')) boot.isDistrusted = true
      world.log(`${this.name}: ${message} ${JSON.stringify(fields)}`)
    }
    const { downAfterMs, ttlMs = TTL_MS } = sim.options
    const session = await Session.open(boot.metadata, process, { ttlMs, timers: process })
    const alive = { peerAddress: this.name, adminAddresses: [], nbdAddresses: [], usedBytes: 0 }
    const membership = await Membership.open(cluster, session, { alive, onTrouble })
    const controller = new Controller({
      cluster,
      session,
      membership,
      timers: process,
      downAfterMs,
      log
    })
    controller.start()
    const pools = new PoolViews(cluster, membership, (error) => onTrouble('pools', error))
    await pools.ready
    const shards = new SimShards(() => this.#openShard(boot), disk, process)
    shards.teacher = new BaseTeacher(shards, new Bases(cluster), process)
    const fences = await Fences.open(new SimFences(disk, process))
    const service = new ShardMemberService(shards, boot.arena, fences, process)
    const gateway = gatewayOf(boot, { cluster, session, membership, pools, service, onTrouble })
    const records = new GroupRecords(cluster)
    const here = new GroupsHere({
      self: { peerId, bootId },
      cluster,
      pools,
      membership,
      records,
      service,
      local: shards,
      arena: boot.arena,
      members: boot.members,
      resyncBytesPerSecond: 2 ** 40,
      scrubPeriodMs: scrubPeriodOf(sim),
      tombstonePauseMs: TOMBSTONE_PAUSE_MS,
      onGroup: () => {},
      log
    })
    await here.settleAtStart()
    boot.service = service
    here.start()
    session.onReplaced(() => {
      for (const volume of sim.volumes) volume.onSessionReplaced(boot)
    })
    boot.serving = {
      cluster,
      session,
      membership,
      controller,
      pools,
      shards,
      here,
      ...gateway
    }
    world.log(`${this.name} serves`)
  }

  /** Null when the disk does not let it. */
  #openShard(boot: Boot): ReturnType<SimDisk['open']> | null {
    try {
      return this.disk.open(boot)
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      this.sim.world.log(`${this.name}: the shard does not open: ${thrown.message}`)
      return null
    }
  }
}

/** What serves volumes. */
function gatewayOf(
  boot: Boot,
  parts: Pick<Serving, 'cluster' | 'session' | 'membership' | 'pools'> & {
    readonly service: ShardMemberService
    readonly onTrouble: (what: string, error: Error | null) => void
  }
): Pick<Serving, 'table' | 'store' | 'blocks' | 'writers'> {
  const { cluster, session, membership, pools, service, onTrouble } = parts
  const { process, members } = boot
  const table = new GroupTable(cluster, (error) => onTrouble('groups', error))
  members.serveHere(service)
  const store = new ReplicatedStore({
    members,
    groups: table,
    arena: boot.arena,
    clock: process,
    timers: process,
    local: null,
    trustedForMs: () => session.trustedForMs,
    onTrouble,
    isUp: (peer) => membership.addressOf(peer) !== null
  })
  const writers = new ReplicatedWriters({
    store,
    cluster,
    writers: new Writers(cluster, session),
    poolOf: async () => pools.find(DEFAULT_POOL),
    ttlMs: boot.sim.options.ttlMs ?? TTL_MS
  })
  service.onFence = (family, writerEpoch) => writers.noteFence(family, writerEpoch)
  const blocks = boot.sim.options.sealed ? sealedBlocks(boot, store) : store
  return { table, store, blocks, writers }
}

/** One key for all volumes. */
function sealedBlocks(boot: Boot, store: ReplicatedStore): BlockStore {
  const keys = new KeyRing(0)
  const slot = keys.hold(Buffer.alloc(KEY_BYTES, 0x5a))
  return new SealedMembersStore({
    store,
    arena: boot.arena,
    families: { slotOf: () => slot, mayLack: () => false, fetch: async () => {} },
    keys,
    onBroken: (what) => {
      throw new Error(`${boot.place}: ${what}`)
    }
  })
}

function expected(thrown: unknown): void {
  if (!(thrown instanceof StoreError)) throw thrown
}
