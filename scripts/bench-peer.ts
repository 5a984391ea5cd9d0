/**
 * What does a link between peers cost? A member over memory in a process of its own, a gateway in
 * this one: operations or bytes per second, latency, and processor time per operation on both
 * sides. Reports, and never fails on a figure.
 *
 *   node dist/scripts/bench-peer.js [--seconds 2] [--rounds 3] [--tls DIR] [--only NAME]
 *
 * Exit codes: 0 measured, 1 something could not run, 2 usage.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { BLOCK_BYTES, CHUNK_BLOCKS } from '../src/core/limits.ts'
import { SharedArena } from '../src/handoff/arena.ts'
import { BlockOp, OpKind } from '../src/replication/block-store.ts'
import type { Member } from '../src/replication/member.ts'
import { PeerLinks } from '../src/replication/peer-links.ts'
import { PeerSecurity } from '../src/replication/peer-security.ts'
import { PeerServer } from '../src/replication/peer-server.ts'
import { MemoryMember } from '../test/helpers/memory-member.ts'
import { parseArgs } from './arguments.ts'

const CHUNKS = 16
const ids = { clusterId: 'c1'.repeat(16), secret: 'only for measuring, and nothing else' }
const server = { clusterId: ids.clusterId, peerId: '51'.repeat(16), bootId: '52'.repeat(16) }
const client = { clusterId: ids.clusterId, peerId: 'c2'.repeat(16), bootId: 'c3'.repeat(16) }

interface Job {
  readonly name: string
  readonly kind: number
  readonly blocks: number
  readonly depth: number
}

const jobs: readonly Job[] = [
  { name: 'read 4 KiB, depth 32', kind: OpKind.Read, blocks: 1, depth: 32 },
  { name: 'write 4 KiB, depth 32', kind: OpKind.Write, blocks: 1, depth: 32 },
  { name: 'read 4 KiB, depth 1', kind: OpKind.Read, blocks: 1, depth: 1 },
  { name: 'write 4 KiB, depth 1', kind: OpKind.Write, blocks: 1, depth: 1 },
  { name: 'read 64 KiB, depth 16', kind: OpKind.Read, blocks: 16, depth: 16 },
  { name: 'write 64 KiB, depth 16', kind: OpKind.Write, blocks: 16, depth: 16 },
  { name: 'read 1 MiB, depth 16', kind: OpKind.Read, blocks: 256, depth: 16 },
  { name: 'write 1 MiB, depth 16', kind: OpKind.Write, blocks: 256, depth: 16 }
]

interface Result {
  readonly opsPerSecond: number
  readonly bytesPerSecond: number
  readonly p50Us: number
  readonly p99Us: number
  readonly gatewayUs: number
  readonly memberUs: number
}

function security(directory: string | undefined): Promise<PeerSecurity> {
  if (directory === undefined) return Promise.resolve(PeerSecurity.ofSecret(ids.secret))
  return PeerSecurity.load({
    secretFile: null,
    tlsCa: `${directory}/ca-cert.pem`,
    tlsCert: `${directory}/server-cert.pem`,
    tlsKey: `${directory}/server-key.pem`
  })
}

const cpuUs = (): number => {
  const { user, system } = process.cpuUsage()
  return user + system
}

/** Keeps `depth` ops of one job going for a time. */
class Load {
  readonly latenciesUs: number[] = []
  private readonly member: Member
  private readonly job: Job
  private readonly arena: SharedArena
  private left = 0
  private stopped = false
  private random = 12_345
  private readonly onIdle: () => void
  private batched = false

  constructor(member: Member, job: Job, arena: SharedArena, onIdle: () => void) {
    this.member = member
    this.job = job
    this.arena = arena
    this.onIdle = onIdle
  }

  start(): void {
    const { job } = this
    for (let index = 0; index < job.depth; index++) {
      const op = new BlockOp()
      op.kind = job.kind
      op.familyLow = 1
      op.layerLow = 1
      op.blockCount = job.blocks
      op.payload = this.arena.acquire(job.blocks)
      this.arena.bytes.fill(index + 1, op.payload, op.payload + job.blocks * BLOCK_BYTES)
      op.onDone = this.done
      this.left++
      this.submit(op)
    }
    this.member.ring()
  }

  stop(): void {
    this.stopped = true
  }

  private submit(op: BlockOp): void {
    this.random = (Math.imul(this.random, 1_103_515_245) + 12_345) >>> 0
    const { blocks } = this.job
    op.chunk = (this.random >>> 8) % CHUNKS
    op.firstBlock = ((this.random >>> 12) % (CHUNK_BLOCKS / blocks)) * blocks
    op.sequence++
    op.submittedMs = performance.now()
    this.member.submit(op)
  }

  private readonly done = (op: BlockOp): void => {
    if (op.error !== 0) throw new Error(`error ${op.error}`)
    this.latenciesUs.push((performance.now() - op.submittedMs) * 1000)
    if (this.stopped) {
      this.arena.release(op.payload)
      if (--this.left === 0) this.onIdle()
      return
    }
    this.submit(op)
    if (this.batched) return
    // As the coordinator does: one ring for all answers of a tick.
    this.batched = true
    queueMicrotask(this.ring)
  }

  private readonly ring = (): void => {
    this.batched = false
    this.member.ring()
  }
}

async function askCpu(child: ChildProcess): Promise<number> {
  const answer = new Promise<number>((resolve) => child.once('message', resolve as () => void))
  child.send('cpu')
  return await answer
}

async function measure(
  child: ChildProcess,
  member: Member,
  arena: SharedArena,
  job: Job,
  seconds: number
): Promise<Result> {
  let idle = (): void => {}
  const ended = new Promise<void>((resolve) => {
    idle = resolve
  })
  const load = new Load(member, job, arena, () => idle())
  const memberBefore = await askCpu(child)
  const before = cpuUs()
  const startMs = performance.now()
  load.start()
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000))
  load.stop()
  await ended
  const elapsed = (performance.now() - startMs) / 1000
  const after = cpuUs()
  const memberAfter = await askCpu(child)
  const sorted = Float64Array.from(load.latenciesUs).sort()
  const count = sorted.length
  return {
    opsPerSecond: count / elapsed,
    bytesPerSecond: (count * job.blocks * BLOCK_BYTES) / elapsed,
    p50Us: sorted[Math.floor(count * 0.5)]!,
    p99Us: sorted[Math.floor(count * 0.99)]!,
    gatewayUs: (after - before) / count,
    memberUs: (memberAfter - memberBefore) / count
  }
}

function line(job: Job, results: readonly Result[]): string {
  const of = (pick: (result: Result) => number): number =>
    results.map(pick).toSorted((a, b) => a - b)[Math.floor(results.length / 2)]!
  const speed = `${of((each) => each.opsPerSecond)
    .toFixed(0)
    .padStart(8)} ops/s`
  const bytes = `${(of((each) => each.bytesPerSecond) / 1e9).toFixed(2).padStart(6)} GB/s`
  const cpu = [of((each) => each.gatewayUs), of((each) => each.memberUs)].map((us) =>
    us.toFixed(1).padStart(6)
  )
  const p50 = of((each) => each.p50Us).toFixed(0)
  const p99 = of((each) => each.p99Us).toFixed(0)
  const sides = `us CPU each: gateway ${cpu[0]}, member ${cpu[1]}`
  return `${job.name.padEnd(24)} ${speed} ${bytes}  ${sides}  p50 ${p50} us, p99 ${p99} us`
}

/** The member's process: says where it listens, then its processor time when asked. */
async function serve(tls: string | undefined): Promise<void> {
  const arena = new SharedArena()
  const service = new MemoryMember(arena)
  for (let chunk = 0; chunk < CHUNKS; chunk++) service.chunk(chunk).fill(chunk + 1)
  const parts = { service, arena, security: await security(tls) }
  const listening = new PeerServer({ identity: server, ...parts })
  const at = await listening.listen({ host: '127.0.0.1', port: 0 })
  process.on('message', () => process.send!(cpuUs()))
  process.on('disconnect', () => process.exit(0))
  process.send!(at.port)
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '2' },
      rounds: { type: 'string', default: '3' },
      tls: { type: 'string' },
      only: { type: 'string', default: '' },
      member: { type: 'boolean', default: false }
    }
  })
  if (values.member) {
    await serve(values.tls)
    return 0
  }
  const seconds = Number(values.seconds)
  const rounds = Number(values.rounds)
  if (!(seconds > 0 && rounds > 0)) return 2
  const args = ['--member', ...(values.tls === undefined ? [] : ['--tls', values.tls])]
  const execArgv = process.env['MEMBER_NODE_ARGS']?.split(' ') ?? []
  const child = fork(fileURLToPath(import.meta.url), args, { execArgv })
  const port = await new Promise<number>((resolve) => child.once('message', resolve as () => void))
  const arena = new SharedArena()
  const links = new PeerLinks({
    identity: client,
    arena,
    security: await security(values.tls),
    addressOf: () => ({ host: '127.0.0.1', port, bootId: server.bootId }),
    log: (_level, message, fields) => console.error(message, fields)
  })
  try {
    const member = await new Promise<Member>((resolve) => {
      links.onChange((peerId) => resolve(links.find(peerId)!))
      links.find(server.peerId)
    })
    for (const job of jobs) {
      if (!job.name.includes(values.only)) continue
      const results: Result[] = []
      // One round more than asked for: nothing is measured before it is compiled and paged in.
      for (let round = 0; round <= rounds; round++) {
        const result = await measure(child, member, arena, job, seconds)
        if (round > 0) results.push(result)
      }
      console.log(line(job, results))
    }
    return 0
  } finally {
    links.close()
    child.disconnect()
  }
}

process.exitCode = await main()
