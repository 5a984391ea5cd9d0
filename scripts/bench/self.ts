/** Torus against itself: what flushes, compaction and repeated filling cost, and its memory. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type FioResult, nbdTarget, runFio } from './fio.ts'
import { lifeRow, lifeRowIds, lifeSeconds } from './life.ts'
import type { Job } from './rows.ts'
import { sealedRow, sealedRowIds, sealedSeconds } from './sealed.ts'
import type { TorusBenchServer } from './servers.ts'
import { median } from './statistics.ts'
import { peakBytes } from './usage.ts'

export interface SelfReport {
  readonly id: string
  readonly title: string
  /** What was measured, in words and figures. */
  readonly measured: string
  readonly goal: string
  readonly met: boolean
  /** Every figure behind it. */
  readonly figures: Readonly<Record<string, readonly number[]>>
}

export interface SelfPlan {
  readonly rounds: number
  readonly seconds: number
  readonly sizeBytes: number
  note(text: string): void
}

type SelfRow = (server: TorusBenchServer, plan: SelfPlan) => Promise<SelfReport>

const selfRows: Readonly<Record<string, SelfRow>> = {
  'self-flush': flushRow,
  'self-compaction': compactionRow,
  'self-fill': fillRow,
  'self-memory': memoryRow,
  ...Object.fromEntries(
    sealedRowIds.map((id): [string, SelfRow] => [id, (server, plan) => sealedRow(id, server, plan)])
  ),
  ...Object.fromEntries(
    lifeRowIds.map((id): [string, SelfRow] => [id, (server, plan) => lifeRow(id, server, plan)])
  )
}

export const selfRowIds: readonly string[] = Object.keys(selfRows)

export async function runSelfRow(
  id: string,
  server: TorusBenchServer,
  plan: SelfPlan
): Promise<SelfReport> {
  const report = await selfRows[id]!(server, plan)
  plan.note(`${id}: ${report.measured}`)
  return report
}

/** About how long a row takes, for the estimate. */
export function selfSeconds(id: string, plan: Omit<SelfPlan, 'note'>): number {
  const { rounds, seconds, sizeBytes } = plan
  const short = Math.min(seconds, 3)
  if (sealedRowIds.includes(id)) return sealedSeconds(plan)
  if (lifeRowIds.includes(id)) return lifeSeconds(id, plan)
  if (id === 'self-flush') return rounds * 2 * (seconds + 1)
  if (id === 'self-compaction') return rounds * (2 * (seconds + short) + 10)
  if (id === 'self-fill') return (FILLS * sizeBytes) / 4096 / FILL_WRITES_PER_SECOND
  return CROWD.length * (Math.min(seconds, 4) + 2)
}

const FILL_WRITES_PER_SECOND = 50_000
const KiB = 1024
const MiB = 1024 * KiB
const READERS: Job = { rw: 'randread', blockBytes: 4 * KiB, depth: 8 }
const FLUSHER: Job = { rw: 'randwrite', blockBytes: 4 * KiB, depth: 1, fsync: 1 }
const SCATTER: Job = { rw: 'randwrite', blockBytes: 4 * KiB, depth: 32 }
const FILL: Job = { rw: 'randwrite', blockBytes: 4 * KiB, depth: 32, wholeSize: true }

interface Totals {
  readonly usedBytes: number
  readonly liveBytes: number
  readonly indexBytes: number
  readonly compactionActive: number
}

interface StatusShards {
  readonly shards: readonly { readonly stats: Totals }[]
}

/** Over HTTP: a command of its own would take half a second of a core from what is measured. */
async function admin(server: TorusBenchServer, method: string, path: string): Promise<unknown> {
  const response = await fetch(`${server.process.adminUrl}${path}`, { method })
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status}`)
  return await response.json()
}

async function totals(server: TorusBenchServer): Promise<Totals> {
  const { shards } = (await admin(server, 'GET', '/v1/status')) as StatusShards
  const sum = (of: (stats: Totals) => number): number =>
    shards.reduce((total, { stats }) => total + of(stats), 0)
  return {
    usedBytes: sum((stats) => stats.usedBytes),
    liveBytes: sum((stats) => stats.liveBytes),
    indexBytes: sum((stats) => stats.indexBytes),
    compactionActive: sum((stats) => stats.compactionActive)
  }
}

const job = (
  server: TorusBenchServer,
  plan: SelfPlan,
  what: Job,
  seed: number,
  uri = server.uri,
  seconds = plan.seconds
): Promise<FioResult> =>
  runFio(what, { args: nbdTarget(uri), sizeBytes: plan.sizeBytes, seconds, seed })

async function flushRow(server: TorusBenchServer, plan: SelfPlan): Promise<SelfReport> {
  const alone: number[] = []
  const beside: number[] = []
  const flushes: number[] = []
  for (let round = 0; round < plan.rounds; round++) {
    alone.push((await job(server, plan, READERS, round)).p99Us)
    const [reads, writes] = await Promise.all([
      job(server, plan, READERS, round),
      job(server, plan, FLUSHER, round + 100)
    ])
    beside.push(reads.p99Us)
    flushes.push(writes.syncs / writes.seconds)
  }
  const ratio = median(beside) / median(alone)
  const rate = `${median(flushes).toFixed(0)} flushes/s`
  return {
    id: 'self-flush',
    title: 'p99 of random reads at depth 8 while another client flushes',
    measured: `${ratio.toFixed(2)}× (${us(alone)} alone, ${us(beside)} beside ${rate})`,
    goal: '≤ 3×',
    met: ratio <= 3,
    figures: { aloneP99Us: alone, besideP99Us: beside, flushesPerSecond: flushes }
  }
}

const us = (values: readonly number[]): string => `${median(values).toFixed(0)} µs`

async function compactionRow(server: TorusBenchServer, plan: SelfPlan): Promise<SelfReport> {
  const figures = { aloneP99Us: [] as number[], duringP99Us: [] as number[] }
  const speeds = { aloneIops: [] as number[], duringIops: [] as number[] }
  const activeShare: number[] = []
  const seconds = Math.min(plan.seconds, 3) // compaction has to last as long
  for (let round = 0; round < plan.rounds; round++) {
    await job(server, plan, SCATTER, round + 1, server.uri, plan.seconds)
    await untilCompacted(server)
    const alone = await job(server, plan, READERS, round, server.uri, seconds)
    await job(server, plan, SCATTER, round + 50, server.uri, plan.seconds)
    const watch = watchCompaction(server)
    await admin(server, 'POST', '/v1/tasks/compact/start')
    const during = await job(server, plan, READERS, round, server.uri, seconds)
    activeShare.push(await watch())
    await untilCompacted(server)
    figures.aloneP99Us.push(alone.p99Us)
    figures.duringP99Us.push(during.p99Us)
    speeds.aloneIops.push(alone.iops)
    speeds.duringIops.push(during.iops)
  }
  const latency = median(figures.duringP99Us) / median(figures.aloneP99Us)
  const speed = median(speeds.duringIops) / median(speeds.aloneIops)
  const share = `it ran ${(median(activeShare) * 100).toFixed(0)} % of the time`
  const p99 = `p99 ${latency.toFixed(2)}× (${us(figures.aloneP99Us)} → ${us(figures.duringP99Us)})`
  return {
    id: 'self-compaction',
    title: 'random reads at depth 8 while compaction runs',
    measured: `${p99}, throughput ${speed.toFixed(2)}×; ${share}`,
    goal: 'p99 ≤ 3×, throughput ≥ 0.6×',
    met: latency <= 3 && speed >= 0.6,
    figures: { ...figures, ...speeds, activeShare }
  }
}

/** Waits until nothing is compacted, a minute at most. */
async function untilCompacted(server: TorusBenchServer): Promise<void> {
  for (let tries = 0; tries < 120; tries++) {
    if ((await totals(server)).compactionActive === 0) return
    await sleep(500)
  }
}

/** Looks now and then; the function returned ends it and tells the share of looks that saw it. */
function watchCompaction(server: TorusBenchServer): () => Promise<number> {
  let [looks, seen, stopped] = [0, 0, false]
  const loop = (async () => {
    while (!stopped) {
      await sleep(300)
      if (stopped) break
      const { compactionActive } = await totals(server)
      looks++
      if (compactionActive > 0) seen++
    }
  })()
  return async () => {
    stopped = true
    await loop
    return looks === 0 ? 0 : seen / looks
  }
}

const FILLS = 6

async function fillRow(server: TorusBenchServer, plan: SelfPlan): Promise<SelfReport> {
  const uri = await server.freshUri()
  const before = await totals(server)
  const iops: number[] = []
  const space: number[] = []
  for (let fill = 0; fill < FILLS; fill++) {
    iops.push((await job(server, plan, FILL, fill + 1, uri)).iops)
    const now = await totals(server)
    space.push(now.usedBytes / now.liveBytes)
    plan.note(
      `fill ${fill + 1}: ${iops.at(-1)!.toFixed(0)} IOPS, space ${space.at(-1)!.toFixed(2)}×`
    )
  }
  await server.dropFresh()
  const first = iops[0]!
  const speed = Math.min(...iops.slice(1)) / first
  const used = Math.max(...space.slice(1))
  return {
    id: 'self-fill',
    title: 'filling a volume 5 times over with random 4 KiB writes',
    measured:
      `throughput ${speed.toFixed(2)}× of the first fill's ${first.toFixed(0)} IOPS at worst, ` +
      `space ${used.toFixed(2)}× live data at most`,
    goal: 'throughput ≥ 0.7×, space ≤ 1.4×',
    met: speed >= 0.7 && used <= 1.4,
    figures: { iops, space, usedBytesBefore: [before.usedBytes] }
  }
}

const CROWD: readonly Job[] = [
  { rw: 'randwrite', blockBytes: 64 * KiB, depth: 32, connections: 64 },
  { rw: 'randread', blockBytes: 64 * KiB, depth: 32, connections: 64 },
  { rw: 'read', blockBytes: MiB, depth: 32, connections: 16 },
  { rw: 'write', blockBytes: MiB, depth: 32, connections: 16 }
]

async function memoryRow(server: TorusBenchServer, plan: SelfPlan): Promise<SelfReport> {
  for (const [at, crowd] of CROWD.entries()) {
    await job(server, plan, crowd, at + 1, server.uri, Math.min(plan.seconds, 4))
  }
  const { indexBytes } = await totals(server)
  const peak = peakBytes(server.pid)
  const rest = (peak - indexBytes) / MiB
  const index = `${(indexBytes / MiB).toFixed(0)} of them index`
  const told = `${(peak / MiB).toFixed(0)} MiB at most, ${index}`
  return {
    id: 'self-memory',
    title: 'memory of the process after all of this and crowds of 64 connections',
    measured: `${rest.toFixed(0)} MiB without the index (${told})`,
    goal: '≤ 300 MiB and the index',
    met: rest <= 300,
    figures: { peakBytes: [peak], indexBytes: [indexBytes] }
  }
}
