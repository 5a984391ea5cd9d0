/** CRC-32C of every block of a payload: made before a write, verified after a read. */
import { createCRC32 } from 'hash-wasm'
import { blocksOf, type Kernel, type Prepared } from '../kernel.ts'

/** Castagnoli's polynomial, reflected (RFC 3720, appendix B.4). */
const POLYNOMIAL = 0x82f63b78

function preparedOf(payload: Buffer, crc: (block: Buffer) => number): Prepared {
  const blocks = blocksOf(payload)
  const sums = new Uint32Array(blocks.length)
  return {
    run: () => {
      for (let block = 0; block < blocks.length; block++) sums[block] = crc(blocks[block]!)
    },
    fingerprint: () => Buffer.from(sums.buffer).toString('hex')
  }
}

/** One table of 256 entries for each of the eight bytes taken at once ("slicing by eight"). */
function makeTables(): Uint32Array[] {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256))
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1
    tables[0]![byte] = crc
  }
  for (let slice = 1; slice < 8; slice++) {
    for (let byte = 0; byte < 256; byte++) {
      const before = tables[slice - 1]![byte]!
      tables[slice]![byte] = (before >>> 8) ^ tables[0]![before & 255]!
    }
  }
  return tables
}

function makeTableCrc(): (block: Buffer) => number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = makeTables() as [
    ...[Uint32Array, Uint32Array, Uint32Array, Uint32Array],
    ...[Uint32Array, Uint32Array, Uint32Array, Uint32Array]
  ]
  return (block) => {
    const words = new Int32Array(block.buffer, block.byteOffset, block.length >> 2)
    let crc = -1
    for (let word = 0; word < words.length; word += 2) {
      const low = crc ^ words[word]!
      const high = words[word + 1]!
      crc =
        t7[low & 255]! ^
        t6[(low >>> 8) & 255]! ^
        t5[(low >>> 16) & 255]! ^
        t4[low >>> 24]! ^
        t3[high & 255]! ^
        t2[(high >>> 8) & 255]! ^
        t1[(high >>> 16) & 255]! ^
        t0[high >>> 24]!
    }
    return ~crc >>> 0
  }
}

export const checksum: Kernel = {
  name: 'checksum',
  what: 'CRC-32C of every 4 KiB block',
  variants: [
    {
      name: 'hash-wasm',
      native: false,
      prepare: async (payload) => {
        const hasher = await createCRC32(POLYNOMIAL)
        return preparedOf(payload, (block) => {
          const sum = hasher.init().update(block).digest('binary')
          return ((sum[0]! << 24) | (sum[1]! << 16) | (sum[2]! << 8) | sum[3]!) >>> 0
        })
      }
    },
    {
      name: 'javascript tables',
      native: false,
      prepare: async (payload) => preparedOf(payload, makeTableCrc())
    },
    {
      name: '@node-rs/crc32',
      native: true,
      prepare: async (payload) => {
        const { crc32c } = await import('@node-rs/crc32')
        return preparedOf(payload, (block) => crc32c(block))
      }
    }
  ]
}
