/**
 * A kernel is one step that every payload byte, or every request, goes through. Each variant does
 * the same work; `fingerprint` proves it, so that no variant is fast because it is wrong.
 */
import { BLOCK_BYTES } from '../src/core/limits.ts'

/** Work prepared for one payload size. */
export interface Prepared {
  /** Does the work once. */
  run(): void
  /** Of the result of `run`: the same for every variant of the kernel. */
  fingerprint(): string
}

export interface Variant {
  /** The package or the module that does the work. */
  readonly name: string
  /** Native variants are compared with and may be absent. */
  readonly native: boolean
  /** @throws when the package is not installed */
  prepare(payload: Buffer): Promise<Prepared>
}

export interface Kernel {
  readonly name: string
  readonly what: string
  readonly variants: readonly Variant[]
}

/** Bytes that are the same for the same seed (xorshift32), in shared memory as in the product. */
export function seededPayload(bytes: number, seed: number): Buffer {
  const payload = Buffer.from(new SharedArrayBuffer(bytes))
  let state = seed | 1
  for (let at = 0; at < bytes; at += 4) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    payload.writeInt32LE(state | 0, at)
  }
  return payload
}

/** The payload's blocks; the last one is short when the payload is. */
export function blocksOf(payload: Buffer): Buffer[] {
  const blocks: Buffer[] = []
  for (let at = 0; at < payload.length; at += BLOCK_BYTES) {
    blocks.push(payload.subarray(at, at + BLOCK_BYTES))
  }
  return blocks
}
