import { DEFAULT_POOL } from '../cluster/pools.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import type { HistogramSnapshot } from '../core/histogram.ts'
import { type Limits, NO_LIMITS } from './admission.ts'
import { accessOf, type ExportAccess } from './export-access.ts'
import type { ManagedVolume } from './managed-volume.ts'
import { RequestKind } from './request.ts'
import type { VolumeDetails } from './volume-types.ts'

/** A volume as it is shown. Sizes are bytes, times ISO 8601, ids hex. */
export interface VolumeInfo {
  readonly id: string
  readonly name: string
  readonly type: string
  readonly sizeBytes: number
  /** Name of the pool that has its blocks. */
  readonly pool: string
  readonly family: string
  readonly readOnly: boolean
  /** Milliseconds after which a request that cannot be done ends with an error; null: it waits. */
  readonly unavailableMs: number | null
  readonly access: ExportAccess
  readonly limits: Limits
  /** How its blocks are sealed; null: they are not. */
  readonly encryption: 'xchacha20-poly1305' | null
  readonly description: string
  readonly labels: Readonly<Record<string, string>>
  readonly createdAt: string
  /** Opens in this process: clients of protocols, files of programs. */
  readonly clients: number
}

export interface VolumeCounters {
  readonly volume: string
  readonly inFlight: number
  readonly operations: readonly {
    readonly kind: RequestKind
    readonly count: number
    readonly errors: number
    readonly bytes: number
    readonly latency: HistogramSnapshot
  }[]
}

/** `managed` is the volume if it was opened in this process: it knows better than its record. */
export function infoOf(record: VolumeRecord, managed: ManagedVolume | null): VolumeInfo {
  const { id, name, type, family, readOnly, description, labels, createdAt } = record
  const sizeBytes = managed?.volume.sizeBytes ?? record.sizeBytes
  const clients = managed?.clients ?? 0
  const pool = record.pool ?? DEFAULT_POOL
  const unavailableMs = record.unavailableMs ?? null
  const limits = record.limits ?? NO_LIMITS
  const access = accessOf(record)
  const encryption = record.encryption ?? null
  const known = { id, name, type, sizeBytes, pool, family, readOnly, unavailableMs, encryption }
  return { ...known, access, limits, description, labels, createdAt, clients }
}

export const countersOf = ({ volume }: ManagedVolume): VolumeCounters => ({
  volume: volume.name,
  inFlight: volume.inFlight,
  operations: Object.values(RequestKind).map((kind) => ({ kind, ...volume.stats.snapshot(kind) }))
})

export function detailsOf(record: VolumeRecord): VolumeDetails {
  const { name, sizeBytes, description, labels, settings } = record
  return { name, sizeBytes, description, labels, settings }
}
