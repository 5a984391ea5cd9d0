/** Limits of the NBD server. Tests pass smaller ones; nothing is queued without one. */
import { assert } from '../core/assert.ts'
import {
  BLOCK_BYTES,
  NBD_CONNECTIONS_MAX,
  NBD_REQUEST_BYTES_MAX,
  PIECE_BYTES_MAX,
  REQUESTS_IN_FLIGHT_MAX
} from '../core/limits.ts'

export interface NbdLimits {
  /** Clients at once; one more is closed at once. */
  readonly connections: number
  /** Commands of all clients that were read and not answered yet. */
  readonly requests: number
  /** The same of one client: what more it sends waits in its socket. */
  readonly requestsPerConnection: number
  /** Large reply buffers of all clients; who finds none has a small one. */
  readonly replyBuffers: number
  /** Time for a client to send its flags, each next option, or its side of the TLS handshake. */
  readonly handshakeMs: number
  /** Options of one handshake: a list of exports costs a client one or two each. */
  readonly handshakeOptions: number
  /**
   * A client that holds memory must move `stallBytes` in every `stallMs`, or finish; else it may
   * be disconnected when other clients wait for memory.
   */
  readonly stallMs: number
  readonly stallBytes: number
  /** Once it is being disconnected, how long a client may take to accept its last replies. */
  readonly drainMs: number
  /** After the last reply, how long a client may take to close its side. */
  readonly lingerMs: number
}

export const defaultLimits: NbdLimits = Object.freeze({
  connections: NBD_CONNECTIONS_MAX,
  requests: REQUESTS_IN_FLIGHT_MAX,
  requestsPerConnection: 256,
  replyBuffers: 128, // 16 MiB, and 20 of small ones, if no client takes its replies
  handshakeMs: 30_000,
  handshakeOptions: 16_384,
  stallMs: 5_000,
  stallBytes: 64 * 1024,
  drainMs: 10_000,
  lingerMs: 1_000
})

/** Per connection: requests, and payloads up to SMALL_PAYLOAD_BYTES_MAX, are parsed in it. */
export const RECEIVE_BUFFER_BYTES = 64 * 1024
/** Room behind it, so that a full buffer still has a next read target while reading is stopped. */
export const RECEIVE_SPARE_BYTES = 256
/**
 * A write payload up to this is completed in the receive buffer and copied to the arena: a slow
 * sender of small writes then never holds arena pages. Larger ones are received in the arena.
 */
export const SMALL_PAYLOAD_BYTES_MAX = 32 * 1024

/** Replies of a tick gather here: 31 reads of 4 KiB, or thousands of write replies. */
export const REPLY_BUFFER_BYTES = 128 * 1024
/** For a client that finds none of these: the longest reply that is copied, at least. */
export const SMALL_REPLY_BUFFER_BYTES = 20 * 1024
/** One being filled while the other is in the socket. */
export const REPLY_BUFFERS_PER_CONNECTION = 2
/** Read data up to this is copied to the reply buffer; more is sent from the arena. */
export const COPY_REPLY_BYTES_MAX = 16 * 1024

/** Reads and writes are cut at multiples of this, which is where the volume cuts them too. */
export const TRANSFER_BYTES_MAX = PIECE_BYTES_MAX
/** When the arena is short, a transfer may be cut down to this. */
export const TRANSFER_BYTES_MIN = BLOCK_BYTES
/** Pieces of one large read that are fetched or being sent at a time. */
export const READ_PIECES_MAX = 4
/** What a client may hold whatever others do: 64 KiB of data at any alignment, … */
export const PAGES_EACH_MAX = 17
/** … and a few commands, or the pieces of a large one. */
export const REQUESTS_EACH_MAX = 8
/** Clients that hold memory and do not move: so many are cut off at a time, then twice as many. */
export const EVICTIONS_MIN = 4

/** Zeroes inside a read are found in units of this. */
export const HOLE_CELL_BYTES = 64 * 1024

/** Option data that is looked at; more is skipped and answered with NBD_REP_ERR_TOO_BIG. */
export const OPTION_BYTES_MAX = 32 * 1024
/** Option data that is skipped; a client that announces more is disconnected. */
export const OPTION_SKIP_BYTES_MAX = 1024 * 1024
/** Metadata contexts of a connection: each is a question of its own to the volume. */
export const CONTEXTS_MAX = 16
/** So many of them may be named to filter block status by. */
export const STATUS_FILTER_IDS_MAX: number = CONTEXTS_MAX

/** Extents in one block status chunk: 16 KiB with extended headers. */
export const STATUS_REPLY_EXTENTS_MAX = 1_024
/** Block status commands of one client at a time: each keeps its extents until there is room. */
export const STATUS_REPLIES_PER_CONNECTION = 1

/** Advertised in NBD_INFO_BLOCK_SIZE. */
export const BLOCK_SIZE_MIN = 1
export const BLOCK_SIZE_PREFERRED = BLOCK_BYTES
export const PAYLOAD_BYTES_MAX = NBD_REQUEST_BYTES_MAX

assert(SMALL_PAYLOAD_BYTES_MAX + 64 <= RECEIVE_BUFFER_BYTES, 'a small write fits the buffer')
assert(OPTION_BYTES_MAX + 64 <= RECEIVE_BUFFER_BYTES, 'an option fits the buffer')
assert(COPY_REPLY_BYTES_MAX + 2048 <= SMALL_REPLY_BUFFER_BYTES, 'a copied read fits a reply buffer')
assert(
  STATUS_REPLY_EXTENTS_MAX * 16 + 64 <= SMALL_REPLY_BUFFER_BYTES,
  'a block status fits a reply buffer'
)
assert(TRANSFER_BYTES_MAX % BLOCK_BYTES === 0, 'transfers are cut between blocks')
