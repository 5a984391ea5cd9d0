/** Certificates from files, which may be replaced while the server runs. */
import { readFile } from 'node:fs/promises'
import tls from 'node:tls'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { TlsMode } from './handshake.ts'

export interface TlsFiles {
  /** off: no TLS. allow: the client may. require: it must, before anything else. */
  readonly mode: TlsMode
  /** PEM files; needed unless the mode is off. */
  readonly certFile?: string
  readonly keyFile?: string
  /** With it, clients must show a certificate that one of its authorities signed. */
  readonly clientCaFile?: string
}

export class TlsContext {
  readonly files: TlsFiles
  private context: tls.SecureContext | null = null

  constructor(files: TlsFiles) {
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
    const options: tls.SecureContextOptions = {
      cert: await contentsOf('certificate', certFile),
      key: await contentsOf('private key', keyFile),
      // "Implementations supporting TLS MUST support TLS version 1.2".
      minVersion: 'TLSv1.2'
    }
    if (clientCaFile !== undefined) {
      options.ca = await contentsOf('certificate authority', clientCaFile)
    }
    try {
      this.context = tls.createSecureContext(options)
    } catch (thrown) {
      const reason = thrown instanceof Error ? thrown.message : String(thrown)
      const message = `TLS certificate ${certFile} with key ${keyFile} cannot be used: ${reason}`
      throw new StoreError(ErrorCode.InvalidArgument, message, { cause: thrown })
    }
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

async function contentsOf(what: string, file: string): Promise<Buffer> {
  try {
    return await readFile(file)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const message = `TLS ${what} ${file} cannot be read: ${code}`
    throw new StoreError(ErrorCode.InvalidArgument, message, { cause })
  }
}
