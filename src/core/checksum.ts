import { crc32c as native } from '@node-rs/crc32'

/**
 * CRC-32C (Castagnoli) of `bytes`, as an unsigned 32-bit number. Works on shared memory.
 * Source of the polynomial: RFC 3720, appendix B.4.
 */
export const crc32c = (bytes: Buffer, initial?: number): number => native(bytes, initial)
