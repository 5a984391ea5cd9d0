/** Deletes volumes of the trash for good when their time is over. */
import { StoreError } from '../core/errors.ts'
import { TRASH_LOOK_MS } from '../core/limits.ts'
import type { Log } from '../core/log.ts'
import type { Trash } from '../volume/trash.ts'

/**
 * Looks now and then, on one peer of a cluster, which is enough. Returns what ends it; that
 * resolves when it does not look.
 */
export function keepTrash(trash: Trash, log: Log, isInCharge: () => boolean): () => Promise<void> {
  let looking: Promise<void> = Promise.resolve()
  const look = async (): Promise<void> => {
    try {
      const removed = await trash.removeExpired()
      if (removed > 0) log.info({ volumes: removed }, 'their time in the trash is over')
    } catch (err) {
      if (!(err instanceof StoreError)) throw err
      log.warn({ err }, 'the trash was not looked through')
    }
  }
  const timer = setInterval(() => {
    if (isInCharge()) looking = looking.then(look)
  }, TRASH_LOOK_MS).unref()
  return async () => {
    clearInterval(timer)
    await looking
  }
}
