/**
 * Ids of volume families. Clones read what the family that they were cloned from has, so both have
 * to place their chunks alike: an id that has the mark tells by which part of it that is done.
 *
 *   20 bits   mark
 *   16 bits   place: random, the same in all families that place alike
 *   28 bits   kin: random and not 0, tells these apart
 *
 * Families of before feature level 4 are 64 random bits, by all of which they place: one in a
 * million has the mark by chance. They have no clones.
 */
import type { Random } from './clock.ts'
import type { Id64 } from './id64.ts'

const MARK = 0xb10c5
const KIN_BITS = 28
const KIN_MASK = 2 ** KIN_BITS - 1

/** May it have clones? */
export const hasKin = (high: number): boolean => high >>> 12 === MARK

/** Tells a family from others that place alike; 0 of one that has none. */
export const kinOf = (high: number, low: number): number => (hasKin(high) ? low & KIN_MASK : 0)

/** The lower half of what a family places by. */
export const placeLow = (high: number, low: number): number =>
  hasKin(high) ? (low & ~KIN_MASK) >>> 0 : low

/** The lower half of the family that places like `low` and has this kin; 0: `low` itself. */
export const withKin = (low: number, kin: number): number =>
  kin === 0 ? low : ((low & ~KIN_MASK) | kin) >>> 0

/** For a volume that stands on no other. */
export const randomFamily = (random: Random): Id64 => ({
  high: ((MARK << 12) | (random.u32() & 0xfff)) >>> 0,
  low: withKin(random.u32(), randomKin(random))
})

/** One that places as `family` does, and is another. */
export const randomKinOf = ({ high, low }: Id64, random: Random): Id64 => ({
  high,
  low: withKin(low, randomKin(random))
})

function randomKin(random: Random): number {
  for (;;) {
    const kin = random.u32() & KIN_MASK
    if (kin !== 0) return kin
  }
}
