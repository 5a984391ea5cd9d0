/**
 * Metadata contexts that NBD_CMD_BLOCK_STATUS can report. A context says which question goes to
 * the volume and how the extents of the answer read on the wire; another one is one more entry
 * in `metaContexts`.
 */
import { RequestKind, StatusExtent } from '../volume/request.ts'
import { NBD_STATE_HOLE, NBD_STATE_ZERO } from './protocol.ts'

export interface MetaContext {
  readonly name: string
  /** RequestKind of the request whose `extents` are reported. */
  readonly requestKind: number
  /** StatusExtent kind -> status flags. */
  readonly stateOf: readonly number[]
}

const allocationStates: number[] = []
allocationStates[StatusExtent.Data] = 0
allocationStates[StatusExtent.Hole] = NBD_STATE_HOLE | NBD_STATE_ZERO
allocationStates[StatusExtent.Zero] = NBD_STATE_ZERO

const baseAllocation: MetaContext = {
  name: 'base:allocation',
  requestKind: RequestKind.BlockStatus,
  stateOf: allocationStates
}

/** All of them. The id of a context in a connection is its index here plus one. */
export const metaContexts: readonly MetaContext[] = [baseAllocation]

export const contextIdOf = (context: MetaContext): number => metaContexts.indexOf(context) + 1

/** Answers `undefined` for a query no context can be named by: it has no namespace. */
export function matchContexts(query: string, listing: boolean): MetaContext[] | undefined {
  const colon = query.indexOf(':')
  if (colon <= 0) return undefined
  // "base:" alone is a wildcard in a listing and selects nothing otherwise.
  if (colon === query.length - 1) {
    return listing ? metaContexts.filter((context) => context.name.startsWith(query)) : []
  }
  return metaContexts.filter((context) => context.name === query)
}
