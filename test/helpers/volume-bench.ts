/** Volumes on memory: everything a test of src/volume needs, in one process and one turn. */
import { Cluster } from '../../src/cluster/cluster.ts'
import { Session } from '../../src/cluster/session.ts'
import { VolumeKeys } from '../../src/cluster/volume-keys.ts'
import type { Arena } from '../../src/core/arena.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { StoreError } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { Tables } from '../../src/metadata/tables.ts'
import type { BlockDevice } from '../../src/volume/block-device.ts'
import type { PasswordHash } from '../../src/seal/key-slots.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import { VolumeRequest } from '../../src/volume/request.ts'
import { SealedStore } from '../../src/replication/sealed-store.ts'
import { VolumeKeyring } from '../../src/volume/volume-keyring.ts'
import type { VolumesOptions } from '../../src/volume/volume-options.ts'
import { SnapshotSchedules } from '../../src/volume/snapshot-schedules.ts'
import { Volumes } from '../../src/volume/volumes.ts'
import { ManualClock, SeededRandom } from './manual-clock.ts'
import { MemoryStore } from './memory-store.ts'
import { fastHash } from './password-hash.ts'
import { TestArena } from './test-arena.ts'

export const CLUSTER_ID = 'c'.repeat(32)
export const PEER_ID = 'a'.repeat(32)

export interface Bench {
  readonly tables: Tables
  readonly metadata: EmbeddedStore
  readonly cluster: Cluster
  readonly session: Session
  readonly clock: ManualClock
  readonly arena: TestArena
  readonly store: MemoryStore
  readonly volumes: Volumes
  readonly ring: KeyRing
  readonly keyring: VolumeKeyring
  close(): Promise<void>
}

export interface BenchOptions {
  readonly seed?: number
  readonly arenaPages?: number
  readonly hash?: PasswordHash
  readonly scratchPages?: number
  /** Start on what an earlier run left. */
  readonly tables?: Tables
  readonly store?: MemoryStore
  readonly arena?: TestArena
  readonly boot?: number
  readonly peerId?: string
  readonly volumes?: Partial<VolumesOptions>
}

export async function openBench(options: BenchOptions = {}): Promise<Bench> {
  const seed = options.seed ?? 1
  const boot = options.boot ?? 1
  const clock = new ManualClock()
  const random = new SeededRandom(seed * 1000 + boot)
  const tables = options.tables ?? new MemoryTables()
  const metadata = await EmbeddedStore.open(tables, { clock, random })
  const self = {
    clusterId: CLUSTER_ID,
    peerId: options.peerId ?? PEER_ID,
    bootId: boot.toString(16).padStart(32, '0'),
    bootCounter: boot,
    capacityBytes: 2 ** 30
  }
  const cluster = await Cluster.open(metadata, self, { clock, random })
  const session = await Session.open(metadata, clock)
  const arena = options.arena ?? new TestArena(options.arenaPages ?? 1024)
  const store = options.store ?? new MemoryStore(arena, seed)
  const ring = new KeyRing(1)
  const keyring = new VolumeKeyring({
    records: new VolumeKeys(cluster),
    ring,
    hash: options.hash ?? fastHash,
    clock,
    nowText: () => cluster.nowText()
  })
  const volumes = new Volumes({
    cluster,
    keyring,
    session,
    store,
    sealed: new SealedStore(store, keyring.families),
    arena,
    scratchPages: options.scratchPages ?? 8,
    onTrouble: (what, error) => {
      throw new Error(what, { cause: error })
    },
    ...options.volumes
  })
  return {
    tables,
    metadata,
    cluster,
    session,
    clock,
    arena,
    store,
    volumes,
    ring,
    keyring,
    close: async () => {
      await volumes.close()
      keyring.close()
      await session.close()
      await metadata.close()
    }
  }
}

export const schedulesOf = ({ cluster, volumes }: Bench): SnapshotSchedules =>
  new SnapshotSchedules({
    cluster,
    volumes,
    isInCharge: () => true,
    trouble: (what, error) => {
      throw new Error(what, { cause: error })
    }
  })

export interface Ask {
  readonly kind: number
  readonly offset?: number
  readonly length?: number
  readonly flags?: number
  readonly data?: Buffer
}

export interface Answer {
  readonly error: number
  /** Bytes of a read. */
  readonly data: Buffer
  /** Pairs of a block status. */
  readonly extents: readonly number[]
}

/** Sends one request, as a protocol would; several may be out at once. */
export function ask(
  bench: Pick<Bench, 'volumes'> & { readonly arena: Arena },
  device: BlockDevice,
  request: Ask
): Promise<Answer> {
  return new Promise((resolve) => {
    const offset = request.offset ?? 0
    const length = request.data?.length ?? request.length ?? 0
    const { bytes } = bench.arena
    const own = new VolumeRequest()
    own.kind = request.kind
    own.flags = request.flags ?? 0
    own.offset = offset
    own.length = length
    const inPage = offset % BLOCK_BYTES
    const moves = request.kind <= 2
    if (moves) {
      own.pages = bench.arena.acquire(Math.ceil((inPage + length) / BLOCK_BYTES))
      if (own.pages < 0) throw new Error('the test arena is too small')
      request.data?.copy(bytes, own.pages + inPage)
    }
    let inside = true
    own.onDone = () => {
      if (inside) throw new Error('onDone was called from inside submit')
      const from = own.pages + inPage
      const data = moves ? Buffer.from(bytes.subarray(from, from + length)) : Buffer.alloc(0)
      if (moves) bench.arena.release(own.pages)
      resolve({ error: own.error, data, extents: [...own.extents] })
    }
    device.submit(own)
    inside = false
    bench.volumes.ring()
  })
}

export const failsWith =
  (code: ErrorCode) =>
  (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === code
