/**
 * What a token of one volume may not set, though it may change that volume: operators say who may
 * connect, how fast and how much, and shield volumes and snapshots. Who holds a token of the volume
 * may make that stricter, where it shields the volume, and never weaker. Pure.
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Rights } from './access.ts'
import type { VolumeChange } from './schemas.ts'
import type { SnapshotChange, SnapshotCreate } from './snapshot-schemas.ts'

/** Counted as refused, like what a role may not ask for at all. */
export class WithheldError extends StoreError {
  constructor(fields: readonly string[], volume: string) {
    const who = `a token of the role volume:${volume}`
    const text = `${who} may not set ${fields.join(', ')}: that is for operators`
    super(ErrorCode.Forbidden, text)
  }
}

/** @throws WithheldError when `fields` has some and who asks has a token of one volume */
export function requireGiven(rights: Rights, fields: readonly string[]): void {
  if (rights.role !== 'volume' || fields.length === 0) return
  throw new WithheldError(fields, rights.volume ?? '')
}

/**
 * Nobody keeps who made a volume read-only, so it is for operators to make it writable again.
 * The description, other labels and how long its own requests wait limit nobody.
 */
export function withheldOfVolume(change: VolumeChange): string[] {
  const { access, limits, readOnly, labels } = change
  return [
    ...(access === undefined ? [] : ['access']),
    ...(limits === undefined ? [] : ['limits']),
    ...(readOnly === false ? ['readOnly: false'] : []),
    ...ownLabels(labels)
  ]
}

/** A protected snapshot may be what the next backup begins with. */
export const withheldOfSnapshot = ({ protected: isProtected }: SnapshotChange): string[] =>
  isProtected === false ? ['protected: false'] : []

export const withheldOfNewSnapshot = ({ labels }: SnapshotCreate): string[] => ownLabels(labels)

/** Backups and increments know by them which snapshot is which. */
const ownLabels = (labels: Readonly<Record<string, unknown>> = {}): string[] =>
  Object.keys(labels)
    .filter((label) => label.startsWith('torus.'))
    .map((label) => `labels.${label}`)
