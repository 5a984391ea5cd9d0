import type { Cluster } from '../cluster/cluster.ts'
import { isHidden } from '../cluster/hidden-volumes.ts'
import { decodeRecord, type VolumeRecord } from '../cluster/records.ts'
import { SnapshotDirectory } from '../cluster/snapshots.ts'
import { VolumeDirectory } from '../cluster/volume-directory.ts'
import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'
import { SCHEDULE_PARALLEL, SCHEDULE_RETRY_MS } from '../core/limits.ts'
import { formatDurationExact } from '../core/units.ts'
import {
  checkRules,
  type DueSnapshot,
  dueSnapshot,
  expiredSnapshots,
  isScheduled,
  nextDueMs,
  type Schedule,
  type ScheduleRule,
  scheduledName
} from './schedule-rules.ts'
import type { Volumes } from './volumes.ts'

/** A volume's schedule as it is shown. Times are ISO 8601. */
export interface ScheduleInfo {
  readonly volume: string
  readonly rules: readonly ScheduleRule[]
  readonly nextAt: string
  /** All that was due until then was taken. */
  readonly doneUntil: string
  /** Snapshots that it took and that are there. */
  readonly snapshots: number
}

export interface SchedulesParts {
  readonly cluster: Cluster
  readonly volumes: Pick<Volumes, 'snapshots' | 'tell' | 'isWritten' | 'isAnswered'>
  /** Is this the process that does what only one should? */
  readonly isInCharge: () => boolean
  readonly trouble: (what: string, thrown: StoreError) => void
}

/** A snapshot that came or went by itself, or should have come. */
export interface ScheduleDeed {
  readonly what: 'taken' | 'deleted'
  readonly volume: string
  readonly snapshot: string
  /** `ok`, or the code of the error; told once for each that should have come. */
  readonly outcome: string
}

type Scheduled = VolumeRecord & { readonly schedule: Schedule }

/**
 * Snapshots that are taken by themselves, and go when their time is over. The rules stand in the
 * record of the volume, beside the time until which all is done: that moves in the transaction
 * that makes a snapshot be there, so it is taken once, whoever tries and whoever crashes.
 *
 * The gateway that serves a volume takes them; of volumes that nobody serves, who is in charge.
 * What was missed, because nobody was there, is not made up for: one is taken, and the history of
 * the volume tells of the others.
 */
export class SnapshotSchedules {
  onDone: (deed: ScheduleDeed) => void = () => {}
  readonly #parts: SchedulesParts
  readonly #directory: VolumeDirectory
  readonly #snapshots: SnapshotDirectory
  readonly #known = new Map<string, Scheduled>()
  /** By volume id: being taken. */
  readonly #running = new Map<string, Promise<void>>()
  /** By volume id: since when it fails for which slot, and when it is tried again. */
  readonly #failed = new Map<string, { readonly dueMs: number; readonly retryMs: number }>()
  #stopFollowing: (() => void) | null = null

  constructor(parts: SchedulesParts) {
    this.#parts = parts
    this.#directory = new VolumeDirectory(parts.cluster)
    this.#snapshots = new SnapshotDirectory(parts.cluster)
  }

  /** Resolves when it knows all schedules; from then on it hears of every change. */
  async start(): Promise<void> {
    const following = this.#directory.followRecords(
      (record) => this.#note(record),
      (id) => this.#forget(id)
    )
    this.#stopFollowing = () => following.stop()
    await following.ready
  }

  /** Resolves when nothing is being taken. */
  async close(): Promise<void> {
    this.#stopFollowing?.()
    this.#known.clear()
    await Promise.all(this.#running.values())
  }

  // ---- for operators

  /** Takes the place of the one before. @throws StoreError NotFound, InvalidArgument */
  async set(name: string, rules: readonly ScheduleRule[]): Promise<ScheduleInfo> {
    checkRules(rules)
    this.#parts.cluster.features.require('layers', 'a schedule of snapshots')
    const sorted = [...rules].sort((one, other) => one.everyMs - other.everyMs)
    const { id } = await this.#directory.get(name)
    const schedule = { rules: sorted, doneUntil: this.#parts.cluster.nowText() }
    const record = await this.#directory.update(id, () => ({ schedule }))
    this.#note(record)
    await this.#parts.volumes.tell(name, 'scheduled', { rules: rulesText(sorted) })
    return this.#info(record, schedule)
  }

  /** null: it has none. @throws StoreError NotFound */
  async show(name: string): Promise<ScheduleInfo | null> {
    const record = await this.#directory.get(name)
    return record.schedule === undefined ? null : this.#info(record, record.schedule)
  }

  /** Its snapshots stay. @throws StoreError NotFound */
  async remove(name: string): Promise<void> {
    const { id, schedule } = await this.#directory.get(name)
    if (schedule === undefined) return
    this.#note(await this.#directory.update(id, () => ({ schedule: undefined })))
    await this.#parts.volumes.tell(name, 'scheduled', { rules: 'off' })
  }

  async #info({ id, name }: VolumeRecord, schedule: Schedule): Promise<ScheduleInfo> {
    const nextMs = nextDueMs(schedule, this.#parts.cluster.clock.wallMs())
    const own = (await this.#snapshots.list(id)).filter(isScheduled)
    return {
      volume: name,
      rules: schedule.rules,
      nextAt: new Date(nextMs).toISOString(),
      doneUntil: schedule.doneUntil,
      snapshots: own.length
    }
  }

  // ---- now and then

  /** Takes what is due. Resolves when it is taken, or failed. */
  async look(): Promise<void> {
    if (!this.#parts.volumes.isAnswered) return
    const nowMs = this.#parts.cluster.clock.wallMs()
    const begun: Promise<void>[] = []
    for (const volume of this.#known.values()) {
      if (this.#running.size >= SCHEDULE_PARALLEL) break
      if (this.#running.has(volume.id)) continue
      const due = dueSnapshot(volume.schedule, nowMs)
      const failed = this.#failed.get(volume.id)
      if (due === null || (failed !== undefined && nowMs < failed.retryMs)) continue
      if (!this.#parts.volumes.isWritten(volume.id) && !this.#parts.isInCharge()) continue
      const run = this.#run(volume, due).finally(() => this.#running.delete(volume.id))
      this.#running.set(volume.id, run)
      begun.push(run)
    }
    await Promise.all(begun)
  }

  async #run(volume: Scheduled, due: DueSnapshot): Promise<void> {
    const { name, id } = volume
    const { volumes, trouble } = this.#parts
    try {
      if (!volumes.isWritten(id) && (await this.#isElsewhere(volume))) return
      await this.#take(volume, due)
      this.#failed.delete(id)
      await this.#prune(volume)
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      if (thrown.code === ErrorCode.Conflict) return // another peer was faster
      trouble(`a scheduled snapshot of volume ${name}`, thrown)
      await this.#noteFailed(volume, due, thrown)
    }
  }

  /** Another peer serves it, and does this. */
  async #isElsewhere({ family }: VolumeRecord): Promise<boolean> {
    const { keys, store, self } = this.#parts.cluster
    const entry = await store.get(keys.writer(family))
    if (entry === null) return false
    return decodeRecord('writer', entry.key, entry.value).gateway !== self.peerId
  }

  async #take({ name: volume }: Scheduled, { dueMs, missed, missedSinceMs }: DueSnapshot) {
    const name = scheduledName(this.#parts.cluster.clock.wallMs())
    const due = new Date(dueMs).toISOString()
    await this.#parts.volumes.snapshots.create(volume, name, { due })
    this.onDone({ what: 'taken', volume, snapshot: name, outcome: 'ok' })
    if (missed === 0) return
    const since = new Date(missedSinceMs).toISOString()
    await this.#parts.volumes.tell(volume, 'snapshotMissed', { missed, since, taken: name })
  }

  /** Told once for each slot; who looks next tries again. */
  async #noteFailed({ name, id }: Scheduled, { dueMs }: DueSnapshot, error: StoreError) {
    const before = this.#failed.get(id)
    const retryMs = this.#parts.cluster.clock.wallMs() + SCHEDULE_RETRY_MS
    this.#failed.set(id, { dueMs, retryMs })
    if (before?.dueMs === dueMs || error.code === ErrorCode.NotFound) return
    const due = new Date(dueMs).toISOString()
    const details = { why: errorCodeName(error.code), due }
    this.onDone({
      what: 'taken',
      volume: name,
      snapshot: scheduledName(dueMs),
      outcome: details.why
    })
    await this.#parts.volumes.tell(name, 'snapshotFailed', details).catch(() => {})
  }

  /** One that cannot go, because somebody reads it or it has clones, goes another time. */
  async #prune({ id, name: volume, schedule }: Scheduled): Promise<void> {
    const all = await this.#snapshots.list(id)
    const nowMs = this.#parts.cluster.clock.wallMs()
    for (const { name, id: wanted } of expiredSnapshots(schedule.rules, all, nowMs)) {
      try {
        await this.#parts.volumes.snapshots.delete(volume, name, (snapshot) => {
          if (snapshot.id === wanted && snapshot.protected !== true) return
          throw new StoreError(ErrorCode.Busy, `snapshot ${volume}@${name} is to be kept`)
        })
        this.onDone({ what: 'deleted', volume, snapshot: name, outcome: 'ok' })
      } catch (thrown) {
        if (!(thrown instanceof StoreError)) throw thrown
        if (thrown.code === ErrorCode.Busy || thrown.code === ErrorCode.NotFound) continue
        this.#parts.trouble(`deleting snapshot ${volume}@${name}, whose time is over`, thrown)
        return
      }
    }
  }

  #note(record: VolumeRecord): void {
    const isWanted = record.state === 'ready' && !isHidden(record)
    if (isWanted && hasSchedule(record)) this.#known.set(record.id, record)
    else this.#forget(record.id)
  }

  #forget(id: string): void {
    this.#known.delete(id)
    this.#failed.delete(id)
  }
}

const hasSchedule = (record: VolumeRecord): record is Scheduled => record.schedule !== undefined

const rulesText = (rules: readonly ScheduleRule[]): string =>
  rules.map(({ everyMs, keep }) => `every ${formatDurationExact(everyMs)} keep ${keep}`).join(', ')
