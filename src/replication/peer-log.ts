import type { Clock } from '../core/clock.ts'

/** What links tell an operator. */
export type PeerLogger = (level: 'debug' | 'info' | 'warn', message: string, fields: object) => void

/** So often one kind of event is told, with how many of it there were. */
const EVERY_MS = 10_000
/** Kinds that are remembered; beyond, all are forgotten and each is told again. */
const KINDS_MAX = 1024

/** Anybody can make us want to log: each kind of event is told once a while. */
export class OnceAWhile {
  private readonly clock: Clock
  private readonly log: PeerLogger
  private readonly seen = new Map<string, { untilMs: number; count: number }>()

  constructor(clock: Clock, log: PeerLogger) {
    this.clock = clock
    this.log = log
  }

  warn(kind: string, message: string, fields: object): void {
    const nowMs = this.clock.monotonicMs()
    const before = this.seen.get(kind)
    if (before !== undefined && nowMs < before.untilMs) {
      before.count++
      return
    }
    if (this.seen.size >= KINDS_MAX) this.seen.clear()
    this.seen.set(kind, { untilMs: nowMs + EVERY_MS, count: 0 })
    const others = before?.count ?? 0
    this.log('warn', message, others > 0 ? { ...fields, othersSince: others } : fields)
  }
}
