/** Takes the snapshots that volumes' schedules want. */
import { StoreError } from '../core/errors.ts'
import { SCHEDULE_LOOK_MS } from '../core/limits.ts'
import type { Log } from '../core/log.ts'
import type { SnapshotSchedules } from '../volume/snapshot-schedules.ts'
import type { OwnDeed } from './security.ts'

/** Looks now and then. Returns what ends it; that resolves when nothing is being taken. */
export function keepSchedules(
  schedules: SnapshotSchedules,
  given: {
    readonly log: Log
    readonly onDeed: (deed: OwnDeed) => void
    readonly everyMs?: number
  }
): () => Promise<void> {
  const { log, onDeed, everyMs = SCHEDULE_LOOK_MS } = given
  schedules.onDone = ({ what, volume, snapshot, outcome }) => {
    const action = what === 'taken' ? 'scheduledSnapshot' : 'expiredSnapshot'
    onDeed({ action, volume, details: { snapshot }, outcome })
  }
  const onFailed = (err: unknown): void => {
    if (!(err instanceof StoreError)) throw err
    log.warn({ err }, 'schedules of snapshots were not looked through')
  }
  void schedules.start().catch(onFailed)
  const look = (): void => void schedules.look().catch(onFailed)
  const timer = setInterval(look, everyMs).unref()
  return () => {
    clearInterval(timer)
    return schedules.close()
  }
}
