/** Random ids of this peer, as lower-case hex. */
import type { Random } from '../core/clock.ts'

/** A 128-bit id (cluster, peer, boot): 32 hex digits. */
export const randomId128 = (random: Random): string =>
  [random.u32(), random.u32(), random.u32(), random.u32()].map(hex8).join('')

const hex8 = (value: number): string => value.toString(16).padStart(8, '0')
