/**
 * What disks, networks, peers and clients do to the store. Codes cross threads as numbers
 * (a completion entry carries one) and every protocol maps every code to its own error.
 * Published numbers are never reused.
 */
export const ErrorCode = {
  Ok: 0,
  /** Bytes on disk do not match their checksum and no other copy could repair them. */
  ChecksumMismatch: 1,
  /** A writer presented a fencing token older than the newest this replica has seen. */
  StaleEpoch: 2,
  /** Fewer members than the write minimum are in sync. */
  NoQuorum: 3,
  /** The peer reached its capacity, or the filesystem below it is full. */
  OutOfSpace: 4,
  /** The operating system failed a read, write or sync. */
  DiskFailure: 5,
  /** The shard stopped taking writes: a sync failed, or its filesystem became read-only. */
  ShardFailed: 6,
  /** Malformed or inconsistent request, name, size or option. */
  InvalidArgument: 7,
  /** A range reaches past the end of its volume. */
  OutOfRange: 8,
  /** No volume, shard, client or key of that name. */
  NotFound: 9,
  /** The name is taken. */
  AlreadyExists: 10,
  /** In use: attached, leased by another writer, or held by another process. */
  Busy: 11,
  /** The volume or export is read-only. */
  ReadOnly: 12,
  /** A file or message has a format version that this program does not know. */
  UnknownVersion: 13,
  /** Bytes that should be ours are not: bad magic, bad structure, foreign identity. */
  Corrupt: 14,
  /** The caller lost its lease, or the peer is shutting down. */
  Closed: 15,
  /** A named limit was reached. */
  LimitReached: 16,
  /** A compare-and-put transaction found other revisions than it expected. */
  Conflict: 17,
  /** Something outside (a program, a kernel feature, a service) is missing or did not answer. */
  Unavailable: 18,
  /** Not permitted for this caller. */
  Forbidden: 19,
  /** The group changed since the sender read its record: read it again, send again. */
  StaleGroup: 20,
  /** The connection to a peer ended before the answer: it is unknown whether it was done. */
  PeerLost: 21,
  /** A sealed block does not open: it was changed or moved on disk, or the key is another one. */
  SealBroken: 22,
  /** The volume is encrypted, and no key of it is unlocked here. */
  Locked: 23,
  /** Blocks are sealed, and who wants copies of them does not ask for their tags. */
  TagsWanted: 24,
  /** A shard was not told yet on which layer a branch begins: tell it, and ask again. */
  BaseUnknown: 25
} as const
export type ErrorCode = (typeof ErrorCode)[keyof typeof ErrorCode]

const nameOfCode = new Map<number, string>(
  Object.entries(ErrorCode).map(([name, code]) => [code, name])
)

/** `ErrorCode.OutOfSpace` -> 'OutOfSpace', for logs and API bodies. */
export const errorCodeName = (code: number): string => nameOfCode.get(code) ?? `code ${code}`

/**
 * A failure the store expects and handles. The message names the thing, the value and the
 * limit; `cause` keeps the first failure.
 */
export class StoreError extends Error {
  override readonly name: string = 'StoreError'
  readonly code: ErrorCode
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}

/** The code of any thrown value; what is not a StoreError is rethrown, because it is a bug. */
export function storeErrorOf(thrown: unknown): StoreError {
  if (thrown instanceof StoreError) return thrown
  throw thrown
}
