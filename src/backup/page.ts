/**
 * Which objects hold a volume. A volume is cut into pieces; PAGE_PIECES of them have a page, an
 * object that lists 40 bytes of each: id and run of its object, or zeroes for a piece that is all
 * zeroes. A manifest lists the pages. So backups that follow each other share all pages, and with
 * them all pieces, of which nothing changed.
 */
import { assert } from '../core/assert.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { ID_BYTES, type ObjectRef, RUN_BYTES } from './objects.ts'

/** What a backup stores at a time. Smaller: more objects; larger: more for a block that changed. */
export const PIECE_BYTES = 256 * 1024
/** 1 GiB of a volume. */
const PAGE_PIECES = 4096
export const PAGE_BYTES: number = PAGE_PIECES * PIECE_BYTES
const ENTRY_BYTES = ID_BYTES + RUN_BYTES
assert(PAGE_PIECES * ENTRY_BYTES < 1024 * 1024, 'a page is an object like others')

export class Page {
  readonly bytes: Buffer

  constructor(bytes: Buffer = Buffer.alloc(PAGE_PIECES * ENTRY_BYTES)) {
    if (bytes.length !== PAGE_PIECES * ENTRY_BYTES) {
      throw new StoreError(ErrorCode.Corrupt, `a page has ${bytes.length} bytes`)
    }
    this.bytes = bytes
  }

  /** Null: all zeroes. */
  get(piece: number): ObjectRef | null {
    const at = piece * ENTRY_BYTES
    if (this.bytes.readUInt32BE(at + ID_BYTES) === 0 && isZero(this.bytes, at)) return null
    const id = this.bytes.toString('hex', at, at + ID_BYTES)
    return `${id}.${this.bytes.toString('hex', at + ID_BYTES, at + ENTRY_BYTES)}`
  }

  set(piece: number, ref: ObjectRef | null): void {
    const at = piece * ENTRY_BYTES
    this.bytes.fill(0, at, at + ENTRY_BYTES)
    if (ref !== null) this.bytes.write(ref.replace('.', ''), at, 'hex')
  }

  /** Pieces that are not all zeroes, in order. */
  *refs(): Iterable<{ readonly piece: number; readonly ref: ObjectRef }> {
    for (let piece = 0; piece < PAGE_PIECES; piece++) {
      const ref = this.get(piece)
      if (ref !== null) yield { piece, ref }
    }
  }
}

function isZero(bytes: Buffer, at: number): boolean {
  for (let i = at; i < at + ENTRY_BYTES; i++) if (bytes[i] !== 0) return false
  return true
}
