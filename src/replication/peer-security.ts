/**
 * How peers prove that they belong to the cluster: by knowing its secret, by certificates of its
 * authority, or by both. Files may be replaced while a peer runs: `reload` reads them again.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import tls from 'node:tls'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { PROOF_BYTES } from '../format/peer-hello.ts'

export interface PeerSecurityFiles {
  /** Text of at least SECRET_CHARS_MIN characters, the same on every peer. */
  readonly secretFile: string | null
  /** PEM: the cluster's authority, and a certificate of it with its key. All or none. */
  readonly tlsCa: string | null
  readonly tlsCert: string | null
  readonly tlsKey: string | null
}

/** 128 bits in hex. `cluster init` writes twice as many. */
const SECRET_CHARS_MIN = 32
const SECRET_BYTES_MAX = 4096

/** Which side proves: a proof of one side is never one of the other. */
export type ProofSide = 'client' | 'server'

export class PeerSecurity {
  private readonly files: PeerSecurityFiles
  private secret: Buffer = Buffer.alloc(0)
  private context: tls.SecureContext | null = null

  private constructor(files: PeerSecurityFiles) {
    this.files = files
  }

  /** @throws StoreError InvalidArgument: files that cannot be used, or none at all */
  static async load(files: PeerSecurityFiles): Promise<PeerSecurity> {
    const security = new PeerSecurity(files)
    await security.reload()
    return security
  }

  /** With a secret that stands in no file. */
  static ofSecret(secret: string): PeerSecurity {
    const files = { secretFile: null, tlsCa: null, tlsCert: null, tlsKey: null }
    const security = new PeerSecurity(files)
    security.secret = Buffer.from(secret)
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
    const secret = secretFile === null ? Buffer.alloc(0) : await readSecret(secretFile)
    if (tlsCa !== null && tlsCert !== null && tlsKey !== null) {
      this.context = await makeContext(tlsCa, tlsCert, tlsKey)
    }
    this.secret = secret
  }

  get tlsContext(): tls.SecureContext | null {
    return this.context
  }

  /** Of one side, over all that was said. With certificates alone it proves nothing beside them. */
  proof(side: ProofSide, transcript: readonly Buffer[]): Buffer {
    const hmac = createHmac('sha256', this.secret).update(`torus peer ${side}\n`)
    for (const part of transcript) hmac.update(part)
    return hmac.digest()
  }

  isProof(side: ProofSide, transcript: readonly Buffer[], proof: Buffer): boolean {
    return proof.length === PROOF_BYTES && timingSafeEqual(proof, this.proof(side, transcript))
  }
}

/** Names a TLS session: proofs that include it are of no use in another one. */
export const tlsBinding = (socket: tls.TLSSocket): Buffer =>
  socket.exportKeyingMaterial(PROOF_BYTES, 'EXPORTER-torus-peer', Buffer.alloc(0))

/** What a TLS connection has without: nothing. */
export const NO_BINDING: Buffer = Buffer.alloc(0)

const invalid = (message: string, cause?: unknown): StoreError =>
  new StoreError(ErrorCode.InvalidArgument, message, { cause })

async function readSecret(file: string): Promise<Buffer> {
  let text: string
  try {
    const bytes = await readFile(file)
    if (bytes.length > SECRET_BYTES_MAX) {
      throw new Error(`it has ${bytes.length} bytes, the limit is ${SECRET_BYTES_MAX}`)
    }
    text = bytes.toString('utf8').trim()
  } catch (thrown) {
    throw invalid(`cluster secret ${file} cannot be read: ${reasonOf(thrown)}`, thrown)
  }
  if (text.length < SECRET_CHARS_MIN) {
    const length = `has ${text.length} characters, needed are ${SECRET_CHARS_MIN}`
    throw invalid(`cluster secret ${file} ${length}`)
  }
  return Buffer.from(text)
}

async function makeContext(ca: string, cert: string, key: string): Promise<tls.SecureContext> {
  try {
    return tls.createSecureContext({
      ca: await readFile(ca),
      cert: await readFile(cert),
      key: await readFile(key),
      minVersion: 'TLSv1.3'
    })
  } catch (thrown) {
    const text = `peer certificate ${cert} with key ${key} and authority ${ca} cannot be used`
    throw invalid(`${text}: ${reasonOf(thrown)}`, thrown)
  }
}

const reasonOf = (thrown: unknown): string =>
  thrown instanceof Error ? thrown.message : String(thrown)
