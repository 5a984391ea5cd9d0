/**
 * Among how many groups the chunks of a pool lie. A pool can be split while it is in use, group
 * by group, so each record says itself for which number it was written (PROTOCOL.md, R41): group g
 * of n becomes g and g + n of 2n, and chunks go to one of the two.
 */
import { assert } from '../core/assert.ts'
import type { GroupRecord, PoolRecord } from './records.ts'

type Split = NonNullable<GroupRecord['split']>
type Shaped = Pick<GroupRecord, 'split'>

/** Groups of the pool when it was made: what a record means that does not say it. */
export const firstGroups = (pool: PoolRecord): number => pool.firstGroups ?? pool.groups

/** The least number of groups for which there may be a record. */
export const leastGroups = (pool: PoolRecord): number => pool.splitting?.from ?? pool.groups

/** `first`: of its pool. */
export const groupsUnder = ({ split }: Shaped, first: number): number => split?.groups ?? first

/** `shape` as the record has it; that of an earlier record of the group, or of its pool's first. */
export const shapeUnder = <Shape extends { readonly groups: number }>(
  shape: Shape,
  { split }: Shaped
): Shape =>
  split === undefined || split.groups === shape.groups ? shape : withGroups(shape, split)

const withGroups = <Shape>(shape: Shape, { groups }: Split): Shape => ({ ...shape, groups })

/** Of a record that is new, among `groups` of a pool that began with `first`; none was split. */
export function newSplit(groups: number, first: number): { split?: Split } {
  if (groups === first) return {}
  return { split: { groups, epochs: new Array<number>(Math.log2(groups / first)).fill(0) } }
}

/** Is there a half of a group that was split, and not the other one? */
export function lacksHalves(
  records: ReadonlyMap<number, { readonly record: Shaped }>,
  first: number
): boolean {
  return [...records].some(
    ([
      group,
      {
        record: { split }
      }
    ]) => {
      if (split === undefined || split.epochs.at(-1) === 0) return false
      const other = records.get(group ^ (split.groups / 2))
      return other === undefined || groupsUnder(other.record, first) < split.groups
    }
  )
}

/** What stands in both records that a group of a pool with `groups` becomes. */
export function splitRecord(record: GroupRecord, groups: number): GroupRecord {
  const epoch = record.epoch + 1
  const epochs = [...(record.split?.epochs ?? []), epoch]
  return { ...record, epoch, split: { groups: 2 * groups, epochs } }
}

/** An epoch below which a group's ops are of before it was split. */
export interface GroupBar {
  readonly group: number
  readonly epoch: number
}

/**
 * R42: the groups that this one came from, one for each split. Their numbers may be those of other
 * groups now, whose records begin at these epochs.
 */
export function parentBars(group: number, { split }: Shaped): GroupBar[] {
  if (split === undefined) return []
  const { groups, epochs } = split
  const bars = epochs.map((epoch, at) => {
    const before = groups / 2 ** (epochs.length - at)
    assert(Number.isInteger(before) && before >= 1, 'a pool was split as often as it can be')
    return { group: group & (before - 1), epoch }
  })
  return bars.filter(({ epoch }) => epoch > 0)
}

/** The group that has what `group`, of any number of groups, had; by the records there are. */
export function coveringGroup(
  group: number,
  pool: PoolRecord,
  find: (group: number) => GroupRecord | null
): number {
  const least = leastGroups(pool)
  for (let groups = pool.groups; groups > least; groups /= 2) {
    const found = find(group & (groups - 1))
    if (found !== null && groupsUnder(found, firstGroups(pool)) === groups) {
      return group & (groups - 1)
    }
  }
  return group & (least - 1)
}
