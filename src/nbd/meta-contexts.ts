/**
 * Metadata contexts that NBD_CMD_BLOCK_STATUS can report. A context says which question goes to
 * the volume and how the extents of the answer read on the wire:
 *
 *   base:allocation         of every export, as the specification has it
 *   torus:layer:SNAPSHOT    for each snapshot that the export stands on; bit 0 of the flags:
 *                           written, trimmed or zeroed after it
 */
import type { Id64 } from '../core/id64.ts'
import type { SnapshotBase } from '../volume/block-device.ts'
import { StatusExtent } from '../volume/request.ts'
import { NBD_STATE_HOLE, NBD_STATE_ZERO } from './protocol.ts'

export interface MetaContext {
  readonly name: string
  /** Of the request whose `extents` are reported. */
  readonly since: Id64 | null
  /** StatusExtent kind -> status flags. */
  readonly stateOf: readonly number[]
}

const TORUS_STATE_CHANGED = 1

const allocationStates: number[] = []
allocationStates[StatusExtent.Data] = 0
allocationStates[StatusExtent.Hole] = NBD_STATE_HOLE | NBD_STATE_ZERO
allocationStates[StatusExtent.Zero] = NBD_STATE_ZERO

const layerStates: number[] = []
layerStates[StatusExtent.Data] = TORUS_STATE_CHANGED
layerStates[StatusExtent.Hole] = TORUS_STATE_CHANGED
layerStates[StatusExtent.Zero] = TORUS_STATE_CHANGED
layerStates[StatusExtent.Unchanged] = 0

const baseAllocation: MetaContext = {
  name: 'base:allocation',
  since: null,
  stateOf: allocationStates
}

/** Those of an export that stands on these snapshots. */
export const contextsOn = (bases: readonly SnapshotBase[]): MetaContext[] => [
  baseAllocation,
  ...bases.map(({ name, layer }) => ({
    name: `torus:layer:${name}`,
    since: layer,
    stateOf: layerStates
  }))
]

/** In a connection that selected these. */
export const contextIdOf = (selected: readonly MetaContext[], context: MetaContext): number =>
  selected.indexOf(context) + 1

/** Answers `undefined` for a query no context can be named by: it has no namespace. */
export function matchContexts(
  all: readonly MetaContext[],
  query: string,
  listing: boolean
): readonly MetaContext[] | undefined {
  if (query.indexOf(':') <= 0) return undefined
  // "base:" alone is a wildcard in a listing and selects nothing otherwise.
  if (query.endsWith(':')) {
    return listing ? all.filter((context) => context.name.startsWith(query)) : []
  }
  return all.filter((context) => context.name === query)
}
