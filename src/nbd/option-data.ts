/** The data of options: parsed here, or null where it is not what the specification says. */
import { NBD_STRING_BYTES_MAX } from './protocol.ts'

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A string of the protocol: UTF-8 without NUL, at most 4096 bytes. */
export function parseString(bytes: Uint8Array): string | null {
  if (bytes.length > NBD_STRING_BYTES_MAX || bytes.includes(0)) return null
  try {
    return utf8.decode(bytes)
  } catch {
    return null
  }
}

// NBD_OPT_INFO, NBD_OPT_GO:
//
//   offset   size  field
//        0      4  n, length of name
//        4      n  name
//      4+n      2  m, number of information requests
//      6+n    2*m  information requests
export interface InfoOption {
  readonly name: string
  readonly wanted: readonly number[]
}

export function parseInfoOption(data: Buffer): InfoOption | null {
  if (data.length < 6) return null
  const nameBytes = data.readUInt32BE(0)
  if (nameBytes > data.length - 6) return null
  const name = parseString(data.subarray(4, 4 + nameBytes))
  if (name === null) return null
  const count = data.readUInt16BE(4 + nameBytes)
  const first = 6 + nameBytes
  if (data.length !== first + 2 * count) return null
  const wanted = Array.from({ length: count }, (_, index) => data.readUInt16BE(first + 2 * index))
  return { name, wanted }
}

// NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT:
//
//   offset   size  field
//        0      4  n, length of name
//        4      n  name
//      4+n      4  number of queries, each of:
//               4    q, length of query
//               q    query
export interface MetaOption {
  readonly name: string
  readonly queries: readonly string[]
}

export function parseMetaOption(data: Buffer): MetaOption | null {
  if (data.length < 8) return null
  const nameBytes = data.readUInt32BE(0)
  if (nameBytes > data.length - 8) return null
  const name = parseString(data.subarray(4, 4 + nameBytes))
  if (name === null) return null
  const count = data.readUInt32BE(4 + nameBytes)
  const queries: string[] = []
  let at = 8 + nameBytes
  for (let index = 0; index < count; index++) {
    if (data.length - at < 4) return null
    const queryBytes = data.readUInt32BE(at)
    if (queryBytes > data.length - at - 4) return null
    const query = parseString(data.subarray(at + 4, at + 4 + queryBytes))
    if (query === null) return null
    queries.push(query)
    at += 4 + queryBytes
  }
  return at === data.length ? { name, queries } : null
}
