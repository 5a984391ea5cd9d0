/**
 * TLS of the server: certificates or shared keys, from files which may be replaced while it runs.
 */
import { constants, randomBytes } from 'node:crypto'
import type net from 'node:net'
import tls from 'node:tls'
import { namesOfClient } from '../core/certificate-names.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { readTlsFiles } from '../core/tls-files.ts'
import type { TlsMode } from './handshake.ts'
import { type PskKeys, readPskFile } from './psk-file.ts'

export interface NbdTlsFiles {
  /** off: no TLS. allow: the client may. require: it must, before anything else. */
  readonly mode: TlsMode
  /** PEM files; needed unless the mode is off, or there are keys instead. */
  readonly certFile?: string
  readonly keyFile?: string
  /** With it, clients must show a certificate that one of its authorities signed. */
  readonly clientCaFile?: string
  /** Instead of certificates: identities of clients and the keys they share with the server. */
  readonly pskFile?: string
}

/** The server's end of one connection that becomes a TLS one. */
export interface TlsSession {
  readonly socket: tls.TLSSocket
  /** Once it is secure: who the client proved to be. null: it proved nothing, and had to. */
  names(): readonly string[] | null
}

/**
 * The key is mixed with a fresh exchange in each of them, so that who learns it later cannot read
 * what was recorded. Those of TLS 1.3 have the hash that OpenSSL gives a shared key: with another
 * one it would be passed over.
 */
const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES128-GCM-SHA256',
  'DHE-PSK-CHACHA20-POLY1305'
].join(':')

const UNKNOWN_KEY_BYTES = 32

export class TlsContext {
  readonly files: NbdTlsFiles
  private context: tls.SecureContext | null = null
  private keys: PskKeys | null = null

  constructor(files: NbdTlsFiles) {
    this.files = files
  }

  get mode(): TlsMode {
    return this.files.mode
  }

  /**
   * Reads the files. New connections use what they hold now; those open keep what they have.
   * @throws StoreError InvalidArgument, and then what was read before stays in use
   */
  async load(): Promise<void> {
    const { mode, certFile, keyFile, clientCaFile, pskFile } = this.files
    if (mode === 'off') return
    if (pskFile !== undefined) {
      this.keys = await readPskFile(pskFile)
      this.context ??= pskContext()
      return
    }
    if (certFile === undefined || keyFile === undefined) {
      throw new StoreError(ErrorCode.InvalidArgument, `TLS mode ${mode} needs certificate and key`)
    }
    // "Implementations supporting TLS MUST support TLS version 1.2".
    const more = { minVersion: 'TLSv1.2' } as const
    const files = { cert: certFile, key: keyFile, ca: clientCaFile ?? null }
    this.context = tls.createSecureContext(await readTlsFiles('TLS', files, more))
  }

  start(socket: net.Socket): TlsSession {
    const { context, keys } = this
    const usual = { isServer: true, ...(context === null ? {} : { secureContext: context }) }
    return keys === null ? this.startCertificate(socket, usual) : startPsk(socket, usual, keys)
  }

  private startCertificate(socket: net.Socket, usual: tls.TLSSocketOptions): TlsSession {
    const verify = this.files.clientCaFile !== undefined
    const options = { ...usual, requestCert: verify, rejectUnauthorized: verify }
    const secure = new tls.TLSSocket(socket, options)
    const names = (): readonly string[] | null => {
      if (!verify) return []
      return isVerified(secure) ? namesOfClient(secure) : null
    }
    return { socket: secure, names }
  }
}

/** Without a certificate no handshake comes to its end but one with a shared key. */
const pskContext = (): tls.SecureContext =>
  tls.createSecureContext({
    minVersion: 'TLSv1.2',
    ciphers: PSK_CIPHERS,
    dhparam: 'auto',
    // A session that is resumed would name no identity, and outlive the key it began with.
    secureOptions: constants.SSL_OP_NO_TICKET
  })

function startPsk(socket: net.Socket, usual: tls.TLSSocketOptions, keys: PskKeys): TlsSession {
  let identity: string | null = null
  const pskCallback = (_socket: tls.TLSSocket, name: string): Buffer => {
    const key = keys.get(name)
    identity = key === undefined ? null : name
    // Nobody learns which identities there are: an unknown one fails as a wrong key does.
    return key ?? randomBytes(UNKNOWN_KEY_BYTES)
  }
  const secure = new tls.TLSSocket(socket, { ...usual, pskCallback } as tls.TLSSocketOptions)
  return { socket: secure, names: () => (identity === null ? null : [identity.toLowerCase()]) }
}

function isVerified(secure: tls.TLSSocket): boolean {
  const handle = secure as unknown as { ssl: { verifyError(): Error | null } | null }
  return handle.ssl !== null && handle.ssl.verifyError() === null
}

/** OpenSSL's own words, without the places in its sources. */
export const tlsReasonOf = (error: Error & { reason?: string }): string =>
  error.reason ?? error.message
