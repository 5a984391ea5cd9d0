/** A whole cluster in one thread: peers, metadata, network, volumes with clients. */
import { GroupRecords } from '../../src/cluster/groups.ts'
import { Keys } from '../../src/cluster/keys.ts'
import type { PoolView } from '../../src/cluster/group-table.ts'
import { decodeRecord, type GroupRecord } from '../../src/cluster/records.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { decodeRecord as decodeEntry } from '../../src/metadata/layout.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { Directory, Host } from './link.ts'
import { Network } from './network.ts'
import { SimPeer } from './peer.ts'
import { SimVolume } from './volume.ts'
import { Process, World } from './world.ts'

export interface SimOptions {
  readonly seed: number
  readonly peers: number
  readonly copies: number
  readonly writeMinimum: number
  readonly volumes: number
  readonly groups: number
  /** Members with the real engine, service and resync; otherwise models. */
  readonly engine: boolean
  /** Volumes are encrypted; with the engine. */
  readonly sealed: boolean
  /** Groups are wanted on other peers again and again. */
  readonly moves: boolean
}

export class SimCluster implements Directory {
  readonly world: World
  readonly network: Network
  readonly metadataProcess: Process
  readonly keys: Keys = new Keys()
  readonly options: SimOptions
  readonly peers: SimPeer[] = []
  readonly volumes: SimVolume[] = []
  readonly pool: PoolView
  metadata!: EmbeddedStore
  isMoving = false
  /** No peer starts. */
  isHalted = false
  readonly #tables = new MemoryTables()
  readonly #records = new Map<number, GroupRecord>()

  constructor(options: SimOptions) {
    this.options = options
    this.world = new World(options.seed)
    this.network = new Network(this.world)
    this.metadataProcess = new Process(this.world, 'metadata')
    for (let i = 0; i < options.peers; i++) this.peers.push(new SimPeer(this, `p${i}`))
    const place = (group: number): string[] =>
      Array.from(
        { length: options.copies },
        (_, copy) => this.peers[(group + copy) % options.peers]!.peerId
      )
    this.pool = { number: 1, groups: options.groups, writeMinimum: options.writeMinimum, place }
  }

  async start(): Promise<void> {
    const { world, options } = this
    this.metadata = await EmbeddedStore.open(this.#tables, {
      clock: world,
      random: world.random,
      timers: false
    })
    this.#expireLeases()
    this.#traceGroups()
    this.metadata.watch(this.keys.family(''), (change) => {
      if (change.kind !== 'events') return
      for (const event of change.events) {
        if (event.kind === 'put') world.log(`family ${event.entry.value.toString()}`)
      }
    })
    for (const peer of this.peers) peer.start()
    await world.runFor(5000, 'peers start', () =>
      this.peers.every(({ boot }) => boot !== null && boot.writers !== null)
    )
    for (let i = 0; i < options.volumes; i++) {
      const volume = new SimVolume(this, `v${i}`)
      this.volumes.push(volume)
      await volume.create()
    }
  }

  hostOf(peerId: string): Host | null {
    return this.peers.find((peer) => peer.peerId === peerId)?.boot ?? null
  }

  /** May clients see this error with the faults of this run? */
  mayFail(_error: number): boolean {
    return false
  }

  /** Records of groups as they are now. */
  groups(): Map<number, GroupRecord> {
    const prefix = this.keys.groups(this.pool.number)
    const found = new Map<number, GroupRecord>()
    this.#tables.read((read) => {
      for (const [key, value] of read.range(`k${prefix}`, `k${prefix}\u00ff`, 10_000)) {
        const entry = decodeEntry(key.slice(1), value)
        const record = decodeRecord('group', entry.key, entry.value)
        found.set(Number(entry.key.slice(prefix.length)), record)
      }
    })
    return found
  }

  /** A boot is gone: groups of which it was the last that had all forget what was unflushed. */
  onCrash(peerId: string, bootId: string): void {
    for (const [group, record] of this.groups()) {
      if (!record.inSync.some(({ peer, boot }) => peer === peerId && boot === bootId)) continue
      for (const volume of this.volumes) {
        const lives = record.inSync.some(({ peer, boot }) => {
          const host = this.hostOf(peer)
          const runs = host !== null && host.bootId === boot && host.process.isAlive
          return runs && !volume.unproven.has(`${group}/${boot}`)
        })
        if (lives) continue
        this.world.log(`group ${group} lost power for ${volume.record.name}`)
        volume.onPowerLoss(group)
      }
    }
  }

  describeGroups(): string {
    return [...this.groups()].map(([group, record]) => this.#describe(group, record)).join('\n')
  }

  get records(): GroupRecords {
    return new GroupRecords(this.peers[0]!.boot!.cluster!)
  }

  #traceGroups(): void {
    const prefix = this.keys.groups(this.pool.number)
    this.metadata.watch(prefix, (change) => {
      if (change.kind !== 'events') return
      for (const event of change.events) {
        if (event.kind !== 'put') continue
        const record = decodeRecord('group', event.entry.key, event.entry.value)
        const group = Number(event.entry.key.slice(prefix.length))
        this.world.log(this.#describe(group, record))
        this.#noteReturns(group, record)
      }
    })
  }

  /** A peer that stays in sync under a new boot has what was on its disk, until a takeover. */
  #noteReturns(group: number, record: GroupRecord): void {
    const old = this.#records.get(group)
    this.#records.set(group, record)
    for (const { peer, boot } of record.inSync) {
      const before = old?.inSync.find((entry) => entry.peer === peer)
      if (before === undefined || before.boot === boot) continue
      for (const volume of this.volumes) volume.unproven.add(`${group}/${boot}`)
    }
  }

  #describe(group: number, { epoch, inSync, syncing }: GroupRecord): string {
    const name = (id: string): string =>
      this.peers.find(({ peerId }) => peerId === id)?.name ?? id.slice(0, 4)
    const list = (entries: typeof inSync): string =>
      entries.map(({ peer, boot }) => `${name(peer)}.${boot.slice(0, 4)}`).join(' ')
    return `group ${group}: epoch ${epoch} [${list(inSync)}] (${list(syncing)})`
  }

  #expireLeases(): void {
    this.metadataProcess.start(50, () => {
      this.metadata.get('x').then(
        () => this.#expireLeases(),
        () => {}
      )
    })
  }
}
