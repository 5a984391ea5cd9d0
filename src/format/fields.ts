/** Helpers for fields that every layout uses: 64-bit numbers, 16-byte ids, four-letter magics. */
import { assert } from '../core/assert.ts'

const TWO_32 = 2 ** 32

/** A page of a file: unit of alignment for everything a shard writes. */
export const PAGE_BYTES = 4096

/** u64 that we compute with: a number below 2^53. */
export function getU64(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_32 + view.getUint32(at + 4)
}

export function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32))
  view.setUint32(at + 4, value >>> 0)
}

/** A field read from disk may be anything: only a number we can compute with is accepted. */
export const isSafeU64 = (view: DataView, at: number): boolean => view.getUint32(at) < 2 ** 21

/** 'TSEG' -> the u32 whose big-endian bytes spell it. */
export function magicOf(letters: string): number {
  assert(letters.length === 4, 'a magic has four letters')
  return Buffer.from(letters, 'latin1').readUInt32BE(0)
}

const ID_BYTES = 16
const ID_PATTERN = /^[0-9a-f]{32}$/

export function getId(bytes: Buffer, at: number): string {
  return bytes.toString('hex', at, at + ID_BYTES)
}

export function setId(bytes: Buffer, at: number, id: string): void {
  assert(ID_PATTERN.test(id), 'an id is 32 lower-case hex digits')
  bytes.write(id, at, 'hex')
}

export function isZero(bytes: Buffer, start: number, end: number): boolean {
  for (let at = start; at < end; at++) if (bytes[at] !== 0) return false
  return true
}

export const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
