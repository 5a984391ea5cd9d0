/** Certificates and keys from PEM files. */
import { readFile } from 'node:fs/promises'
import tls from 'node:tls'
import { ErrorCode, StoreError } from './errors.ts'

export interface TlsFiles {
  readonly cert: string
  readonly key: string
  /** Authorities of the other side. */
  readonly ca?: string | null
}

/**
 * What the files hold, tried together. `what` names their use in messages.
 * @throws StoreError InvalidArgument
 */
export async function readTlsFiles(
  what: string,
  { cert, key, ca = null }: TlsFiles,
  more: tls.SecureContextOptions
): Promise<tls.SecureContextOptions> {
  const options: tls.SecureContextOptions = {
    ...more,
    cert: await contentsOf(`${what} certificate`, cert),
    key: await contentsOf(`${what} private key`, key)
  }
  if (ca !== null) options.ca = await contentsOf(`${what} certificate authority`, ca)
  try {
    tls.createSecureContext(options)
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    const authority = ca === null ? '' : ` and authority ${ca}`
    const message = `${what} certificate ${cert} with key ${key}${authority} cannot be used`
    throw new StoreError(ErrorCode.InvalidArgument, `${message}: ${reason}`, { cause })
  }
  return options
}

async function contentsOf(what: string, file: string): Promise<Buffer> {
  try {
    return await readFile(file)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new StoreError(ErrorCode.InvalidArgument, `${what} ${file} cannot be read: ${code}`, {
      cause
    })
  }
}
