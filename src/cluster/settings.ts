/** What operators chose for the whole cluster. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { TRASH_MS_DEFAULT, TRASH_MS_MAX } from '../core/limits.ts'
import { type Cluster, untilSettled } from './cluster.ts'
import { decodeRecord, encodeRecord, type SettingsRecord } from './records.ts'

export interface Settings {
  /** What becomes of a peer that registers for the first time: see SettingsRecord. */
  readonly joinPolicy: 'open' | 'approve'
  /** How long deleted volumes can be restored; 0: not at all. */
  readonly trashMs: number
}

export type SettingsChange = Partial<Settings>

const withDefaults = ({
  joinPolicy = 'open',
  trashMs = TRASH_MS_DEFAULT
}: Pick<SettingsRecord, keyof Settings>): Settings => ({ joinPolicy, trashMs })

/** @throws StoreError Corrupt, UnknownVersion */
export async function readSettings({ keys, store }: Cluster): Promise<Settings> {
  const entry = await store.get(keys.settings)
  return withDefaults(entry === null ? {} : decodeRecord('settings', entry.key, entry.value))
}

/** @throws StoreError InvalidArgument */
export async function changeSettings(
  { keys, store }: Cluster,
  change: SettingsChange
): Promise<Settings> {
  const key = keys.settings
  const { trashMs = 0 } = change
  if (!Number.isSafeInteger(trashMs) || trashMs < 0 || trashMs > TRASH_MS_MAX) {
    const text = `deleted volumes cannot be kept for ${trashMs} ms: it is a year at most`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  return untilSettled('changing the settings', async () => {
    const entry = await store.get(key)
    const old: SettingsRecord =
      entry === null ? { v: 1 } : decodeRecord('settings', key, entry.value)
    const record = { ...old, ...change }
    const { succeeded } = await store.transact({
      compare: [{ key, modRevision: entry?.modRevision ?? 0 }],
      success: [{ put: key, value: encodeRecord('settings', record) }]
    })
    return succeeded ? withDefaults(record) : null
  })
}
