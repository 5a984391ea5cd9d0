/** Certificates from files, which may be replaced while the server runs. */
import tls from 'node:tls'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { readTlsFiles } from '../core/tls-files.ts'
import type { TlsMode } from './handshake.ts'

export interface NbdTlsFiles {
  /** off: no TLS. allow: the client may. require: it must, before anything else. */
  readonly mode: TlsMode
  /** PEM files; needed unless the mode is off. */
  readonly certFile?: string
  readonly keyFile?: string
  /** With it, clients must show a certificate that one of its authorities signed. */
  readonly clientCaFile?: string
}

export class TlsContext {
  readonly files: NbdTlsFiles
  private context: tls.SecureContext | null = null

  constructor(files: NbdTlsFiles) {
    this.files = files
  }

  get mode(): TlsMode {
    return this.files.mode
  }

  /**
   * Reads the files. New connections use what they hold now; those open keep what they have.
   * @throws StoreError InvalidArgument, and then the certificates of before stay in use
   */
  async load(): Promise<void> {
    const { mode, certFile, keyFile, clientCaFile } = this.files
    if (mode === 'off') return
    if (certFile === undefined || keyFile === undefined) {
      throw new StoreError(ErrorCode.InvalidArgument, `TLS mode ${mode} needs certificate and key`)
    }
    // "Implementations supporting TLS MUST support TLS version 1.2".
    const more = { minVersion: 'TLSv1.2' } as const
    const files = { cert: certFile, key: keyFile, ca: clientCaFile ?? null }
    this.context = tls.createSecureContext(await readTlsFiles('TLS', files, more))
  }

  /** The options of the server's end of one connection. */
  socketOptions(): tls.TLSSocketOptions {
    const verify = this.files.clientCaFile !== undefined
    const options: tls.TLSSocketOptions = {
      isServer: true,
      requestCert: verify,
      rejectUnauthorized: verify
    }
    if (this.context !== null) options.secureContext = this.context
    return options
  }
}
