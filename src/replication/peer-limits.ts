/** Limits of links between peers. Tests pass smaller ones; nothing is queued without one. */
import { assert } from '../core/assert.ts'
import { BLOCK_BYTES, PIECE_BYTES_MAX } from '../core/limits.ts'
import { FRAME_HEADER_BYTES } from '../format/peer-frames.ts'
import { HANDSHAKE_MESSAGE_BYTES_MAX } from '../format/peer-hello.ts'
import { READ_VERSIONS_BLOCKS_MAX } from '../shard/op.ts'

export interface PeerLimits {
  /** Links that a server has at once: a thousand peers, and room for those that come back. */
  readonly connections: number
  /** Of them, such that have not proved who they are; of one more, the oldest goes. */
  readonly strangers: number
  /** Time for all of the handshake. */
  readonly handshakeMs: number
  /** What a link may have unanswered: granted by the server, and kept by the client. */
  readonly windowOps: number
  readonly windowBytes: number
  /** Requests that wait in a link for the window; one more is refused with LimitReached. */
  readonly queuedRequests: number
  /** A request unanswered for so long ends the link. */
  readonly requestMs: number
  /** A link on which nothing arrived for so long is pinged, … */
  readonly pingMs: number
  /** … and ended when then nothing arrives for so long. */
  readonly pingAnswerMs: number
  /** A server ends a link on which nothing arrived for so long. */
  readonly idleMs: number
  /** A gateway that holds memory others wait for must move something in such a time. */
  readonly stallMs: number
  /** Time between attempts to connect: from, and up to, each with jitter. */
  readonly backoffMsMin: number
  readonly backoffMsMax: number
}

export const defaultPeerLimits: PeerLimits = Object.freeze({
  connections: 1280,
  strangers: 64,
  handshakeMs: 5_000,
  windowOps: 512,
  windowBytes: 8 * 1024 * 1024, // a gigabit for 64 ms, and an eighth of the default arena
  queuedRequests: 65_536, // more than clients may have in flight
  requestMs: 10_000,
  pingMs: 1_000,
  pingAnswerMs: 3_000, // with the other one less than MEMBER_DEADLINE_MS
  idleMs: 30_000,
  stallMs: 5_000,
  backoffMsMin: 50,
  backoffMsMax: 5_000
})

/** Deadlines are looked at so often in the time of a request. */
export const TICKS_PER_REQUEST = 20

/** Frames with payloads up to SMALL_PAYLOAD_BYTES_MAX are parsed in it. Larger ones are slower. */
export const RECEIVE_BUFFER_BYTES = 64 * 1024
/** Room behind it, so that a full buffer still has a next read target while reading is stopped. */
export const RECEIVE_SPARE_BYTES = 4096
/** Of a connection that has not proved anything: all it may send. */
export const STRANGER_BUFFER_BYTES = 4096
/** A payload up to this is completed in the receive buffer; larger ones are received in place. */
export const SMALL_PAYLOAD_BYTES_MAX = 32 * 1024
/** Frames of a tick gather here. A full one leaves at once, so that both sides work together. */
export const SEND_BUFFER_BYTES = 64 * 1024
/** One being filled while others are in the socket. */
export const SEND_BUFFERS_PER_LINK = 4
/** Payloads up to this are copied to the send buffer; more is sent from where it is. */
export const COPY_PAYLOAD_BYTES_MAX = 16 * 1024

/** A call, and the JSON of its answer. */
export const CALL_JSON_BYTES_MAX = 1024 * 1024
/** Entries of a call that gives versions up: they fit a page. */
export const CALL_VOIDS_MAX = 64
/** Data of a call's answer. Sums of 65,536 groups have 1 MiB. */
export const CALL_DATA_BYTES_MAX = 4 * 1024 * 1024
/** What a call counts in the window, whatever its answer has. */
export const CALL_WINDOW_BYTES = 64 * 1024
export const GOODBYE_BYTES_MAX = 512

/** The longest payload of any frame. */
export const PAYLOAD_BYTES_MAX = CALL_JSON_BYTES_MAX + CALL_DATA_BYTES_MAX

assert(SMALL_PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES <= RECEIVE_BUFFER_BYTES, 'a small frame fits')
assert(COPY_PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES <= SEND_BUFFER_BYTES, 'a copied frame fits')
assert(COPY_PAYLOAD_BYTES_MAX <= SMALL_PAYLOAD_BYTES_MAX, 'what is copied once may be twice')
assert(PIECE_BYTES_MAX <= PAYLOAD_BYTES_MAX, 'a piece fits a frame')
assert((READ_VERSIONS_BLOCKS_MAX + 1) * BLOCK_BYTES <= PIECE_BYTES_MAX, 'and so do versions')
assert(2 * HANDSHAKE_MESSAGE_BYTES_MAX <= STRANGER_BUFFER_BYTES, 'a handshake fits')
