/**
 * How many requests a second go to a worker and back, and how long one takes, when the worker does
 * nothing: the cost of the handoff itself, at depths 1, 8 and 32.
 *
 *   node dist/native-free-bench/handoff.js [--ms N] [--spin MICROS] [--main-spin MICROS]
 *                                          [--shards N] [--burn]
 *
 * --spin and --main-spin are how long worker and main thread look before they sleep; without them
 * the defaults. --burn keeps one core busy with a process of its own, as a client would.
 */
import { spawn } from 'node:child_process'
import { extname } from 'node:path'
import { parseArgs } from 'node:util'
import { SharedArena } from '../src/handoff/arena.ts'
import { ShardPool } from '../src/handoff/shard-pool.ts'
import { BlockOp } from '../src/replication/block-store.ts'

const { values } = parseArgs({
  options: {
    ms: { type: 'string', default: '1000' },
    spin: { type: 'string' },
    'main-spin': { type: 'string' },
    shards: { type: 'string', default: '1' },
    burn: { type: 'boolean', default: false }
  }
})

const pool = new ShardPool<BlockOp>({
  shards: Number(values.shards),
  worker: new URL(`./handoff-worker${extname(import.meta.url)}`, import.meta.url),
  arena: new SharedArena(64 * 1024),
  configOf: () => null,
  log: (entry) => process.stderr.write(`${JSON.stringify(entry)}\n`),
  ...(values['main-spin'] === undefined ? {} : { spinMicros: Number(values['main-spin']) }),
  knobs: values.spin === undefined ? {} : { spinMicros: Number(values.spin) }
})

/** Keeps `depth` ops in flight for a while; resolves with the microseconds of each. */
function load(depth: number, ms: number): Promise<Float64Array> {
  const micros: number[] = []
  const endAt = performance.now() + ms
  return new Promise((resolve) => {
    let inFlight = depth
    const onDone = (op: BlockOp): void => {
      const now = performance.now()
      micros.push((now - op.submittedMs) * 1000)
      op.submittedMs = now
      if (now < endAt) pool.clients[op.chunk % pool.clients.length]!.submit(op)
      else if (--inFlight === 0) resolve(Float64Array.from(micros).sort())
    }
    for (let at = 0; at < depth; at++) {
      const op = new BlockOp()
      op.onDone = onDone
      op.chunk = at
      op.submittedMs = performance.now()
      pool.clients[at % pool.clients.length]!.submit(op)
    }
    pool.ring()
  })
}

const at = (sorted: Float64Array, share: number): string =>
  (sorted[Math.floor((sorted.length - 1) * share)] ?? 0).toFixed(1)

const burner = values.burn
  ? spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' })
  : null
await pool.start()
const ms = Number(values.ms)
process.stdout.write(
  `node ${process.version}, shards ${values.shards}, ` +
    `spin ${values.spin ?? 'default'}, main spin ${values['main-spin'] ?? 'default'}\n`
)
for (const depth of [1, 8, 32]) {
  await load(depth, ms / 2)
  const cpuBefore = process.cpuUsage()
  const began = performance.now()
  const sorted = await load(depth, ms)
  const seconds = (performance.now() - began) / 1000
  const { user, system } = process.cpuUsage(cpuBefore)
  process.stdout.write(
    `depth ${depth}: ${Math.round(sorted.length / seconds)} round trips/s, ` +
      `min ${at(sorted, 0)} median ${at(sorted, 0.5)} p99 ${at(sorted, 0.99)} us, ` +
      `${((user + system) / sorted.length).toFixed(2)} us CPU each\n`
  )
}
burner?.kill()
await pool.close()
