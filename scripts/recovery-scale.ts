/**
 * How long does a shard take to recover after kill -9, and how much memory does its index take?
 *
 * Makes a shard through the engine's own code: blocks of zeroes, written in random order in batches
 * of --batch, with background work in between as the worker does it. The payload is left out of the
 * files as holes; headers, checksums, footers and checkpoints are real. The writing process ends
 * without closing anything. Then a new process opens the shard, three times: as it was found, with
 * the checkpoints taken away, and with the footers taken away too.
 *
 *   node dist/scripts/recovery-scale.js [--blocks 10000000] [--batch 32] [--directory DIR] [--keep]
 *
 * Exit codes: 0 measured, 1 something could not run, 2 usage.
 */
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { systemClock, systemRandom } from '../src/core/clock.ts'
import { errorCodeName } from '../src/core/errors.ts'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../src/core/limits.ts'
import { DiskFiles } from '../src/shard/disk-files.ts'
import type { FileHandle, Files } from '../src/shard/files.ts'
import { LocalSyncTracker } from '../src/shard/local-sync-tracker.ts'
import { pageAlignedBuffer } from '../src/shard/memory.ts'
import { OpKind, ShardOp } from '../src/shard/op.ts'
import { Shard } from '../src/shard/shard.ts'
import { resolveShardConfig, type ShardConfig, type ShardHost } from '../src/shard/shard-config.ts'
import { type ShardStatName, shardStatIndex, shardStatNames } from '../src/shard/stats.ts'
import { parseArgs } from './arguments.ts'

const MiB = 2 ** 20
const zeroPage = Buffer.alloc(BLOCK_BYTES)

/** Leaves out pages of zeroes, so that payload costs no disk. */
class SparseFiles extends DiskFiles {
  private readonly sizes = new Map<FileHandle, number>()

  override write(handle: FileHandle, offset: number, from: Buffer, start: number, length: number) {
    const end = start + length
    let run = start
    for (let page = start; page < end; page += BLOCK_BYTES) {
      const pageEnd = Math.min(end, page + BLOCK_BYTES)
      if (zeroPage.compare(from, page, pageEnd, 0, pageEnd - page) !== 0) continue
      if (run < page) super.write(handle, offset + run - start, from, run, page - run)
      run = pageEnd
    }
    if (run < end) super.write(handle, offset + run - start, from, run, end - run)
    const size = this.sizes.get(handle) ?? this.size(handle)
    const sizeNow = Math.max(size, offset + length)
    if (run === end && size < sizeNow) this.truncate(handle, sizeNow)
    this.sizes.set(handle, sizeNow)
  }

  override close(handle: FileHandle): void {
    this.sizes.delete(handle)
    super.close(handle)
  }
}

const config: ShardConfig = resolveShardConfig({
  shard: 0,
  shards: 1,
  clusterId: '00000000000000000000000000000001',
  peerId: '00000000000000000000000000000002',
  capacityBytes: 2 ** 50,
  scrubPeriodMs: 0
})

function hostOf(files: Files, memoryBytes: number): ShardHost {
  return {
    files,
    tracker: new LocalSyncTracker(files),
    memory: pageAlignedBuffer(memoryBytes),
    stats: new Float64Array(shardStatNames.length),
    clock: systemClock,
    random: systemRandom,
    log: (level, message, fields) => console.error(level, message, JSON.stringify(fields))
  }
}

/** A permutation of [0, 2^bits): each step of it can be undone. */
function scramble(value: number, bits: number): number {
  const mask = 2 ** bits - 1
  let mixed = value
  for (const factor of [0x2c1b3c6d, 0x297a2d39, 0x85ebca6b]) {
    mixed = (Math.imul(mixed, factor) & mask) >>> 0
    mixed ^= mixed >>> (bits >>> 1)
  }
  return mixed
}

/** Writes `blocks` different blocks of one volume, and returns without closing the shard. */
function make(directory: string, blocks: number, batch: number): void {
  const host = hostOf(new SparseFiles(directory), batch * BLOCK_BYTES)
  Shard.format(config, host)
  const shard = Shard.open(config, host)
  const bits = Math.ceil(Math.log2(blocks * 1.25))
  const ops = Array.from({ length: batch }, () => new ShardOp())
  let lastSliceMs = performance.now()
  for (let written = 0, next = 0; written < blocks; ) {
    const count = Math.min(batch, blocks - written)
    for (let i = 0; i < count; next++) {
      const place = scramble(next, bits)
      if (place >= blocks * 1.25) continue
      const op = ops[i++]!
      op.kind = OpKind.Write
      op.familyLow = 1
      op.layerLow = 1
      op.chunk = Math.floor(place / CHUNK_BLOCKS)
      op.firstBlock = place % CHUNK_BLOCKS
      op.blockCount = 1
      op.writerEpoch = 1
      op.sequence = written + i
      op.payload = (i - 1) * BLOCK_BYTES
    }
    shard.execute(ops, count)
    const failed = ops.find((op) => op.error !== 0)
    if (failed !== undefined) throw new Error(errorCodeName(failed.error))
    written += count
    // A worker that is never idle has a slice for the background between batches.
    if (performance.now() - lastSliceMs > 5) {
      shard.background(2)
      lastSliceMs = performance.now()
    }
  }
  host.tracker.syncNow()
}

interface Opened {
  readonly openMs: number
  /** Of this process alone: what others on the machine take from it does not count. */
  readonly cpuMs: number
  readonly stats: Record<ShardStatName, number>
  readonly residentBytes: number
}

function open(directory: string): Opened {
  const host = hostOf(new SparseFiles(directory), MiB)
  const startMs = performance.now()
  const startCpu = process.cpuUsage()
  Shard.open(config, host)
  const cpu = process.cpuUsage(startCpu)
  return {
    openMs: performance.now() - startMs,
    cpuMs: (cpu.user + cpu.system) / 1000,
    stats: Object.fromEntries(
      shardStatNames.map((name) => [name, host.stats[shardStatIndex[name]]])
    ) as Record<ShardStatName, number>,
    residentBytes: process.memoryUsage.rss()
  }
}

/** In a process of its own, as after a crash. */
const inChild = (verb: string, directory: string, more: string[] = []): string =>
  execFileSync(
    process.execPath,
    [
      ...process.execArgv,
      fileURLToPath(import.meta.url),
      '--child',
      verb,
      '--directory',
      directory
    ].concat(more),
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }
  )

function removeCheckpoints(directory: string): void {
  for (const name of fs.readdirSync(directory)) {
    if (name.startsWith('checkpoint')) fs.unlinkSync(join(directory, name))
  }
}

/** Without its trailer page a segment has no footer. */
function removeTrailers(directory: string): void {
  for (const name of fs.readdirSync(directory)) {
    if (!name.startsWith('seg-')) continue
    const file = fs.openSync(join(directory, name), 'r+')
    fs.writeSync(file, zeroPage, 0, BLOCK_BYTES, config.segmentBytes - BLOCK_BYTES)
    fs.closeSync(file)
  }
}

function report(what: string, directory: string): void {
  const { openMs, cpuMs, stats, residentBytes } = JSON.parse(inChild('open', directory)) as Opened
  console.log(
    `${what.padEnd(18)} ${(openMs / 1000).toFixed(2).padStart(7)} s` +
      `${(cpuMs / 1000).toFixed(2).padStart(7)} s CPU` +
      `${stats.recoveryRecords.toString().padStart(12)} records replayed` +
      `${stats.indexEntries.toString().padStart(12)} entries` +
      `${(stats.indexBytes / stats.indexEntries).toFixed(2).padStart(7)} B each` +
      `${(residentBytes / MiB).toFixed(0).padStart(7)} MiB resident`
  )
}

function run(blocks: number, batch: number, parent: string, keep: boolean): void {
  const directory = fs.mkdtempSync(join(parent, 'torus-recovery-'))
  try {
    console.log(`recovery of ${blocks} blocks written in random order, ${batch} a batch`)
    console.log(`Node ${process.version}, ${cpus().length} x ${cpus()[0]?.model}, ${directory}`)
    const startMs = performance.now()
    inChild('make', directory, ['--blocks', String(blocks), '--batch', String(batch)])
    console.log(`made in ${((performance.now() - startMs) / 1000).toFixed(1)} s`)
    report('after kill -9', directory)
    removeCheckpoints(directory)
    report('footers only', directory)
    removeTrailers(directory)
    report('scan only', directory)
  } finally {
    if (keep) console.log(`kept ${directory}`)
    else fs.rmSync(directory, { recursive: true, force: true })
  }
}

function main(): void {
  const { values } = parseArgs({
    options: {
      blocks: { type: 'string', default: '10000000' },
      batch: { type: 'string', default: '32' },
      directory: { type: 'string', default: tmpdir() },
      keep: { type: 'boolean', default: false },
      child: { type: 'string' }
    }
  })
  const blocks = Number(values.blocks)
  const batch = Number(values.batch)
  if (!(blocks > 0 && batch > 0 && batch <= 1024)) {
    console.error('--blocks and --batch are numbers above 0, --batch at most 1024')
    process.exit(2)
  }
  if (values.child === 'make') make(values.directory, blocks, batch)
  else if (values.child === 'open') console.log(JSON.stringify(open(values.directory)))
  else run(blocks, batch, values.directory, values.keep)
}

main()
