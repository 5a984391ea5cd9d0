import type { Kernel } from './kernel.ts'
import { checksum } from './kernels/checksum.ts'
import { encode, reconstruct } from './kernels/erasure.ts'
import { handoff } from './kernels/handoff.ts'
import { open, seal } from './kernels/seal.ts'

/** In the order in which a write meets them. */
export const kernels: readonly Kernel[] = [handoff, checksum, seal, open, encode, reconstruct]
