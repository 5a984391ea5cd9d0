/**
 * What snapshots cost reads: random reads of a volume's head through many layers against the same
 * blocks in one layer. One shard, in this thread, on a directory below the system's temporary one;
 * no clients, so the whole path's share of it is smaller than what this shows.
 *
 *   node dist/scripts/bench-layers.js [--layers 100] [--mib 256] [--written 1] [--seconds 2]
 *
 * The volume is written once, then --written percent of its blocks, at random, in each layer.
 * Exit codes: 0 measured, 2 usage.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock, systemRandom } from '../src/core/clock.ts'
import { nextLayerLow } from '../src/core/layer-ids.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../src/core/limits.ts'
import { DiskFiles } from '../src/shard/disk-files.ts'
import { LocalSyncTracker } from '../src/shard/local-sync-tracker.ts'
import { OpKind, ShardOp } from '../src/shard/op.ts'
import { Shard } from '../src/shard/shard.ts'
import { resolveShardConfig } from '../src/shard/shard-config.ts'
import { shardStatNames } from '../src/shard/stats.ts'
import { parseArgs } from './arguments.ts'

const ROOT = 1
const BATCH = 32
const ROUNDS = 5

interface Bench {
  readonly shard: Shard
  readonly chunks: number
  head: number
  sequence: number
}

function openBench(directory: string, mib: number): Bench {
  const id = '00112233445566778899aabbccddeeff'
  const config = resolveShardConfig({
    ...{ shard: 0, shards: 1, clusterId: id, peerId: id, scrubPeriodMs: 0 },
    ...{ segmentBytes: 64 * 2 ** 20, capacityBytes: mib * 2 ** 20 * 16 }
  })
  const files = new DiskFiles(directory)
  const host = {
    ...{ files, tracker: new LocalSyncTracker(files), memory: Buffer.alloc(CHUNK_BLOCKS * 4096) },
    ...{ stats: new Float64Array(shardStatNames.length), clock: systemClock, random: systemRandom },
    log: () => {}
  }
  Shard.format(config, host)
  const chunks = Math.ceil((mib * 2 ** 20) / (CHUNK_BLOCKS * BLOCK_BYTES))
  return { shard: Shard.open(config, host), chunks, head: ROOT, sequence: 1 }
}

interface Options {
  readonly layers: number
  readonly mib: number
  readonly written: number
  readonly seconds: number
}

const ops = Array.from({ length: BATCH }, () => new ShardOp())

/** Carries out `count` ops of `blocks` blocks each, at random. */
function run(bench: Bench, kind: number, count: number, blocks: number): void {
  for (let left = count; left > 0; left -= BATCH) {
    const batch = Math.min(left, BATCH)
    for (let i = 0; i < batch; i++) setOp(bench, ops[i]!, kind, blocks)
    bench.shard.execute(ops, batch)
    if (ops[0]!.error !== 0) throw new Error(`an op failed: ${ops[0]!.error}`)
  }
}

function setOp(bench: Bench, op: ShardOp, kind: number, blocks: number): void {
  op.kind = kind
  op.familyLow = 1
  op.layerLow = bench.head
  op.chunk = Math.floor(Math.random() * bench.chunks)
  op.firstBlock = Math.floor(Math.random() * (CHUNK_BLOCKS / blocks)) * blocks
  op.blockCount = blocks
  op.writerEpoch = 1
  op.sequence = bench.sequence++
}

function fill(bench: Bench): void {
  const op = ops[0]!
  for (let chunk = 0; chunk < bench.chunks; chunk++) {
    for (let first = 0; first < CHUNK_BLOCKS; first += 256) {
      setOp(bench, op, OpKind.Write, 256)
      op.chunk = chunk
      op.firstBlock = first
      bench.shard.execute(ops, 1)
    }
  }
}

/** Median, over some rounds, of reads a second. */
function readsPerSecond(bench: Bench, blocks: number, seconds: number): number {
  const rates: number[] = []
  run(bench, OpKind.Read, (4 * bench.chunks * CHUNK_BLOCKS) / blocks / 8, blocks) // warm
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now()
    let reads = 0
    while (performance.now() - start < (seconds * 1000) / ROUNDS) {
      run(bench, OpKind.Read, BATCH * 4, blocks)
      reads += BATCH * 4
    }
    rates.push((reads * 1000) / (performance.now() - start))
  }
  return rates.sort((one, other) => one - other)[ROUNDS >> 1]!
}

function measure(layers: number, options: Options): number[] {
  const directory = mkdtempSync(join(tmpdir(), 'torus-layers-'))
  try {
    const bench = openBench(directory, options.mib)
    fill(bench)
    const blocks = bench.chunks * CHUNK_BLOCKS
    // The control writes the same blocks to one layer.
    for (let layer = 1; layer < options.layers; layer++) {
      if (layers > 1) bench.head = nextLayerLow(bench.head)
      run(bench, OpKind.Write, Math.ceil((blocks * options.written) / 100), 1)
    }
    const rates = [1, 16, 256].map((count) => readsPerSecond(bench, count, options.seconds))
    bench.shard.close()
    return rates
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const { values } = parseArgs({
  options: {
    layers: { type: 'string', default: '100' },
    mib: { type: 'string', default: '256' },
    written: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '2' }
  }
})
const options: Options = {
  layers: Number(values.layers),
  mib: Number(values.mib),
  written: Number(values.written),
  seconds: Number(values.seconds)
}
if (Object.values(options).some((value) => !(value > 0))) {
  process.stderr.write('all options are numbers above 0\n')
  process.exit(2)
}
const one = measure(1, options)
const many = measure(options.layers, options)
for (const [at, size] of ['4 KiB', '64 KiB', '1 MiB'].entries()) {
  const [alone, through] = [one[at]!, many[at]!]
  const cost = (alone / through).toFixed(2)
  const rates = `${Math.round(alone)}/s in one layer, ${Math.round(through)}/s through`
  process.stdout.write(`${size} reads: ${rates} ${options.layers}: ${cost}x\n`)
}
