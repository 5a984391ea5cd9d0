/** A peer with real engines on disks in memory, and what makes it a member of groups. */
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import type { FenceEntry } from '../../src/format/fences.ts'
import { BlockOp } from '../../src/replication/block-store.ts'
import { Fences, type FenceStore } from '../../src/replication/fences.ts'
import { LocalMember } from '../../src/replication/local-member.ts'
import { ShardMemberService } from '../../src/replication/shard-member-service.ts'
import { KEY_BYTES } from '../../src/seal/key-mailbox.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { Shard } from '../../src/shard/shard.ts'
import type { ShardHost } from '../../src/shard/shard-config.ts'
import { shardStatNames } from '../../src/shard/stats.ts'
import { systemClock } from '../../src/core/clock.ts'
import { EngineStore } from './engine-store.ts'
import { FaultyFiles } from './faulty-files.ts'
import { seededRandom, testConfig } from './shard-rig.ts'
import { TestArena } from './test-arena.ts'

const ARENA_PAGES = 2048

class MemoryFences implements FenceStore {
  saved: readonly FenceEntry[] = []
  saves = 0
  load(): Promise<readonly FenceEntry[]> {
    return Promise.resolve(this.saved)
  }
  async save(entries: readonly FenceEntry[]): Promise<void> {
    await Promise.resolve()
    this.saved = entries
    this.saves++
  }
}

export class MemberPeer {
  readonly peerId: string
  readonly arena = new TestArena(ARENA_PAGES)
  readonly fenceStore = new MemoryFences()
  readonly log: { level: string; message: string; fields: object }[] = []
  bootId = ''
  /** The same data key in the same slot as any other peer's. */
  readonly keys = new KeyRing(0)
  readonly keySlot = this.keys.hold(Buffer.alloc(KEY_BYTES, 0x33))
  store!: EngineStore
  fences!: Fences
  service!: ShardMemberService
  member!: LocalMember
  readonly #random: ReturnType<typeof seededRandom>
  readonly #files: FaultyFiles[] = []
  #shards: Shard[] = []
  #boots = 0

  private constructor(number: number, seed: number) {
    this.peerId = String(number).padStart(32, '0')
    this.#random = seededRandom(seed * 1000 + number)
  }

  static async create(number: number, options: { seed?: number; shards?: number } = {}) {
    const peer = new MemberPeer(number, options.seed ?? 1)
    for (let shard = 0; shard < (options.shards ?? 2); shard++) {
      peer.#files.push(new FaultyFiles(peer.#random))
      Shard.format(peer.#config(shard), peer.#host(shard))
    }
    await peer.boot()
    return peer
  }

  #config(shard: number) {
    return testConfig({
      shard,
      shards: 64,
      peerId: this.peerId,
      segmentBytes: 256 * 1024,
      capacityBytes: 64 * 1024 * 1024,
      holdHoles: true
    })
  }

  #host(shard: number): ShardHost {
    const files = this.#files[shard]!
    return {
      files,
      tracker: new LocalSyncTracker(files),
      memory: this.arena.bytes,
      stats: new Float64Array(shardStatNames.length),
      clock: systemClock,
      random: this.#random,
      keys: this.keys,
      log: (level, message, fields) => this.log.push({ level, message, fields })
    }
  }

  /** Starts with a new boot id. */
  async boot(): Promise<void> {
    this.bootId = `b${this.peerId.slice(-4)}${String(++this.#boots).padStart(27, '0')}`
    this.#shards = this.#files.map((_, shard) => Shard.open(this.#config(shard), this.#host(shard)))
    this.store = new EngineStore(this.#shards)
    this.fences = await Fences.open(this.fenceStore)
    this.service = new ShardMemberService(this.store, this.arena, this.fences)
    this.member = new LocalMember(this, this.service)
  }

  /** The process dies; with `power` what was not synced goes, or some of it. */
  die(power: boolean): void {
    this.store.stop()
    for (const files of this.#files) {
      if (power) files.crash('some')
      else files.kill()
    }
  }

  /** Flips a bit in the middle of every data block on its disks. */
  damage(): void {
    for (const files of this.#files) {
      for (const name of files.list().filter((each) => each.startsWith('seg-'))) {
        const pages = Math.floor(files.bytesOf(name).length / BLOCK_BYTES)
        for (let page = 2; page < pages; page++) {
          files.flipBit(name, (page * BLOCK_BYTES + 2000) * 8)
        }
      }
    }
  }

  /** Runs one op through the service; resolves with it. `value` fills the blocks of a write. */
  run(kind: number, fields: Partial<BlockOp>, value = 0): Promise<BlockOp> {
    const op = Object.assign(new BlockOp(), { familyLow: 1, layerLow: 7, blockCount: 1 }, fields)
    op.kind = kind
    const pages = Math.max(1, op.blockCount + 1)
    op.payload = this.arena.acquire(pages)
    this.arena.bytes.fill(value, op.payload, op.payload + pages * BLOCK_BYTES)
    return new Promise((resolve) => {
      op.onDone = () => {
        resolve(op)
        queueMicrotask(() => this.arena.release(op.payload))
      }
      this.member.submit(op)
      this.member.ring()
    })
  }

  flush(): Promise<number> {
    return new Promise((resolve) => this.member.flush(resolve))
  }
}
