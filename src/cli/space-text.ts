/** What volumes and snapshots take, in words. */
import { formatSize } from '../core/units.ts'
import type { ApiClient } from './api-client.ts'
import { CommandError } from './errors.ts'
import type { SnapshotSpace, VolumeSpace } from './stream-api.ts'

/** null: a peer of before does not know. */
export async function spaceOf(api: ApiClient, volume: string): Promise<VolumeSpace | null> {
  try {
    return await api.streams.space(volume)
  } catch (error) {
    if (error instanceof CommandError) return null
    throw error
  }
}

/** By id of the snapshot. */
export const snapshotSpaces = (space: VolumeSpace | null): Map<string, SnapshotSpace> =>
  new Map((space?.figures?.snapshots ?? []).map((each) => [each.id, each]))

export const sizeOr = (bytes: number | undefined): string =>
  bytes === undefined ? '-' : formatSize(bytes)

/** Why figures are missing or old; [] when they are of now. */
const whyFact = ({ why, countedAt }: VolumeSpace): [string, string][] =>
  why === null ? [] : [['', `figures of ${countedAt ?? 'never'}: ${why}`]]

export function volumeSpaceFacts(space: VolumeSpace | null): [string, string][] {
  if (space === null) return []
  const { figures, copies } = space
  if (figures === null) return [['space', `not known: ${space.why}`]]
  const { allocatedBytes, exclusiveBytes, snapshotBytes, usedBytes, pendingBytes } = figures
  const copiesText = copies > 1 ? `, and ${copies} copies of it` : ''
  const freed =
    snapshotBytes === null ? '' : `; without snapshots ${formatSize(snapshotBytes)} less`
  const pending = pendingBytes === 0 ? '' : `; ${formatSize(pendingBytes)} is being given back`
  return [
    ['allocated', `${formatSize(allocatedBytes)}, ${formatSize(exclusiveBytes)} in no snapshot`],
    ['takes', `${formatSize(usedBytes)} with snapshots${copiesText}${freed}${pending}`],
    ...whyFact(space)
  ]
}

export function snapshotSpaceFacts(
  space: VolumeSpace | null,
  snapshot: SnapshotSpace | undefined
): [string, string][] {
  if (space === null) return []
  if (snapshot === undefined) return [['space', `not known: ${space.why}`]]
  const { allocatedBytes, sharedBytes, exclusiveBytes } = snapshot
  const times = space.copies > 1 ? ` on each of ${space.copies} peers` : ''
  return [
    ['allocated', `${formatSize(allocatedBytes)}, ${formatSize(sharedBytes)} shared with others`],
    ['delete frees', `${formatSize(exclusiveBytes)}${times}`],
    ...whyFact(space)
  ]
}
