import type { Random } from '../core/clock.ts'
import { hasKin, randomFamily } from '../core/family-ids.ts'
import type { Id64 } from '../core/id64.ts'
import { isRootLayer } from '../core/layer-ids.ts'

const hex32 = (value: number): string => value.toString(16).padStart(8, '0')

/** Random and not zero, 16 hex digits. */
export function randomId64(random: Random): string {
  for (;;) {
    const id = hex32(random.u32()) + hex32(random.u32())
    if (id !== '0'.repeat(16)) return id
  }
}

/** Id of a layer that stands on no other. */
export function randomRootLayer(random: Random): string {
  for (;;) {
    const id = randomId64(random)
    if (isRootLayer(parseId64(id).low)) return id
  }
}

/** Id of a family; without `canHaveKin` one that places by all of it, as in older versions. */
export function randomFamilyId(random: Random, canHaveKin: boolean): string {
  if (canHaveKin) {
    const { high, low } = randomFamily(random)
    return formatId64(high, low)
  }
  for (;;) {
    const id = randomId64(random)
    if (!hasKin(parseId64(id).high)) return id
  }
}

/** Random, 32 hex digits. */
export const randomId128 = (random: Random): string => randomId64(random) + randomId64(random)

export const formatId64 = (high: number, low: number): string => hex32(high) + hex32(low)

export const parseId64 = (id: string): Id64 => ({
  high: Number.parseInt(id.slice(0, 8), 16),
  low: Number.parseInt(id.slice(8, 16), 16)
})
