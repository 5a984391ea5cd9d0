/** What snapshots cost clients, and what a greedy volume costs another one. */
import { setTimeout as sleep } from 'node:timers/promises'
import { NbdClient } from '../../src/nbd/client.ts'
import { NBD_CMD_FLUSH, NBD_CMD_WRITE } from '../../src/nbd/protocol.ts'
import { type FioResult, nbdTarget, runFio } from './fio.ts'
import type { Job } from './rows.ts'
import type { SelfPlan, SelfReport } from './self.ts'
import type { TorusBenchServer } from './servers.ts'
import { median } from './statistics.ts'

const BLOCK_BYTES = 4096
const MiB = 2 ** 20
const SNAPSHOTS = 20
const LAYERS = 100
/** Of the volume with layers; in each layer one block in a hundred is written. */
const LAYERS_BYTES = 256 * MiB
const LAYER_WRITES = LAYERS_BYTES / BLOCK_BYTES / 100
const VICTIM_SECONDS_MAX = 4
const VOLUMES = ['life-a', 'life-b'] as const

type LifeRow = (server: TorusBenchServer, plan: SelfPlan) => Promise<SelfReport>

const rows: Readonly<Record<string, LifeRow>> = {
  'life-snapshot': snapshotRow,
  'life-layers': layersRow,
  'life-fair': fairRow
}
export const lifeRowIds: readonly string[] = Object.keys(rows)

/** About how long a row takes, for the estimate. */
export function lifeSeconds(id: string, { rounds, seconds }: Omit<SelfPlan, 'note'>): number {
  const short = Math.min(seconds, VICTIM_SECONDS_MAX)
  if (id === 'life-fair') return rounds * PAIRS.length * 2 * (short + 2)
  return id === 'life-snapshot' ? 15 : 20 + rounds * 6 * (short + 1)
}

export async function lifeRow(
  id: string,
  server: TorusBenchServer,
  plan: SelfPlan
): Promise<SelfReport> {
  try {
    for (const name of VOLUMES) {
      await server.process.createVolume(name, String(Math.max(plan.sizeBytes / 4, LAYERS_BYTES)))
    }
    return await rows[id]!(server, plan)
  } finally {
    for (const name of VOLUMES) {
      await server.process.json('volume', 'delete', name, '--now', '--force', '--yes')
    }
  }
}

/** Requests that go on until `stop`, each when the one before is answered. */
class Load {
  /** Ends of requests and how long they took, in milliseconds. */
  readonly taken: { readonly atMs: number; readonly ms: number }[] = []
  readonly #client: NbdClient
  readonly #payload = Buffer.alloc(BLOCK_BYTES, 0x5a)
  readonly #begunMs = new Map<number, number>()
  #left = Number.POSITIVE_INFINITY
  #inFlight = 0
  #onIdle: () => void = () => {}

  private constructor(client: NbdClient) {
    this.#client = client
    client.onReply = (slot, error) => {
      if (error !== 0) throw new Error(`a request failed with ${error}`)
      const atMs = performance.now()
      this.taken.push({ atMs, ms: atMs - this.#begunMs.get(slot)! })
      this.#inFlight--
      this.#write(slot)
    }
  }

  static async connect(server: TorusBenchServer, exportName: string, slots: number) {
    const endpoint = { host: '127.0.0.1', port: server.process.nbdPort }
    const options = { endpoint, exportName, slots, payloadBytesMax: BLOCK_BYTES }
    return new Load(await NbdClient.connect(options))
  }

  /** Random writes, so many of them; resolves when they are answered. */
  run(slots: number, count = Number.POSITIVE_INFINITY): Promise<void> {
    this.#left = count
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve
    })
    for (let slot = 0; slot < slots; slot++) this.#write(slot)
    this.#client.send()
    return idle
  }

  stop(): void {
    this.#left = 0
  }

  flush(): Promise<void> {
    const done = this.run(0, 0)
    this.#inFlight++
    this.#begunMs.set(0, performance.now())
    this.#client.submit(0, NBD_CMD_FLUSH, 0, 0, null)
    this.#client.send()
    return done
  }

  close(): void {
    this.#client.close()
  }

  #write(slot: number): void {
    if (this.#left > 0) {
      this.#left--
      this.#inFlight++
      const blocks = Math.floor(this.#client.sizeBytes / BLOCK_BYTES)
      const offset = Math.floor(Math.random() * blocks) * BLOCK_BYTES
      this.#begunMs.set(slot, performance.now())
      this.#client.submit(slot, NBD_CMD_WRITE, offset, BLOCK_BYTES, this.#payload)
    } else if (this.#inFlight === 0) this.#onIdle()
  }
}

/** Over HTTP: a command of its own would take half a second of a core from what is measured. */
async function snapshot(server: TorusBenchServer, volume: string, name: string): Promise<void> {
  const response = await fetch(`${server.process.adminUrl}/v1/volumes/${volume}/snapshots`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name })
  })
  if (!response.ok) throw new Error(`snapshot ${name}: ${await response.text()}`)
}

async function snapshotRow(server: TorusBenchServer): Promise<SelfReport> {
  const [volume] = VOLUMES
  const load = await Load.connect(server, volume, 8)
  const flusher = await Load.connect(server, volume, 1)
  const running = load.run(8)
  await sleep(2000)
  const windows: { fromMs: number; toMs: number }[] = []
  const flushes: { fromMs: number; toMs: number }[] = []
  const took: number[] = []
  for (let i = 0; i < SNAPSHOTS; i++) {
    const fromMs = performance.now()
    await snapshot(server, volume, `s${i}`)
    const toMs = performance.now()
    took.push(toMs - fromMs)
    windows.push({ fromMs, toMs })
    await sleep(300)
    const flushMs = performance.now()
    await flusher.flush()
    flushes.push({ fromMs: flushMs, toMs: performance.now() })
    await sleep(300)
  }
  load.stop()
  await running
  load.close()
  flusher.close()
  const longest = ({ fromMs, toMs }: { fromMs: number; toMs: number }): number =>
    Math.max(
      0,
      ...load.taken.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs).map(({ ms }) => ms)
    )
  const waits = windows.map(longest)
  const flushWaits = flushes.map(longest)
  const text = `longest write during one ${spread(waits)}, during a flush ${spread(flushWaits)}`
  return {
    id: 'life-snapshot',
    title: `${SNAPSHOTS} snapshots while a client writes 4 KiB at depth 8`,
    measured: `${text}; taking one ${spread(took)}`,
    goal: 'a few ms more than a flush',
    met: median(waits) <= median(flushWaits) + 5,
    figures: { waitMs: waits, flushWaitMs: flushWaits, tookMs: took }
  }
}

/** 'p50 1.2, p99 3.4, max 5.6 ms'. */
function spread(values: readonly number[]): string {
  const sorted = [...values].sort((one, other) => one - other)
  const at = (part: number): string =>
    sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]!.toFixed(1)
  return `p50 ${at(0.5)}, p99 ${at(0.99)}, max ${sorted.at(-1)!.toFixed(1)} ms`
}

const READS: readonly (readonly [string, Job, 'iops' | 'bytesPerSecond'])[] = [
  ['4 KiB', { rw: 'randread', blockBytes: BLOCK_BYTES, depth: 32 }, 'iops'],
  ['64 KiB', { rw: 'randread', blockBytes: 16 * BLOCK_BYTES, depth: 16 }, 'bytesPerSecond'],
  ['1 MiB', { rw: 'randread', blockBytes: MiB, depth: 8 }, 'bytesPerSecond']
]

/** The same writes go to a volume with a snapshot before each piece of them, and to one without. */
async function layersRow(server: TorusBenchServer, plan: SelfPlan): Promise<SelfReport> {
  const [layered, plain] = VOLUMES
  const sizeBytes = LAYERS_BYTES
  for (const name of VOLUMES) {
    const fill: Job = { rw: 'write', blockBytes: MiB, depth: 8, wholeSize: true }
    const args = nbdTarget(server.process.uri(name))
    await runFio(fill, { args, sizeBytes, seconds: 1, seed: 1 })
    const load = await Load.connect(server, name, 16)
    for (let layer = 1; layer < LAYERS; layer++) {
      if (name === layered) await snapshot(server, name, `s${layer}`)
      await load.run(16, LAYER_WRITES)
    }
    load.close()
  }
  const seconds = Math.min(plan.seconds, VICTIM_SECONDS_MAX)
  const figures: Record<string, number[]> = {}
  const told: string[] = []
  let worst = 0
  for (const [what, job, metric] of READS) {
    const ratios: number[] = []
    for (let round = 0; round < plan.rounds; round++) {
      const of = async (name: string): Promise<number> => {
        const args = nbdTarget(server.process.uri(name))
        return (await runFio(job, { args, sizeBytes, seconds, seed: round }))[metric]
      }
      if (round === 0) await of(layered) // what each block is read from is known from then on
      ratios.push((await of(plain)) / (await of(layered)))
    }
    figures[what] = ratios
    worst = Math.max(worst, median(ratios))
    told.push(`${what} ${median(ratios).toFixed(2)}×`)
  }
  return {
    id: 'life-layers',
    title: `random reads through ${LAYERS} layers to those through one`,
    measured: `${told.join(', ')} as long`,
    goal: '≤ 1.5×',
    met: worst <= 1.5,
    figures
  }
}

const PAIRS: readonly (readonly [victim: Job['rw'], greedy: Job['rw']])[] = [
  ['randread', 'randread'],
  ['randread', 'randwrite'],
  ['randwrite', 'randread'],
  ['randwrite', 'randwrite']
]

async function fairRow(server: TorusBenchServer, plan: SelfPlan): Promise<SelfReport> {
  const [mine, greedy] = VOLUMES
  const sizeBytes = LAYERS_BYTES
  const seconds = Math.min(plan.seconds, VICTIM_SECONDS_MAX)
  const run = (name: string, rw: Job['rw'], depth: number, more: number): Promise<FioResult> => {
    const args = nbdTarget(server.process.uri(name))
    const job: Job = { rw, blockBytes: BLOCK_BYTES, depth }
    return runFio(job, { args, sizeBytes, seconds: seconds + more, seed: depth })
  }
  for (const name of VOLUMES) {
    const args = nbdTarget(server.process.uri(name))
    const fill: Job = { rw: 'write', blockBytes: MiB, depth: 8, wholeSize: true }
    await runFio(fill, { args, sizeBytes, seconds: 1, seed: 1 })
  }
  const figures: Record<string, number[]> = {}
  const told: string[] = []
  let worst = 0
  for (const [victim, other] of PAIRS) {
    const what = `${victim.slice(4)} beside ${other.slice(4)}`
    const ratios: number[] = []
    for (let round = 0; round < plan.rounds; round++) {
      const alone = (await run(mine, victim, 1, 0)).p99Us
      const beside = run(greedy, other, 256, 2)
      await sleep(1000)
      ratios.push((await run(mine, victim, 1, 0)).p99Us / alone)
      await beside
    }
    figures[what] = ratios
    worst = Math.max(worst, median(ratios))
    told.push(`${what} ${median(ratios).toFixed(1)}×`)
  }
  return {
    id: 'life-fair',
    title: 'p99 of a volume at depth 1 beside one at depth 256, to alone',
    measured: told.join(', '),
    goal: '≤ 3×',
    met: worst <= 3,
    figures
  }
}
