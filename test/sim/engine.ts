/** A simulated peer's storage with the real engine, service and resync on a faulty disk. */
import type { Cluster } from '../../src/cluster/cluster.ts'
import { GroupRecords } from '../../src/cluster/groups.ts'
import { decodeRecord } from '../../src/cluster/records.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { FenceEntry } from '../../src/format/fences.ts'
import { shardOfChunk } from '../../src/placement/hash.ts'
import { BlockOp, type ShardedStore } from '../../src/replication/block-store.ts'
import { Fences, type FenceStore } from '../../src/replication/fences.ts'
import { Reclaimer } from '../../src/replication/reclaimer.ts'
import { type FamilyState, Resyncer } from '../../src/replication/resync.ts'
import { ShardMemberService } from '../../src/replication/shard-member-service.ts'
import { settleRestored } from '../../src/replication/settle-restored.ts'
import { settleAtStart } from '../../src/replication/start-rule.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { OpKind, ShardOp } from '../../src/shard/op.ts'
import { Shard } from '../../src/shard/shard.ts'
import type { ShardHost } from '../../src/shard/shard-config.ts'
import { shardStatNames } from '../../src/shard/stats.ts'
import { FaultyFiles } from '../helpers/faulty-files.ts'
import { testConfig } from '../helpers/shard-rig.ts'
import type { Boot } from './peer.ts'
import type { Process, World } from './world.ts'

const SHARDS = 1

class MemoryFences implements FenceStore {
  saved: readonly FenceEntry[] = []
  load(): Promise<readonly FenceEntry[]> {
    return Promise.resolve(this.saved)
  }
  async save(entries: readonly FenceEntry[]): Promise<void> {
    await Promise.resolve()
    this.saved = entries
  }
}

/** Shards of one boot: what was rung for is carried out a little later. */
class EngineStore implements ShardedStore {
  readonly freeBytes = 2 ** 30
  readonly shardCount = SHARDS
  readonly #shards: readonly Shard[]
  readonly #process: Process
  readonly #queues: BlockOp[][]
  #scheduled = false

  constructor(shards: readonly Shard[], process: Process) {
    this.#shards = shards
    this.#process = process
    this.#queues = shards.map(() => [])
  }

  get inFlight(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.length, 0)
  }

  acquireOp(): BlockOp {
    return new BlockOp()
  }
  releaseOp(): void {}
  readNow(): number {
    return -1
  }

  submit(op: BlockOp): void {
    this.submitTo(shardOfChunk(op.familyHigh, op.familyLow, op.chunk, SHARDS), op)
  }
  submitTo(shard: number, op: BlockOp): void {
    this.#queues[shard]!.push(op)
  }

  ring(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    this.#process.start(this.#process.world.between(0.02, 0.3), () => {
      this.#scheduled = false
      for (const [shard, engine] of this.#shards.entries()) {
        const ops = this.#queues[shard]!.splice(0)
        if (ops.length > 0) engine.execute(ops, ops.length)
        engine.background(0)
        for (const op of ops) op.onDone(op)
      }
    })
  }

  flush(done: (error: number) => void): void {
    this.broadcast(Object.assign(new ShardOp(), { kind: OpKind.Flush }), done)
  }

  broadcast(op: ShardOp, done: (error: number) => void): void {
    let pending = SHARDS
    let first: number = ErrorCode.Ok
    for (let shard = 0; shard < SHARDS; shard++) {
      const copy = Object.assign(new BlockOp(), op)
      copy.onDone = ({ error }) => {
        if (first === ErrorCode.Ok) first = error
        if (--pending === 0) done(first)
      }
      this.submitTo(shard, copy)
    }
    this.ring()
  }
}

/** The disk of a peer, and what runs on it. */
export class EngineDisk {
  readonly #world: World
  readonly #peerId: string
  readonly #files: FaultyFiles[] = []
  readonly #fences = new MemoryFences()
  /** Of the boot that runs. */
  service: ShardMemberService | null = null

  constructor(world: World, peerId: string) {
    this.#world = world
    this.#peerId = peerId
  }

  crash(power: boolean): void {
    for (const files of this.#files) {
      if (power) files.crash(this.#world.chance(3) ? 'none' : 'some')
      else files.kill()
    }
  }

  async open(boot: Boot, cluster: Cluster, follows: boolean): Promise<ShardMemberService> {
    const shards = this.#openShards(boot)
    const store = new EngineStore(shards, boot.process)
    const service = new ShardMemberService(store, boot.arena, await Fences.open(this.#fences))
    const groups = new GroupRecords(cluster)
    const { peerId, bootId } = boot
    const self = { peerId, bootId, cleanPredecessor: null, counterFollows: follows }
    const up = new Map<string, string>()
    for (const entry of await cluster.readAll(cluster.keys.allAlive)) {
      const record = decodeRecord('alive', entry.key, entry.value)
      up.set(entry.key.slice(cluster.keys.allAlive.length), record.bootId)
    }
    const { pool } = boot.sim
    const memory = service.fences
    await settleRestored({ cluster, records: groups, memory }, self, [pool.number])
    for (const group of (await groups.readAll(pool.number)).keys()) {
      await settleAtStart(
        groups,
        { pool: pool.number, group },
        self,
        (peer, id) => up.get(peer) === id
      )
    }
    const parts = {
      self: { peerId, bootId },
      service,
      store,
      members: boot.members,
      groups,
      families: {
        applyDeletions: async () => {},
        list: () => this.#families(cluster)
      },
      isPresentBoot: () => false,
      clock: boot.process,
      timers: boot.process,
      log: (_level: string, message: string, fields: Record<string, unknown>) =>
        this.#world.log(`${boot.place}: ${message} ${JSON.stringify(fields)}`)
    }
    const resyncer = new Resyncer({ ...parts, arena: boot.arena, bytesPerSecond: 2 ** 40 })
    const reclaimer = new Reclaimer({ ...parts, copiesOf: () => boot.sim.options.copies })
    this.#follow(boot, groups, resyncer, reclaimer)
    this.service = service
    return service
  }

  #openShards(boot: Boot): Shard[] {
    const isNew = this.#files.length === 0
    return Array.from({ length: SHARDS }, (_, shard) => {
      if (isNew) this.#files.push(new FaultyFiles(this.#world.random))
      const files = this.#files[shard]!
      const config = testConfig({
        shard,
        shards: 64,
        peerId: this.#peerId,
        segmentBytes: 128 * 1024,
        capacityBytes: 8 * 1024 * 1024,
        holdHoles: true
      })
      const host: ShardHost = {
        files,
        tracker: new LocalSyncTracker(files, { lazy: true }),
        memory: boot.arena.bytes,
        stats: new Float64Array(shardStatNames.length),
        clock: boot.process,
        random: this.#world.random,
        log: (level, message, fields) => {
          if (level === 'error')
            this.#world.log(`${boot.place}: ${message} ${JSON.stringify(fields)}`)
        }
      }
      if (isNew) Shard.format(config, host)
      return Shard.open(config, host)
    })
  }

  async #families(cluster: Cluster): Promise<FamilyState[]> {
    const prefix = cluster.keys.family('')
    const entries = await cluster.readAll(prefix)
    return entries.map(({ key, value, modRevision }) => {
      const { writerEpoch, settledEpoch = 0 } = decodeRecord('family', key, value)
      const family = key.slice(prefix.length)
      const noWriter = { key: cluster.keys.writer(family), is: 'absent' } as const
      return { family, writerEpoch, settledEpoch, unchanged: { key, modRevision }, noWriter }
    })
  }

  /** Chunks here of groups, at this moment or a little later. */
  async chunksOf(groups: number, wanted: ReadonlySet<number>): Promise<number> {
    let chunks = 0
    await this.service!.questions.listChunks(groups, wanted, () => chunks++)
    return chunks
  }

  /** Wants every group that lists this boot as syncing. */
  #follow(boot: Boot, groups: GroupRecords, resyncer: Resyncer, reclaimer: Reclaimer): void {
    const { pool } = boot.sim
    const shape = { pool: pool.number, groups: pool.groups }
    const look = async (): Promise<void> => {
      for (const [group, { record }] of await groups.readAll(pool.number)) {
        const isListed = record.syncing.some(
          ({ peer, boot: id }) => peer === boot.peerId && id === boot.bootId
        )
        if (isListed) resyncer.want(shape, group)
        reclaimer.learn(shape, group, record)
      }
    }
    const again = (): void => {
      boot.process.start(300, () => {
        look()
          .catch((thrown: unknown) => {
            if (!(thrown instanceof StoreError)) throw thrown
          })
          .finally(again)
      })
    }
    again()
  }
}
