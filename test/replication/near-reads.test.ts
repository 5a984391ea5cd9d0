/** On real workers and files, since what is tested is who reads what behind whose back. */
import { ok, strictEqual } from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { suite } from 'uvu'
import { systemClock, systemRandom } from '../../src/core/clock.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../../src/core/limits.ts'
import { SharedArena } from '../../src/handoff/arena.ts'
import { ShardPool } from '../../src/handoff/shard-pool.ts'
import type { BlockOp } from '../../src/replication/block-store.ts'
import { ChunkMaps } from '../../src/replication/chunk-maps.ts'
import { LocalStore } from '../../src/replication/local-store.ts'
import { NearReads } from '../../src/replication/near-reads.ts'
import { LOCATION_UNKNOWN } from '../../src/shard/chunk-map.ts'
import { DiskFiles } from '../../src/shard/disk-files.ts'
import { LocalSyncTracker } from '../../src/shard/local-sync-tracker.ts'
import { OpKind } from '../../src/shard/op.ts'
import { SegmentPlaces } from '../../src/shard/segment-places.ts'
import { Shard } from '../../src/shard/shard.ts'
import { resolveShardConfig } from '../../src/shard/shard-config.ts'
import { shardStatIndex } from '../../src/shard/stats.ts'
import type { ShardWorkerConfig } from '../../workers/shard.ts'
import { KEY_BYTES } from '../../src/seal/key-mailbox.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import { opOf } from '../helpers/memory-pool.ts'
import { seededRandom } from '../helpers/shard-rig.ts'

const test = suite('near reads')

const SHARDS = 2
const SEGMENT_BYTES = 1024 * 1024

const configOf = (shard: number) =>
  resolveShardConfig({
    shard,
    shards: SHARDS,
    clusterId: '11'.repeat(16),
    peerId: '22'.repeat(16),
    segmentBytes: SEGMENT_BYTES,
    capacityBytes: 64 * 1024 * 1024
  })

function format(directory: string): void {
  for (let shard = 0; shard < SHARDS; shard++) {
    mkdirSync(join(directory, `shard-${shard}`))
    const files = new DiskFiles(join(directory, `shard-${shard}`))
    const tracker = new LocalSyncTracker(files)
    const stats = new Float64Array(128)
    const host = { files, tracker, memory: Buffer.alloc(BLOCK_BYTES), stats, log: () => {} }
    Shard.format(configOf(shard), { ...host, clock: systemClock, random: systemRandom })
  }
}

/** A store with near reads on two real shards. */
class Rig {
  readonly arena = new SharedArena(8 * 1024 * 1024)
  readonly keys = new KeyRing(SHARDS)
  readonly near = new NearReads({
    shards: SHARDS,
    segmentBytes: SEGMENT_BYTES,
    memory: this.arena.bytes,
    keys: this.keys
  })
  /** 0: blocks are plain. */
  readonly keySlot: number
  readonly pool: ShardPool<BlockOp>
  readonly store: LocalStore
  readonly page = this.arena.acquire(8)
  private readonly into = Buffer.alloc(8 * BLOCK_BYTES)
  private sequence = 0

  constructor(directory: string, sealed: boolean) {
    this.keySlot = sealed ? this.keys.hold(Buffer.alloc(KEY_BYTES, 1)) : 0
    this.pool = new ShardPool<BlockOp>({
      shards: SHARDS,
      worker: new URL(`../../workers/shard${extname(import.meta.url)}`, import.meta.url),
      arena: this.arena,
      configOf: (shard): ShardWorkerConfig => {
        this.keys.handAgain(shard)
        return {
          directory: join(directory, `shard-${shard}`),
          shard: configOf(shard),
          places: this.near.places[shard]!,
          maps: this.near.maps.shared,
          sealMaps: this.near.maps.sealsShared,
          keys: this.keys.mailboxes[shard]!.shared
        }
      },
      log: () => {},
      restarts: { deathsMax: 1000, backoffMs: 0 }
    })
    this.store = new LocalStore(this.pool, this.near)
  }

  start(kind: number, chunk: number, firstBlock: number, blockCount: number, payload = this.page) {
    const sequence = ++this.sequence
    return new Promise<BlockOp>((resolve) => {
      const { keySlot } = this
      const place = { chunk, firstBlock, blockCount }
      const fields = { layerLow: 1, writerEpoch: 1, sequence, keySlot, ...place }
      this.store.submit(opOf(kind, { ...fields, payload }, resolve))
      this.store.ring()
    })
  }

  /** Bytes of the blocks, and whether no worker was asked. */
  async read(chunk: number, firstBlock: number, blockCount: number) {
    const { keySlot } = this
    const fields = { layerLow: 1, keySlot, chunk, firstBlock, blockCount }
    const op = opOf(OpKind.Read, fields, () => {})
    const near = this.store.readNow(op, this.into, 0) >= 0
    if (!near) {
      strictEqual((await this.start(OpKind.Read, chunk, firstBlock, blockCount)).error, 0)
    }
    return { bytes: near ? this.into : this.arena.bytes.subarray(this.page), near }
  }

  async write(chunk: number, firstBlock: number, blockCount: number, value: number) {
    for (let block = 0; block < blockCount; block++) {
      const at = this.page + block * BLOCK_BYTES
      this.arena.bytes.fill(0, at, at + BLOCK_BYTES)
      this.arena.bytes.writeUInt32LE(value, at + 100)
    }
    return await this.start(OpKind.Write, chunk, firstBlock, blockCount)
  }

  valueAt(bytes: Buffer, block: number): number {
    return bytes.readUInt32LE(block * BLOCK_BYTES + 100)
  }

  total(name: keyof typeof shardStatIndex): number {
    const at = shardStatIndex[name]
    return this.pool.clients.reduce((sum, client) => sum + client.stats[at]!, 0)
  }
}

async function withRig(use: (rig: Rig) => Promise<void>, sealed = false): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-near-'))
  format(directory)
  const rig = new Rig(directory, sealed)
  try {
    await rig.pool.start()
    await use(rig)
  } finally {
    await rig.pool.close()
    rmSync(directory, { recursive: true })
  }
}

const seed = Number(process.env['SEED'] ?? 1)
const CHUNKS = 6

async function compareWithModel(rig: Rig, steps: number): Promise<void> {
  const random = seededRandom(seed)
  const model = new Uint32Array(CHUNKS * CHUNK_BLOCKS)
  let near = 0
  for (let step = 1; step <= steps; step++) {
    const chunk = random.below(CHUNKS)
    const first = random.below(CHUNK_BLOCKS - 4)
    const count = random.below(4) === 0 ? 1 + random.below(4) : 1
    const at = chunk * CHUNK_BLOCKS + first
    const what = random.below(100)
    if (what < 50) {
      strictEqual((await rig.write(chunk, first, count, step)).error, 0)
      model.fill(step, at, at + count)
    } else if (what < 52) {
      strictEqual((await rig.start(OpKind.Trim, chunk, first, count)).error, 0)
      model.fill(0, at, at + count)
    } else {
      const read = await rig.read(chunk, first, count)
      if (read.near) near++
      for (let block = 0; block < count; block++) {
        strictEqual(rig.valueAt(read.bytes, block), model[at + block])
      }
    }
  }
  ok(near > steps / 12, `${near} reads needed no worker`)
}

test(`near reads answer as an array of blocks does (SEED=${seed})`, () =>
  withRig(async (rig) => {
    await compareWithModel(rig, 12_000)
    ok(rig.total('compactedSegments') > 0, 'segments came and went')
  }))

test('so do those of sealed blocks, which the main thread opens', () =>
  withRig(async (rig) => {
    await compareWithModel(rig, 3000)
    strictEqual(rig.total('sealErrors'), 0)
  }, true))

test('a read never answers what was there before an acknowledged write in flight with others', () =>
  withRig(async (rig) => {
    for (let block = 0; block < 64; block++) await rig.write(0, block, 1, 1)
    await rig.read(0, 0, 1)
    for (let round = 2; round < 300; round++) {
      const other = rig.start(OpKind.Write, 1, round % 64, 1)
      strictEqual((await rig.write(0, 7, 1, round)).error, 0)
      const trim = rig.start(OpKind.Trim, 0, 8, 4)
      const { bytes } = await rig.read(0, 7, 1)
      strictEqual(rig.valueAt(bytes, 0), round)
      await Promise.all([other, trim])
    }
  }))

test('a place is known again when the newest of the writes in flight is done, not before', () => {
  const maps = new ChunkMaps()
  const writeOf = (sequence: number, blockCount: number, resultA: number): BlockOp =>
    opOf(OpKind.Write, { writerEpoch: 1, sequence, firstBlock: 7, blockCount, resultA, resultC: 1 })
  const read = opOf(OpKind.Read, { firstBlock: 7 })
  maps.loaded(maps.missed(read, 0), false)
  const at = maps.find(read, 0) + 7
  const [first, second] = [writeOf(1, 1, 100), writeOf(2, 1, 200)]
  maps.forget(first, 0)
  maps.forget(second, 0)
  maps.changed(first, 0)
  strictEqual(maps.words[at], LOCATION_UNKNOWN, 'the second one is in flight')
  maps.changed(second, 0)
  strictEqual(maps.words[at], 200)
  const [third, fourth] = [writeOf(3, 1, 300), Object.assign(writeOf(4, 3, 0), { resultC: 0 })]
  maps.forget(third, 0)
  maps.forget(fourth, 0)
  maps.changed(third, 0)
  maps.changed(fourth, 0)
  strictEqual(maps.words[at], LOCATION_UNKNOWN, 'of several blocks nothing is told')
})

test('what compaction moved is found again', () =>
  withRig(async (rig) => {
    // One block in eight of a segment stays, so that it is compacted, and begins other lives.
    for (let block = 0; block < 512; block++) await rig.write(0, block, 1, block + 1)
    await rig.read(0, 0, 1)
    ok((await rig.read(0, 8, 1)).near)
    for (let round = 0; round < 12; round++) {
      for (let block = 0; block < 512; block++) {
        if (block % 8 !== 0) await rig.write(0, block, 1, block + 1)
      }
    }
    let near = 0
    for (let read = 0; read < 200; read++) {
      const block = 8 * (read % 64)
      const found = await rig.read(0, block, 1)
      strictEqual(rig.valueAt(found.bytes, 0), block + 1)
      if (found.near) near++
    }
    ok(near > 150, `${near} of 200 reads needed no worker`)
  }))

test('after a worker died its files are not read by numbers they had', () =>
  withRig(async (rig) => {
    for (let block = 0; block < 16; block++) await rig.write(0, block, 1, block + 1)
    await rig.read(0, 3, 1)
    ok((await rig.read(0, 3, 1)).near)
    for (const thread of rig.pool.threads) await thread.terminate()
    for (let block = 0; block < 16; block++) {
      const { bytes } = await rig.read(0, block, 1)
      strictEqual(rig.valueAt(bytes, 0), block + 1)
    }
    ok(rig.pool.restarts > 0)
    ok((await rig.read(0, 3, 1)).near)
  }))

test('a worker that begins anew has the keys, and opens what the one before sealed', () =>
  withRig(async (rig) => {
    for (let round = 0; round < 6; round++) {
      const writes: Promise<BlockOp>[] = []
      for (let block = 0; block < 64; block++) {
        const payload = rig.page + (block % 8) * BLOCK_BYTES
        rig.arena.bytes.fill(block % 8, payload, payload + BLOCK_BYTES)
        writes.push(rig.start(OpKind.Write, 0, block, 1, payload))
        // Some are carried out a second time.
        if (block === 30) for (const thread of rig.pool.threads) void thread.terminate()
      }
      for (const write of writes) strictEqual((await write).error, 0)
      for (let block = 0; block < 64; block++) {
        const { bytes } = await rig.read(0, block, 1)
        strictEqual(bytes[100], block % 8)
        // The pages are those of the writes.
        rig.arena.bytes.fill(0, rig.page, rig.page + BLOCK_BYTES)
      }
    }
    ok(rig.pool.restarts > 0)
  }, true))

test('a deleted layer reads as zeroes at once', () =>
  withRig(async (rig) => {
    await rig.write(0, 3, 1, 9)
    await rig.read(0, 3, 1)
    ok((await rig.read(0, 3, 1)).near)
    const op = opOf(OpKind.DeleteLayer, { layerLow: 1 }, () => {})
    strictEqual(await new Promise((resolve) => rig.store.broadcast(op, resolve)), 0)
    strictEqual(rig.valueAt((await rig.read(0, 3, 1)).bytes, 0), 0)
  }))

test('flushes one by one, at once and beside writes all end, with what came before them', () =>
  withRig(async (rig) => {
    const flush = () => new Promise<number>((resolve) => rig.store.flush(resolve))
    for (let round = 1; round < 60; round++) {
      strictEqual((await rig.write(round % CHUNKS, 5, 1, round)).error, 0)
      const flushes = [flush()]
      if (round % 3 === 0) flushes.push(flush(), flush())
      const beside = rig.start(OpKind.Write, 0, 9, 1)
      await new Promise<void>((resolve) => setImmediate(resolve))
      flushes.push(flush())
      for (const error of await Promise.all(flushes)) strictEqual(error, 0)
      await beside
    }
    strictEqual(await flush(), 0)
    for (const { isClean } of rig.pool.clients) ok(isClean)
  }))

test('a flush is answered though the worker that carried it out died', () =>
  withRig(async (rig) => {
    for (let round = 1; round < 10; round++) {
      await rig.write(0, 5, 1, round)
      const flushed = new Promise<number>((resolve) => rig.store.flush(resolve))
      for (const thread of rig.pool.threads) await thread.terminate()
      strictEqual(await flushed, 0)
      strictEqual(rig.valueAt((await rig.read(0, 5, 1)).bytes, 0), round)
    }
  }))

test('a place that changes has another version, and is odd meanwhile', () => {
  const places = new SegmentPlaces(new SharedArrayBuffer(SegmentPlaces.bytes))
  const unused = places.version(5)
  places.show(5, 17, 3)
  ok(places.version(5) !== unused)
  strictEqual(places.version(5) % 2, 0)
  strictEqual(places.descriptor(5), 17)
  strictEqual(places.birth(5), 3)
  const shown = places.version(5)
  places.show(5, 17, 3)
  strictEqual(places.version(5), shown)
  places.hide(5)
  strictEqual(places.descriptor(5), -1)
  places.show(5, 17, 3)
  ok(places.version(5) !== shown)
  places.hideAll()
  strictEqual(places.descriptor(5), -1)
  strictEqual(places.birth(5), 0)
})

test.run()
