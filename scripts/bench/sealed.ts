/** An encrypted volume against a plain one of the same server, and against qemu-nbd on LUKS. */
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fillTwice } from './fill.ts'
import { type FioResult, nbdTarget, runFio } from './fio.ts'
import type { Job, Metric } from './rows.ts'
import type { SelfPlan, SelfReport } from './self.ts'
import { type BenchServer, startLuks, type TorusBenchServer } from './servers.ts'
import { median } from './statistics.ts'

interface SealedRow {
  readonly title: string
  readonly job: Job
  readonly metric: Metric
  /** Encrypted to plain: at least, or of latency at most. */
  readonly goal: number
}

/** Encrypted to LUKS, in every row. */
const LUKS_GOAL = 1.5
/** Compilers are done with what is measured then. */
const WARM_UP_SECONDS = 2
/** Filling a volume twice and reading it, of 1 GiB on the slowest of the three. */
const FILL_SECONDS = 10
const KiB = 1024
const MiB = 1024 * KiB

const small = (rw: Job['rw'], depth: number): Job => ({ rw, blockBytes: 4 * KiB, depth })
const large = (rw: Job['rw']): Job => ({ rw, blockBytes: MiB, depth: 16 })

const sealedRows: Readonly<Record<string, SealedRow>> = {
  'sealed-randread': {
    title: 'encrypted: random read 4 KiB, depth 32',
    job: small('randread', 32),
    metric: 'iops',
    goal: 0.85
  },
  'sealed-randwrite': {
    title: 'encrypted: random write 4 KiB, depth 32',
    job: small('randwrite', 32),
    metric: 'iops',
    goal: 0.85
  },
  'sealed-randread1': {
    title: 'encrypted: random read 4 KiB, depth 1',
    job: small('randread', 1),
    metric: 'latencyUs',
    goal: 1.15
  },
  'sealed-randwrite1': {
    title: 'encrypted: random write 4 KiB, depth 1',
    job: small('randwrite', 1),
    metric: 'latencyUs',
    goal: 1.15
  },
  'sealed-seqread': {
    title: 'encrypted: sequential read 1 MiB, depth 16',
    job: large('read'),
    metric: 'bytesPerSecond',
    goal: 0.6
  },
  'sealed-overwrite': {
    title: 'encrypted: sequential write 1 MiB, depth 16, overwriting',
    job: large('write'),
    metric: 'bytesPerSecond',
    goal: 0.6
  }
}

export const sealedRowIds: readonly string[] = Object.keys(sealedRows)

export const sealedSeconds = ({ rounds, seconds }: Omit<SelfPlan, 'note'>): number =>
  3 * (rounds * (seconds + 1) + WARM_UP_SECONDS + FILL_SECONDS)

export async function sealedRow(
  id: string,
  server: TorusBenchServer,
  plan: SelfPlan
): Promise<SelfReport> {
  const row = sealedRows[id]!
  const run = (uri: string, job: Job, seed: number, seconds: number): Promise<FioResult> =>
    runFio(job, { args: nbdTarget(uri), sizeBytes: plan.sizeBytes, seconds, seed })
  const luks = await startLuks(server.process.dataDir, plan.sizeBytes).catch((error: Error) => {
    plan.note(`without LUKS: ${error.message}`)
    return null
  })
  const targets = {
    plain: server.uri,
    encrypted: await encryptedUri(server, plan.sizeBytes),
    ...(luks === null ? {} : { luks: luks.uri })
  }
  const figures: Record<string, number[]> = {}
  try {
    for (const [name, uri] of Object.entries(targets)) {
      turn(server, luks, name)
      if (name !== 'plain') await fillTwice((job) => run(uri, job, 1, plan.seconds))
      await run(uri, row.job, 2, WARM_UP_SECONDS)
      figures[name] = []
    }
    for (let round = 0; round < plan.rounds; round++) {
      for (const [name, uri] of Object.entries(targets)) {
        turn(server, luks, name)
        figures[name]!.push((await run(uri, row.job, round + 10, plan.seconds))[row.metric])
      }
    }
  } finally {
    server.resume()
    await luks?.stop()
    await server.process.json('volume', 'delete', 'sealed', '--now', '--force', '--yes')
  }
  return reportOf(id, row, figures)
}

/** Only who is measured runs. */
function turn(server: BenchServer, luks: BenchServer | null, name: string): void {
  if (name === 'luks') server.pause()
  else server.resume()
  if (name === 'luks') luks?.resume()
  else luks?.pause()
}

async function encryptedUri(server: TorusBenchServer, sizeBytes: number): Promise<string> {
  const key = join(server.process.dataDir, 'bench-key')
  writeFileSync(key, randomBytes(32), { mode: 0o600 })
  const size = String(sizeBytes)
  await server.process.json('volume', 'create', 'sealed', size, '--encrypt', '--key-file', key)
  return server.process.uri('sealed')
}

function reportOf(
  id: string,
  { title, metric, goal }: SealedRow,
  figures: Readonly<Record<string, readonly number[]>>
): SelfReport {
  const { plain = [], encrypted = [], luks } = figures
  const isLatency = metric === 'latencyUs'
  const ratio = median(encrypted) / median(plain)
  const toLuks =
    luks === undefined
      ? null
      : isLatency
        ? median(luks) / median(encrypted)
        : median(encrypted) / median(luks)
  const beside = toLuks === null ? '' : `; ${toLuks.toFixed(2)}× qemu-nbd on LUKS`
  const texts = Object.entries(figures).map(([name, all]) => `${name} ${textOf(metric, all)}`)
  const meets = isLatency ? ratio <= goal : ratio >= goal
  return {
    id,
    title,
    measured: `${ratio.toFixed(2)}× plain${beside} (${texts.join(', ')})`,
    goal: `${isLatency ? '≤' : '≥'} ${goal}× plain, ≥ ${LUKS_GOAL}× LUKS`,
    met: meets && (toLuks ?? LUKS_GOAL) >= LUKS_GOAL,
    figures
  }
}

function textOf(metric: Metric, values: readonly number[]): string {
  const value = median(values)
  if (metric === 'bytesPerSecond') return `${(value / MiB).toFixed(0)} MiB/s`
  return metric === 'iops' ? `${value.toFixed(0)} IOPS` : `${value.toFixed(0)} µs`
}
