import { gzipSync } from 'node:zlib'
import { assert } from '../core/assert.ts'

export interface ArchiveEntry {
  readonly name: string
  readonly text: string
}

// A file in a tar archive (POSIX.1-1988 ustar): this header of 512 bytes, then its bytes, filled up
// with zeroes to a multiple of 512. Two empty blocks end the archive. Numbers are octal text.
//
//   offset  size  field
//        0   100  name
//      100     8  mode
//      124    12  size
//      136    12  mtime     seconds since 1970
//      148     8  checksum  sum of all bytes of the header, with spaces here
//      156     1  type      '0' a file
//      257     8  magic     'ustar\0' and version '00'
const TAR_BLOCK = 512
const NAME_SIZE = 100

/** A .tar.gz with these files, in memory: for archives of a few megabytes. */
export function tarGzip(entries: readonly ArchiveEntry[], modifiedMs: number): Buffer {
  const parts: Buffer[] = []
  for (const { name, text } of entries) {
    const content = Buffer.from(text)
    parts.push(tarHeader(name, content.length, modifiedMs), content)
    parts.push(Buffer.alloc((TAR_BLOCK - (content.length % TAR_BLOCK)) % TAR_BLOCK))
  }
  parts.push(Buffer.alloc(2 * TAR_BLOCK))
  return gzipSync(Buffer.concat(parts))
}

function tarHeader(name: string, size: number, modifiedMs: number): Buffer {
  assert(Buffer.byteLength(name) < NAME_SIZE, 'a name fits the header of a tar archive')
  const header = Buffer.alloc(TAR_BLOCK)
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, '0')}\0`
  header.write(name, 0)
  header.write(octal(0o600, 7), 100)
  header.write(octal(0, 7), 108)
  header.write(octal(0, 7), 116)
  header.write(octal(size, 11), 124)
  header.write(octal(Math.floor(modifiedMs / 1000), 11), 136)
  header.write(' '.repeat(8), 148)
  header.write('0', 156)
  header.write('ustar\x0000', 257)
  const sum = header.reduce((total, byte) => total + byte, 0)
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return header
}
