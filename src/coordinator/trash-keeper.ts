/** Deletes volumes of the trash for good when their time is over. */
import type { HiddenVolume } from '../cluster/hidden-volumes.ts'
import type { Clock } from '../core/clock.ts'
import { ClockWatch } from '../core/clock-watch.ts'
import { StoreError } from '../core/errors.ts'
import { TRASH_LOOK_MS } from '../core/limits.ts'
import type { Log } from '../core/log.ts'
import type { Trash } from '../volume/trash.ts'
import type { OwnDeed } from './security.ts'

/**
 * Looks now and then, on one peer of a cluster, which is enough, while its clock goes well: one
 * that is days ahead for a moment would delete what is to stay. Returns what ends it; that resolves
 * when it does not look.
 */
export function keepTrash(
  trash: Pick<Trash, 'removeExpired'>,
  given: {
    readonly log: Log
    readonly clock: Clock
    readonly isInCharge: () => boolean
    readonly onDeed: (deed: OwnDeed) => void
    readonly everyMs?: number
  }
): () => Promise<void> {
  const { log, clock, isInCharge, onDeed, everyMs = TRASH_LOOK_MS } = given
  const watch = new ClockWatch(clock)
  const onRemoved = ({ name, hidden }: HiddenVolume): void => {
    const { why, since, until } = hidden
    const action = why === 'deleted' ? 'trashExpired' : 'importExpired'
    onDeed({ action, volume: name, details: { since, until }, outcome: 'ok' })
  }
  let looking: Promise<void> = Promise.resolve()
  const look = async (): Promise<void> => {
    try {
      const removed = await trash.removeExpired(onRemoved)
      if (removed > 0) log.info({ volumes: removed }, 'their time in the trash is over')
    } catch (err) {
      if (!(err instanceof StoreError)) throw err
      log.warn({ err }, 'the trash was not looked through')
    }
  }
  const timer = setInterval(() => {
    const isSteady = watch.isSteady()
    if (isSteady && isInCharge()) looking = looking.then(look)
  }, everyMs).unref()
  return async () => {
    clearInterval(timer)
    await looking
  }
}
