/** What operators set about a volume while it is in use. Pure. */
import type { VolumeRecord } from '../cluster/records.ts'
import type { VolumeChange } from '../cluster/volume-directory.ts'
import type { VolumeEventDetails } from '../cluster/volume-events.ts'
import { type LimitsChange, limitsOf, NO_LIMITS } from './admission.ts'
import { accessOf, checkAccess, type ExportAccess } from './export-access.ts'

/** What is not named stays. */
export interface SettingsChange {
  /** How long a request waits that cannot be done because members are away; null: for ever. */
  readonly unavailableMs?: number | null
  /** Who may open the volume over protocols for clients. */
  readonly access?: Partial<ExportAccess>
  /** Nobody may change its bytes. Who has it open for writing is cut off. */
  readonly readOnly?: boolean
  readonly description?: string
  /** Requests and bytes a second; null takes a limit away. */
  readonly limits?: LimitsChange
  /** Labels to add or replace; null takes one away. */
  readonly labels?: Readonly<Record<string, string | null>>
}

/** @throws StoreError InvalidArgument */
export function settingsOf(record: VolumeRecord, change: SettingsChange): VolumeChange {
  const { unavailableMs, access, readOnly, description, labels, limits } = change
  return {
    ...(unavailableMs === undefined ? {} : { unavailableMs }),
    ...(access === undefined ? {} : { access: accessWith(record, access) }),
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(description === undefined ? {} : { description }),
    ...(limits === undefined ? {} : { limits: limitsOf(record.limits ?? NO_LIMITS, limits) }),
    ...(labels === undefined ? {} : { labels: labelsOf(record, labels) })
  }
}

/** @throws StoreError InvalidArgument */
export function accessWith(record: Pick<VolumeRecord, 'access'>, change: Partial<ExportAccess>) {
  const { addresses, tlsNames, ...rest } = { ...accessOf(record), ...change }
  const access = { ...rest, addresses: [...addresses], tlsNames: [...tlsNames] }
  checkAccess(access)
  return access
}

function labelsOf(
  record: VolumeRecord,
  change: NonNullable<SettingsChange['labels']>
): Record<string, string> {
  const all = Object.entries({ ...record.labels, ...change })
  return Object.fromEntries(all.filter((entry): entry is [string, string] => entry[1] !== null))
}

/** As the history of the volume tells it; labels of our own are nobody's business. */
export function eventDetails({
  access,
  labels,
  limits,
  ...plain
}: SettingsChange): VolumeEventDetails {
  const told: Record<string, string> = {}
  if (access !== undefined) told['access'] = JSON.stringify(access)
  const named = Object.entries(labels ?? {}).filter(([label]) => !label.startsWith('torus.'))
  if (named.length > 0) told['labels'] = JSON.stringify(Object.fromEntries(named))
  if (limits !== undefined) told['limits'] = JSON.stringify(limits)
  return { ...plain, ...told }
}
