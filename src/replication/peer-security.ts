/**
 * How peers prove that they belong to the cluster: by knowing its secret, by certificates of its
 * authority, or by both. Files may be replaced while a peer runs: `reload` reads them again.
 *
 * A certificate speaks for the peer whose id stands among its names, or one of the names that the
 * peer is registered with (`namesOf`); a secret speaks for any. The secret's file may have several
 * lines while the secret changes: the first is used, all are accepted, and who is connected to
 * answers with the one that was used. So a new one is added everywhere, then the old one removed.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type net from 'node:net'
import tls from 'node:tls'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { PROOF_BYTES } from '../format/peer-hello.ts'
import { readTlsFiles } from '../core/tls-files.ts'
import { certificateNames } from '../core/certificate-names.ts'

export interface PeerSecurityFiles {
  /** Lines of at least SECRET_CHARS_MIN characters; peers have one in common. */
  readonly secretFile: string | null
  /** PEM: the cluster's authority, and a certificate of it with its key. All or none. */
  readonly tlsCa: string | null
  readonly tlsCert: string | null
  readonly tlsKey: string | null
}

/** 128 bits in hex. `cluster init` writes twice as many. */
const SECRET_CHARS_MIN = 32
const SECRET_BYTES_MAX = 4096
/** The one that is used, the one before, and one that is on its way. */
const SECRETS_MAX = 3

/** Of those that have certificates alone. */
export const NO_SECRET: Buffer = Buffer.alloc(0)

/** Which side proves: a proof of one side is never one of the other. */
export type ProofSide = 'client' | 'server'

export class PeerSecurity {
  private readonly files: PeerSecurityFiles
  private readonly namesOf: PeerNames
  /** One at least: with certificates alone it is empty. */
  private secrets: readonly Buffer[] = [NO_SECRET]
  private context: tls.SecureContext | null = null
  private readonly accept: AcceptSecrets

  private constructor(files: PeerSecurityFiles, namesOf: PeerNames, accept: AcceptSecrets) {
    this.files = files
    this.namesOf = namesOf
    this.accept = accept
  }

  /** @throws StoreError InvalidArgument: files that cannot be used, or none at all */
  static async load(
    files: PeerSecurityFiles,
    namesOf: PeerNames = () => [],
    accept: AcceptSecrets = async () => {}
  ): Promise<PeerSecurity> {
    const security = new PeerSecurity(files, namesOf, accept)
    await security.reload()
    return security
  }

  /** With a secret that stands in no file. */
  static ofSecret(secret: string): PeerSecurity {
    const files = { secretFile: null, tlsCa: null, tlsCert: null, tlsKey: null }
    const security = new PeerSecurity(
      files,
      () => [],
      async () => {}
    )
    security.secrets = [Buffer.from(secret)]
    return security
  }

  /** For links to come. @throws StoreError InvalidArgument, and then what was before stays */
  async reload(): Promise<void> {
    const { secretFile, tlsCa, tlsCert, tlsKey } = this.files
    const given = [tlsCa, tlsCert, tlsKey].filter((file) => file !== null).length
    if (given !== 0 && given !== 3) {
      throw invalid('peer-tls-ca, peer-tls-cert and peer-tls-key are needed together')
    }
    if (secretFile === null && given === 0) {
      throw invalid('links between peers need cluster-secret-file, or peer-tls-ca, -cert and -key')
    }
    const secrets = secretFile === null ? [NO_SECRET] : await readSecrets(secretFile)
    let { context } = this
    if (tlsCa !== null && tlsCert !== null && tlsKey !== null) {
      const pem = { ca: tlsCa, cert: tlsCert, key: tlsKey }
      const options = await readTlsFiles('peer', pem, { minVersion: 'TLSv1.3' })
      context = tls.createSecureContext(options)
    }
    await this.accept(secrets)
    this.context = context
    this.secrets = secrets
  }

  get tlsContext(): tls.SecureContext | null {
    return this.context
  }

  /** The secret that proofs are made with, unless the other side used another that is valid. */
  get secret(): Buffer {
    return this.secrets[0]!
  }

  /** Of one side, over all that was said. With certificates alone it proves nothing beside them. */
  proof(side: ProofSide, transcript: readonly Buffer[], secret: Buffer = this.secret): Buffer {
    const hmac = createHmac('sha256', secret).update(`torus peer ${side}\n`)
    for (const part of transcript) hmac.update(part)
    return hmac.digest()
  }

  /** The secret that `proof` was made with; null: it is none of ours. */
  secretOf(side: ProofSide, transcript: readonly Buffer[], proof: Buffer): Buffer | null {
    if (proof.length !== PROOF_BYTES) return null
    const isMadeWith = (secret: Buffer): boolean =>
      timingSafeEqual(proof, this.proof(side, transcript, secret))
    return this.secrets.find(isMadeWith) ?? null
  }

  /** Why whoever is at the other end of `socket` does not speak for the peer; null: it does. */
  strangerIn(socket: net.Socket, peerId: string): string | null {
    if (!(socket instanceof tls.TLSSocket)) return null
    const shown = certificateNames(socket)
    const wanted = [peerId, ...this.namesOf(peerId)]
    if (wanted.some((name) => shown.includes(name.toLowerCase()))) return null
    const text = `its certificate is of ${shown.join(', ') || 'nobody (it has no DNS name)'}`
    return `${text}; peer ${peerId} is known as ${wanted.slice(1).join(', ') || 'nothing else'}`
  }
}

/** Names of a peer beside its id, as a certificate may have them. */
export type PeerNames = (peerId: string) => readonly string[]

/** @throws StoreError when the peers of the cluster know none of them */
export type AcceptSecrets = (secrets: readonly Uint8Array[]) => Promise<void>

/** Names a TLS session: proofs that include it are of no use in another one. */
export const tlsBinding = (socket: tls.TLSSocket): Buffer =>
  socket.exportKeyingMaterial(PROOF_BYTES, 'EXPORTER-torus-peer', Buffer.alloc(0))

/** What a TLS connection has without: nothing. */
export const NO_BINDING: Buffer = Buffer.alloc(0)

const invalid = (message: string, cause?: unknown): StoreError =>
  new StoreError(ErrorCode.InvalidArgument, message, { cause })

/** One at least, the first is used. @throws StoreError InvalidArgument */
export async function readSecrets(file: string): Promise<Buffer[]> {
  let lines: string[]
  try {
    const bytes = await readFile(file)
    if (bytes.length > SECRET_BYTES_MAX) {
      throw new Error(`it has ${bytes.length} bytes, the limit is ${SECRET_BYTES_MAX}`)
    }
    lines = bytes
      .toString('utf8')
      .trim()
      .split(/\s*\n\s*/)
  } catch (thrown) {
    throw invalid(`cluster secret ${file} cannot be read: ${reasonOf(thrown)}`, thrown)
  }
  if (lines.length > SECRETS_MAX) {
    throw invalid(`cluster secret ${file} has ${lines.length} lines, the limit is ${SECRETS_MAX}`)
  }
  for (const [index, line] of lines.entries()) {
    if (line.length >= SECRET_CHARS_MIN) continue
    const length = `has ${line.length} characters, needed are ${SECRET_CHARS_MIN}`
    throw invalid(`cluster secret ${file} ${lines.length > 1 ? `line ${index + 1} ` : ''}${length}`)
  }
  return lines.map((line) => Buffer.from(line))
}

const reasonOf = (thrown: unknown): string =>
  thrown instanceof Error ? thrown.message : String(thrown)
