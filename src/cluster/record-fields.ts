/** What records are made of. */
import { z } from 'zod'

/** 64 bits in hex, never 0: families, layers, volumes. */
export const id64 = z.string().regex(/^(?!0{16})[0-9a-f]{16}$/)
/** 128 bits in hex: clusters, peers, boots. */
export const id128 = z.string().regex(/^[0-9a-f]{32}$/)
export const u32 = z.number().int().min(0).max(0xffffffff)
export const count = z.number().int().nonnegative()
/** Of a pool. */
export const groupCount = z.number().int().min(1).max(65536)
export const time = z.iso.datetime()
export const version = z.literal(1)
