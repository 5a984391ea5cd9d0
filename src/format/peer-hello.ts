/**
 * How a connection between peers begins. Who connects is the client, whatever else it is.
 *
 *   client  -> Hello      who asks for whom, with a nonce
 *   server  -> Challenge  version, a nonce. Nothing about itself
 *   client  -> Proof      that it knows the cluster secret
 *   server  -> Welcome    the same of the server, who it is, and what it grants; or why not
 *
 * The first 12 bytes of Hello and Challenge stay as they are in every version.
 */
import { assert } from '../core/assert.ts'
import { getId, isZero, magicOf, setId, viewOf } from './fields.ts'

/** Versions of everything that follows the hello, frames included. */
export const PEER_VERSION_MIN = 1
export const PEER_VERSION_MAX = 1
/** Additions within a version, used when both sides have them. None yet. */
export const PEER_FEATURES = 0

export const NONCE_BYTES = 32
/** HMAC-SHA256. */
export const PROOF_BYTES = 32
/** No message of the handshake is longer, in any version. */
export const HANDSHAKE_MESSAGE_BYTES_MAX = 1024
const REFUSAL_TEXT_BYTES_MAX = 512

export interface VersionRange {
  readonly min: number
  readonly max: number
}

export interface Hello {
  readonly versions: VersionRange
  readonly features: number
  /** 32 hex digits each. */
  readonly clusterId: string
  readonly fromPeer: string
  readonly fromBoot: string
  readonly toPeer: string
  /** Null: whichever boot of that peer is there. */
  readonly toBoot: string | null
  readonly nonce: Buffer
}

export interface Challenge {
  /** Null: there is none that both know. */
  readonly version: number | null
  readonly versions: VersionRange
  readonly nonce: Buffer
}

export interface Welcome {
  /** ErrorCode: 0, or why the client is not welcome; then `text` tells. */
  readonly error: number
  readonly features: number
  /** How much the client may have unanswered, and for how long it may say nothing. */
  readonly windowOps: number
  readonly windowBytes: number
  readonly idleMs: number
  readonly peerId: string
  readonly bootId: string
  readonly text: string
}

// Every message, big-endian, starts with
//
//   offset  size  field
//        0     4  magic         'TPHI', 'TPCH', 'TPPR', 'TPWE'
//        4     2  bytes         of this message
//
// Hello, 128 bytes (a later version may have more, which are passed over):
//
//        6     2  versionMin
//        8     2  versionMax
//       10     2  reserved
//       12     4  features
//       16    16  clusterId
//       32    16  fromPeer
//       48    16  fromBoot
//       64    16  toPeer
//       80    16  toBoot        zero: any
//       96    32  nonce
//
// Challenge, 48 bytes:
//
//        6     2  version       chosen, 0: none in common, and the connection ends
//        8     2  versionMin
//       10     2  versionMax
//       12     4  reserved
//       16    32  nonce
//
// Proof, 40 bytes:
//
//        6     2  reserved
//        8    32  proof
//
// Welcome, 92 bytes and the text:
//
//        6     2  error
//        8     4  features
//       12     4  windowOps
//       16     4  windowBytes
//       20     4  idleMs
//       24    16  peerId
//       40    16  bootId
//       56    32  proof         computed with zeroes here
//       88     2  textBytes
//       90     2  reserved
//       92        text, UTF-8
const AT_BYTES = 4
const AT_BODY = 6
export const HANDSHAKE_PREFIX_BYTES = 6

const HELLO_MAGIC = magicOf('TPHI')
const HELLO_BYTES = 128
const HELLO_VERSION_BYTES = 12
const AT_FEATURES = 12
const AT_CLUSTER = 16
const AT_FROM_PEER = 32
const AT_FROM_BOOT = 48
const AT_TO_PEER = 64
const AT_TO_BOOT = 80
const AT_HELLO_NONCE = 96
assert(AT_HELLO_NONCE + NONCE_BYTES === HELLO_BYTES, 'a hello has no gap at its end')

const CHALLENGE_MAGIC = magicOf('TPCH')
const CHALLENGE_BYTES = 48
const AT_CHALLENGE_NONCE = 16
assert(AT_CHALLENGE_NONCE + NONCE_BYTES === CHALLENGE_BYTES, 'neither has a challenge')

const PROOF_MAGIC = magicOf('TPPR')
const PROOF_MESSAGE_BYTES = 40
const AT_PROOF = 8
assert(AT_PROOF + PROOF_BYTES === PROOF_MESSAGE_BYTES, 'nor a proof')

const WELCOME_MAGIC = magicOf('TPWE')
const WELCOME_BYTES = 92
const AT_WELCOME_FEATURES = 8
const AT_WINDOW_OPS = 12
const AT_WINDOW_BYTES = 16
const AT_IDLE_MS = 20
const AT_PEER = 24
const AT_BOOT = 40
export const AT_WELCOME_PROOF = 56
const AT_TEXT_BYTES = 88
const AT_WELCOME_RESERVED = 90
assert(AT_WELCOME_PROOF + PROOF_BYTES === AT_TEXT_BYTES, 'nor a welcome')

/** How long the message is that starts with these bytes; 0 when they start none. */
export function handshakeMessageBytes(view: DataView, at: number): number {
  const bytes = view.getUint16(at + AT_BYTES)
  const known = shortest.get(view.getUint32(at))
  if (known === undefined || bytes < known || bytes > HANDSHAKE_MESSAGE_BYTES_MAX) return 0
  return bytes
}

const shortest = new Map([
  [HELLO_MAGIC, HELLO_VERSION_BYTES],
  [CHALLENGE_MAGIC, HELLO_VERSION_BYTES],
  [PROOF_MAGIC, PROOF_MESSAGE_BYTES],
  [WELCOME_MAGIC, WELCOME_BYTES]
])

function start(magic: number, bytes: number): { message: Buffer; view: DataView } {
  const message = Buffer.alloc(bytes)
  const view = viewOf(message)
  view.setUint32(0, magic)
  view.setUint16(AT_BYTES, bytes)
  return { message, view }
}

export function encodeHello(hello: Hello): Buffer {
  const { message, view } = start(HELLO_MAGIC, HELLO_BYTES)
  view.setUint16(AT_BODY, hello.versions.min)
  view.setUint16(AT_BODY + 2, hello.versions.max)
  view.setUint32(AT_FEATURES, hello.features)
  setId(message, AT_CLUSTER, hello.clusterId)
  setId(message, AT_FROM_PEER, hello.fromPeer)
  setId(message, AT_FROM_BOOT, hello.fromBoot)
  setId(message, AT_TO_PEER, hello.toPeer)
  if (hello.toBoot !== null) setId(message, AT_TO_BOOT, hello.toBoot)
  hello.nonce.copy(message, AT_HELLO_NONCE)
  return message
}

/** The versions that a hello offers, which every version can read; null: it is no hello. */
export function decodeHelloVersions(message: Buffer): VersionRange | null {
  const view = viewOf(message)
  if (view.getUint32(0) !== HELLO_MAGIC) return null
  return { min: view.getUint16(AT_BODY), max: view.getUint16(AT_BODY + 2) }
}

/** Of a version that we know; null: it is none. */
export function decodeHello(message: Buffer): Hello | null {
  const versions = decodeHelloVersions(message)
  if (versions === null || message.length < HELLO_BYTES) return null
  return {
    versions,
    features: viewOf(message).getUint32(AT_FEATURES),
    clusterId: getId(message, AT_CLUSTER),
    fromPeer: getId(message, AT_FROM_PEER),
    fromBoot: getId(message, AT_FROM_BOOT),
    toPeer: getId(message, AT_TO_PEER),
    toBoot: isZero(message, AT_TO_BOOT, AT_HELLO_NONCE) ? null : getId(message, AT_TO_BOOT),
    nonce: Buffer.from(message.subarray(AT_HELLO_NONCE, HELLO_BYTES))
  }
}

export function encodeChallenge(challenge: Challenge): Buffer {
  const { message, view } = start(CHALLENGE_MAGIC, CHALLENGE_BYTES)
  view.setUint16(AT_BODY, challenge.version ?? 0)
  view.setUint16(AT_BODY + 2, challenge.versions.min)
  view.setUint16(AT_BODY + 4, challenge.versions.max)
  challenge.nonce.copy(message, AT_CHALLENGE_NONCE)
  return message
}

/** Null: it is none. A refusal (no version) is read in every version. */
export function decodeChallenge(message: Buffer): Challenge | null {
  const view = viewOf(message)
  if (view.getUint32(0) !== CHALLENGE_MAGIC) return null
  const version = view.getUint16(AT_BODY)
  const versions = { min: view.getUint16(AT_BODY + 2), max: view.getUint16(AT_BODY + 4) }
  if (version === 0) return { version: null, versions, nonce: Buffer.alloc(NONCE_BYTES) }
  if (message.length !== CHALLENGE_BYTES) return null
  const nonce = Buffer.from(message.subarray(AT_CHALLENGE_NONCE, CHALLENGE_BYTES))
  return { version, versions, nonce }
}

export function encodeProof(proof: Buffer): Buffer {
  const { message } = start(PROOF_MAGIC, PROOF_MESSAGE_BYTES)
  proof.copy(message, AT_PROOF)
  return message
}

export function decodeProof(message: Buffer): Buffer | null {
  if (message.length !== PROOF_MESSAGE_BYTES) return null
  const view = viewOf(message)
  if (view.getUint32(0) !== PROOF_MAGIC || view.getUint16(AT_BODY) !== 0) return null
  return message.subarray(AT_PROOF)
}

/** With zeroes in place of the proof, which is put at AT_WELCOME_PROOF. */
export function encodeWelcome(welcome: Welcome): Buffer {
  const text = Buffer.from(welcome.text, 'utf8').subarray(0, REFUSAL_TEXT_BYTES_MAX)
  const { message, view } = start(WELCOME_MAGIC, WELCOME_BYTES + text.length)
  view.setUint16(AT_BODY, welcome.error)
  view.setUint32(AT_WELCOME_FEATURES, welcome.features)
  view.setUint32(AT_WINDOW_OPS, welcome.windowOps)
  view.setUint32(AT_WINDOW_BYTES, welcome.windowBytes)
  view.setUint32(AT_IDLE_MS, welcome.idleMs)
  setId(message, AT_PEER, welcome.peerId)
  setId(message, AT_BOOT, welcome.bootId)
  view.setUint16(AT_TEXT_BYTES, text.length)
  text.copy(message, WELCOME_BYTES)
  return message
}

export function decodeWelcome(message: Buffer): Welcome | null {
  if (message.length < WELCOME_BYTES) return null
  const view = viewOf(message)
  const sane =
    view.getUint32(0) === WELCOME_MAGIC &&
    view.getUint16(AT_WELCOME_RESERVED) === 0 &&
    view.getUint16(AT_TEXT_BYTES) === message.length - WELCOME_BYTES
  if (!sane) return null
  return {
    error: view.getUint16(AT_BODY),
    features: view.getUint32(AT_WELCOME_FEATURES),
    windowOps: view.getUint32(AT_WINDOW_OPS),
    windowBytes: view.getUint32(AT_WINDOW_BYTES),
    idleMs: view.getUint32(AT_IDLE_MS),
    peerId: getId(message, AT_PEER),
    bootId: getId(message, AT_BOOT),
    text: message.toString('utf8', WELCOME_BYTES)
  }
}
