import { CHUNK_BLOCKS } from '../core/limits.ts'

/** Where a run of blocks stands when it is not a location in a segment. */
export const LOCATION_HOLE = 0xffffffff
/** Reads as zeroes, allocated. */
export const LOCATION_ZERO = 0xfffffffe
/** The index knows nothing of these blocks: never written, or nothing older is left. */
export const LOCATION_ABSENT = 0xfffffffd
/** Data stands below this. */
export const LOCATION_END = 0xfffffffc

/**
 * The answer to a question about a range of one chunk: runs in block order. Made once and filled
 * again and again. `crcs[i]` belongs to block `first + i` of the range that was asked for.
 */
export class RunList {
  /** Runs in use. */
  length = 0
  /** First block of each run, counted inside the chunk. */
  readonly firsts = new Uint16Array(CHUNK_BLOCKS)
  readonly counts = new Uint16Array(CHUNK_BLOCKS)
  /** Location of the run's first block (the others follow it), or HOLE, ZERO, ABSENT. */
  readonly locations = new Uint32Array(CHUNK_BLOCKS)
  readonly crcs = new Uint32Array(CHUNK_BLOCKS)

  add(first: number, count: number, location: number): void {
    const at = this.length
    this.firsts[at] = first
    this.counts[at] = count
    this.locations[at] = location
    this.length = at + 1
  }

  /** Adds a run, or makes the last one longer when this one goes on where it ends. */
  extend(first: number, count: number, location: number): void {
    const last = this.length - 1
    if (last >= 0) {
      const lastCount = this.counts[last]!
      if (this.firsts[last]! + lastCount === first) {
        const lastLocation = this.locations[last]!
        const goesOn =
          location < LOCATION_END
            ? lastLocation + lastCount === location
            : lastLocation === location
        if (goesOn) {
          this.counts[last] = lastCount + count
          return
        }
      }
    }
    this.add(first, count, location)
  }
}
