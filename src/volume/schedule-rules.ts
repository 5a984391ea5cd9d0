/**
 * When snapshots are taken by themselves, and which of them stay. Pure. Time is cut into slots that
 * begin at whole multiples of a rule's interval in UTC (hours at :00, days at midnight, weeks on
 * Mondays). A rule wants one snapshot in each slot, and the first one in it, whatever rule it was
 * taken for, stays for this rule while its slot is among the last `keep` that have one.
 */
import type { SnapshotRecord, VolumeRecord } from '../cluster/records.ts'
import { doneUntilMs } from '../cluster/snapshots.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  SCHEDULE_AHEAD_MS,
  SCHEDULE_EVERY_MS_MAX,
  SCHEDULE_EVERY_MS_MIN,
  SCHEDULE_KEEP_MAX,
  SCHEDULE_LATE_MS,
  SCHEDULE_RULES_MAX
} from '../core/limits.ts'
import { formatDurationExact } from '../core/units.ts'

export type Schedule = NonNullable<VolumeRecord['schedule']>
export type ScheduleRule = Schedule['rules'][number]

const DAY_MS = 24 * 3600 * 1000
const WEEK_MS = 7 * DAY_MS
/** 1970 began on a Thursday. */
const MONDAY_MS = 4 * DAY_MS

/** @throws StoreError InvalidArgument */
export function checkRules(rules: readonly ScheduleRule[]): void {
  if (rules.length === 0 || rules.length > SCHEDULE_RULES_MAX) {
    throw bad(`a schedule has 1 to ${SCHEDULE_RULES_MAX} rules, not ${rules.length}`)
  }
  for (const { everyMs, keep } of rules) checkRule(everyMs, keep)
  const intervals = new Set(rules.map(({ everyMs }) => everyMs))
  if (intervals.size < rules.length) throw bad('two rules of a schedule have the same --every')
  const kept = rules.reduce((sum, { keep }) => sum + keep, 0)
  if (kept > SCHEDULE_KEEP_MAX) {
    throw bad(`a schedule keeps ${SCHEDULE_KEEP_MAX} snapshots at most, not ${kept}`)
  }
}

function checkRule(everyMs: number, keep: number): void {
  if (!Number.isSafeInteger(everyMs) || everyMs < SCHEDULE_EVERY_MS_MIN) {
    const least = formatDurationExact(SCHEDULE_EVERY_MS_MIN)
    throw bad(`every ${formatDurationExact(everyMs)} is too often: ${least} is the least`)
  }
  if (everyMs > SCHEDULE_EVERY_MS_MAX) {
    const most = formatDurationExact(SCHEDULE_EVERY_MS_MAX)
    throw bad(`every ${formatDurationExact(everyMs)} is too rare: ${most} is the most`)
  }
  if (everyMs % SCHEDULE_EVERY_MS_MIN !== 0) {
    throw bad(`every ${formatDurationExact(everyMs)} is not a whole number of minutes`)
  }
  if (Number.isSafeInteger(keep) && keep >= 1) return
  const advice = 'keep 1 or more; --off ends a schedule and leaves its snapshots'
  throw bad(`keep ${keep} would delete each snapshot at once: ${advice}`)
}

const bad = (text: string): StoreError => new StoreError(ErrorCode.InvalidArgument, text)

/** Begin of the slot that `atMs` is in. */
function slotOf(atMs: number, everyMs: number): number {
  const shift = everyMs % WEEK_MS === 0 ? MONDAY_MS : 0
  return Math.floor((atMs - shift) / everyMs) * everyMs + shift
}

/** What a schedule wants now. */
export interface DueSnapshot {
  /** Begin of the youngest slot that wants one. */
  readonly dueMs: number
  /** Slots, of the rule that missed most, whose snapshot is late or will never be. */
  readonly missed: number
  /** Begin of the first of them. */
  readonly missedSinceMs: number
}

/** null: nothing. */
export function dueSnapshot(schedule: Schedule, nowMs: number): DueSnapshot | null {
  const { rules } = schedule
  const known = doneUntilMs(schedule, nowMs)
  const shortest = Math.min(...rules.map(({ everyMs }) => everyMs))
  // Nothing is known: as if the last slot was the first.
  const doneMs = known > 0 ? known : slotOf(nowMs, shortest) - 1
  let dueMs = -1
  let missed = 0
  let missedSinceMs = 0
  for (const { everyMs } of rules) {
    const slotMs = slotOf(nowMs, everyMs)
    if (slotMs <= doneMs) continue
    dueMs = Math.max(dueMs, slotMs)
    const firstMs = slotOf(doneMs, everyMs) + everyMs
    const isLate = nowMs - slotMs >= SCHEDULE_LATE_MS
    const count = (slotMs - firstMs) / everyMs + (isLate ? 1 : 0)
    if (count <= missed) continue
    missed = count
    missedSinceMs = firstMs
  }
  return dueMs < 0 ? null : { dueMs, missed, missedSinceMs }
}

/** When the next one is due. */
export function nextDueMs(schedule: Schedule, nowMs: number): number {
  const fromMs = Math.max(doneUntilMs(schedule, nowMs), nowMs)
  return Math.min(...schedule.rules.map(({ everyMs }) => slotOf(fromMs, everyMs) + everyMs))
}

/** `auto-2026-01-31T12:00Z`: minutes of UTC. */
export const scheduledName = (atMs: number): string =>
  `auto-${new Date(atMs).toISOString().slice(0, 16)}Z`

/** Did a schedule take it, and nobody give it a name since? */
export const isScheduled = ({ scheduled, name }: SnapshotRecord): boolean =>
  scheduled !== undefined && scheduled.name === name

/**
 * Of the snapshots of a volume those that no rule keeps. What is not a schedule's own stays. Those
 * that a clock took which was ahead are counted apart until their time comes: they would stay as
 * the last of all, and each one taken since would go at once.
 */
export function expiredSnapshots(
  rules: readonly ScheduleRule[],
  snapshots: readonly SnapshotRecord[],
  nowMs: number
): SnapshotRecord[] {
  const own = snapshots.filter(isScheduled).map((snapshot) => ({
    snapshot,
    dueMs: Date.parse(snapshot.scheduled!.due)
  }))
  own.sort((one, other) => one.dueMs - other.dueMs)
  const isAhead = ({ dueMs }: { dueMs: number }): boolean => dueMs > nowMs + SCHEDULE_AHEAD_MS
  const kept = new Set<SnapshotRecord>()
  for (const some of [own.filter((each) => !isAhead(each)), own.filter(isAhead)]) {
    for (const { everyMs, keep } of rules) {
      const firsts = new Map<number, SnapshotRecord>()
      for (const { snapshot, dueMs } of some) {
        const slotMs = slotOf(dueMs, everyMs)
        if (!firsts.has(slotMs)) firsts.set(slotMs, snapshot)
      }
      for (const snapshot of [...firsts.values()].slice(-keep)) kept.add(snapshot)
    }
  }
  const gone = own.filter(({ snapshot }) => !kept.has(snapshot) && snapshot.protected !== true)
  return gone.map(({ snapshot }) => snapshot)
}
