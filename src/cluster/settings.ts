/** What operators chose for the whole cluster. */
import { type Cluster, untilSettled } from './cluster.ts'
import { decodeRecord, encodeRecord, type SettingsRecord } from './records.ts'

export interface Settings {
  /** What becomes of a peer that registers for the first time: see SettingsRecord. */
  readonly joinPolicy: 'open' | 'approve'
}

export type SettingsChange = Partial<Settings>

const withDefaults = ({ joinPolicy = 'open' }: Pick<SettingsRecord, 'joinPolicy'>): Settings => ({
  joinPolicy
})

/** @throws StoreError Corrupt, UnknownVersion */
export async function readSettings({ keys, store }: Cluster): Promise<Settings> {
  const entry = await store.get(keys.settings)
  return withDefaults(entry === null ? {} : decodeRecord('settings', entry.key, entry.value))
}

export function changeSettings(
  { keys, store }: Cluster,
  change: SettingsChange
): Promise<Settings> {
  const key = keys.settings
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
