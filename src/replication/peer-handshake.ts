/**
 * Both sides of the handshake, as what they say in answer to what they hear. Proofs are over all
 * that was said, both nonces included, and name their side: neither can be used again, nor be
 * given back to who made it. The client proves first, so that a stranger learns nothing but which
 * versions we know.
 */
import { randomBytes } from 'node:crypto'
import { ErrorCode } from '../core/errors.ts'
import {
  AT_WELCOME_PROOF,
  type Challenge,
  decodeChallenge,
  decodeHello,
  decodeHelloVersions,
  decodeProof,
  decodeWelcome,
  encodeChallenge,
  encodeHello,
  encodeProof,
  encodeWelcome,
  HANDSHAKE_PREFIX_BYTES,
  type Hello,
  handshakeMessageBytes,
  NONCE_BYTES,
  PEER_FEATURES,
  PEER_VERSION_MAX,
  PEER_VERSION_MIN,
  PROOF_BYTES,
  type VersionRange,
  type Welcome
} from '../format/peer-hello.ts'
import { STRANGER_BUFFER_BYTES } from './peer-limits.ts'
import type { ByteConsumer, PeerReceiver } from './peer-receiver.ts'
import type { PeerSecurity } from './peer-security.ts'

/** Who a process is. 32 hex digits each. */
export interface PeerIdentity {
  readonly clusterId: string
  readonly peerId: string
  readonly bootId: string
}

const ourVersions: VersionRange = { min: PEER_VERSION_MIN, max: PEER_VERSION_MAX }

const rangeText = ({ min, max }: VersionRange): string => (min === max ? `${min}` : `${min}-${max}`)

/** Says which versions each side knows. */
function versionText(theirs: VersionRange): string {
  const own = rangeText(ourVersions)
  return `it speaks version ${rangeText(theirs)} of the peer protocol, this program ${own}`
}

/** The highest that both know, or null. */
function commonVersion(theirs: VersionRange): number | null {
  const version = Math.min(theirs.max, ourVersions.max)
  return version >= theirs.min && version >= ourVersions.min ? version : null
}

/** Cuts what arrives into messages. */
export class MessageReader implements ByteConsumer {
  private readonly receiver: PeerReceiver
  /** Returns whether more is read. */
  private readonly onMessage: (message: Buffer) => boolean
  private readonly onBroken: (reason: string) => void

  constructor(
    receiver: PeerReceiver,
    onMessage: (message: Buffer) => boolean,
    onBroken: (reason: string) => void
  ) {
    this.receiver = receiver
    this.onMessage = onMessage
    this.onBroken = onBroken
  }

  consume(): boolean {
    const { receiver } = this
    for (;;) {
      if (receiver.available < HANDSHAKE_PREFIX_BYTES) return true
      const bytes = handshakeMessageBytes(receiver.view, receiver.start)
      if (bytes === 0) {
        this.onBroken('it sent what no peer says')
        return true
      }
      if (receiver.available < bytes) return true
      const from = receiver.start
      const message = Buffer.from(receiver.bytes.subarray(from, from + bytes))
      receiver.start += bytes
      if (!this.onMessage(message)) return false
      if (receiver.consumer !== this) return receiver.consumer.consume()
    }
  }

  bytesWanted(): number {
    return STRANGER_BUFFER_BYTES
  }

  directTarget(): null {
    return null
  }

  directArrived(): void {}
}

/** What a client makes of a message: a reply, the end, or why it is over. */
export type ClientStep =
  | { readonly kind: 'reply'; readonly bytes: Buffer }
  | { readonly kind: 'welcome'; readonly welcome: Welcome }
  | { readonly kind: 'failed'; readonly reason: string }

export class ClientHandshake {
  readonly hello: Buffer
  private readonly security: PeerSecurity
  private readonly toPeer: string
  private readonly toBoot: string | null
  private readonly transcript: Buffer[]
  private challenged = false

  /** `binding` names the TLS session below, empty where there is none. */
  constructor(
    own: PeerIdentity,
    toPeer: string,
    toBoot: string | null,
    security: PeerSecurity,
    binding: Buffer
  ) {
    this.security = security
    this.toPeer = toPeer
    this.toBoot = toBoot
    this.hello = encodeHello({
      versions: ourVersions,
      features: PEER_FEATURES,
      clusterId: own.clusterId,
      fromPeer: own.peerId,
      fromBoot: own.bootId,
      toPeer,
      toBoot,
      nonce: randomBytes(NONCE_BYTES)
    })
    this.transcript = [binding, this.hello]
  }

  receive(message: Buffer): ClientStep {
    return this.challenged ? this.welcomed(message) : this.answer(message)
  }

  private answer(message: Buffer): ClientStep {
    const challenge = decodeChallenge(message)
    if (challenge === null) return failed('it sent what no peer says')
    if (challenge.version === null || commonVersion(challenge.versions) === null) {
      return failed(versionText(challenge.versions))
    }
    if (challenge.version !== commonVersion(challenge.versions)) {
      return failed(`it chose version ${challenge.version}; ${versionText(challenge.versions)}`)
    }
    this.challenged = true
    this.transcript.push(message)
    const bytes = encodeProof(this.security.proof('client', this.transcript))
    this.transcript.push(bytes)
    return { kind: 'reply', bytes }
  }

  private welcomed(message: Buffer): ClientStep {
    const welcome = decodeWelcome(message)
    if (welcome === null) return failed('it sent what no peer says')
    const end = AT_WELCOME_PROOF + PROOF_BYTES
    const proof = Buffer.from(message.subarray(AT_WELCOME_PROOF, end))
    message.fill(0, AT_WELCOME_PROOF, end)
    if (this.security.secretOf('server', [...this.transcript, message], proof) === null) {
      return failed('it could not prove that it knows the cluster secret')
    }
    if (welcome.error !== ErrorCode.Ok) return failed(`it refused: ${welcome.text}`)
    if (welcome.peerId !== this.toPeer) return failed(`it is peer ${welcome.peerId}`)
    if (this.toBoot !== null && welcome.bootId !== this.toBoot) {
      return failed(`it is boot ${welcome.bootId}`)
    }
    return { kind: 'welcome', welcome }
  }
}

const failed = (reason: string): ClientStep => ({ kind: 'failed', reason })

/** What a server makes of a message. `close`: what `bytes` has is sent, then it is over. */
export type ServerStep =
  | { readonly kind: 'reply'; readonly bytes: Buffer }
  | { readonly kind: 'proved'; readonly hello: Hello }
  | { readonly kind: 'close'; readonly bytes: Buffer | null; readonly reason: string }

export class ServerHandshake {
  private readonly own: PeerIdentity
  private readonly security: PeerSecurity
  private readonly transcript: Buffer[]
  private hello: Hello | null = null
  /** The one that the client proved to know, and is answered with. */
  private secret: Buffer | null = null

  constructor(own: PeerIdentity, security: PeerSecurity, binding: Buffer) {
    this.own = own
    this.security = security
    this.transcript = [binding]
  }

  receive(message: Buffer): ServerStep {
    const { hello } = this
    return hello === null ? this.challenge(message) : this.check(message, hello)
  }

  /** The last word: of one who proved itself. `welcome.error` may refuse it all the same. */
  welcome(welcome: Omit<Welcome, 'peerId' | 'bootId' | 'features'>): Buffer {
    const { peerId, bootId } = this.own
    const features = (this.hello?.features ?? 0) & PEER_FEATURES
    const bytes = encodeWelcome({ ...welcome, features, peerId, bootId })
    const secret = this.secret ?? this.security.secret
    this.security.proof('server', [...this.transcript, bytes], secret).copy(bytes, AT_WELCOME_PROOF)
    return bytes
  }

  /** Why `hello` is not for us, though it is of somebody who knows the secret; or null. */
  refusal(hello: Hello): { error: ErrorCode; text: string } | null {
    const { own } = this
    if (hello.clusterId !== own.clusterId) {
      const text = `peer ${own.peerId} is of cluster ${own.clusterId}, not ${hello.clusterId}`
      return { error: ErrorCode.Forbidden, text }
    }
    if (hello.toPeer !== own.peerId) {
      return { error: ErrorCode.NotFound, text: `peer ${hello.toPeer} is not here` }
    }
    if (hello.fromPeer === own.peerId) {
      const text = `peer ${own.peerId} is me: does a copy of its data directory run elsewhere?`
      return { error: ErrorCode.Conflict, text }
    }
    if (hello.toBoot !== null && hello.toBoot !== own.bootId) {
      const text = `peer ${own.peerId} runs as boot ${own.bootId}, not ${hello.toBoot}`
      return { error: ErrorCode.Conflict, text }
    }
    return null
  }

  private challenge(message: Buffer): ServerStep {
    const versions = decodeHelloVersions(message)
    if (versions === null) return { kind: 'close', bytes: null, reason: 'it sent no hello' }
    const version = commonVersion(versions)
    const nonce = randomBytes(NONCE_BYTES)
    const challenge: Challenge = { version, versions: ourVersions, nonce }
    const bytes = encodeChallenge(challenge)
    if (version === null) return { kind: 'close', bytes, reason: versionText(versions) }
    this.hello = decodeHello(message)
    if (this.hello === null) return { kind: 'close', bytes: null, reason: 'it sent no whole hello' }
    this.transcript.push(message, bytes)
    return { kind: 'reply', bytes }
  }

  private check(message: Buffer, hello: Hello): ServerStep {
    const proof = decodeProof(message)
    if (proof !== null) this.secret = this.security.secretOf('client', this.transcript, proof)
    if (this.secret === null) {
      const reason = 'it could not prove that it knows the cluster secret'
      return { kind: 'close', bytes: null, reason }
    }
    this.transcript.push(message)
    return { kind: 'proved', hello }
  }
}
