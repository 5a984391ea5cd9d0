/** Who may do what. Pure: how somebody is known stands in doors.ts. */
import type { Caller } from './audit-schemas.ts'

/** Each may what those before it may. `anyone` needs to show nothing. */
const roles = ['anyone', 'viewer', 'operator', 'admin'] as const
export type Role = (typeof roles)[number]

/**
 * What tokens of one volume may do with a route. `no`: nothing. `any`: it tells nothing of volumes,
 * or shows them only theirs. `see` and `change`: if the `name` in its path is their volume, and for
 * a change if they are not read-only.
 */
export type VolumeUse = 'no' | 'any' | 'see' | 'change'

export interface Needs {
  readonly role: Role
  readonly volumeUse: VolumeUse
}

export interface Rights {
  readonly role: Role | 'volume'
  /** The one volume, for the role `volume`. */
  readonly volume: string | null
  readonly readOnly: boolean
}

/** Somebody whose request may go on, as far as their rights go. */
export interface Visitor {
  readonly who: Caller
  readonly rights: Rights
}

export const ADMIN_RIGHTS: Rights = { role: 'admin', volume: null, readOnly: false }
export const NO_RIGHTS: Rights = { role: 'anyone', volume: null, readOnly: true }

export function mayUse(rights: Rights, needs: Needs, name: unknown): boolean {
  if (needs.role === 'anyone') return true
  if (rights.role !== 'volume') return roles.indexOf(rights.role) >= roles.indexOf(needs.role)
  switch (needs.volumeUse) {
    case 'no':
      return false
    case 'any':
      return true
    case 'see':
      return name === rights.volume
    case 'change':
      return name === rights.volume && !rights.readOnly
  }
}

/** May something of this volume, or of its snapshot (`volume@snapshot`), be shown? */
export const maySee = (rights: Rights, volume: string): boolean =>
  rights.role !== 'volume' || volume.split('@', 1)[0] === rights.volume
