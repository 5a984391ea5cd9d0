/** TLS of the admin API: certificates from files, which may be replaced while it listens. */
import type tls from 'node:tls'
import { readTlsFiles, type TlsFiles } from '../core/tls-files.ts'

export class AdminTls {
  readonly files: TlsFiles
  #options: tls.TlsOptions = {}
  #renew: ((options: tls.SecureContextOptions) => void) | null = null

  constructor(files: TlsFiles) {
    this.files = files
  }

  /**
   * For connections to come; those that are open keep what they have.
   * @throws StoreError InvalidArgument, and then what was before stays
   */
  async load(): Promise<void> {
    const secure = await readTlsFiles('admin TLS', this.files, { minVersion: 'TLSv1.2' })
    // With an authority nobody comes in without a certificate of it.
    const verify = secure.ca !== undefined
    this.#options = { ...secure, requestCert: verify, rejectUnauthorized: verify }
    this.#renew?.(secure)
  }

  get options(): tls.TlsOptions {
    return this.#options
  }

  /** The server whose certificates follow the files. */
  attach(server: tls.Server): void {
    this.#renew = (options) => server.setSecureContext(options)
  }
}
