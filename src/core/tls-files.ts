/** Certificates and keys from PEM files. */
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import tls from 'node:tls'
import { pemCertificates } from './certificate-names.ts'
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

/**
 * For links between peers, where nobody accepts one that is not valid: the certificate is, and one
 * authority at least. @throws StoreError InvalidArgument
 */
export async function requireValidNow(
  what: string,
  { cert, ca }: { readonly cert: string; readonly ca: string },
  nowMs: number
): Promise<void> {
  for (const [name, file] of [
    [`${what} certificate`, cert],
    [`${what} certificate authority`, ca]
  ] as const) {
    const pems = pemCertificates((await contentsOf(name, file)).toString('utf8'))
    // Of a chain the first one is whose it is.
    const all = pems.slice(0, file === cert ? 1 : pems.length)
    const troubles = all.map((pem) => invalidityOf(pem, nowMs))
    const trouble = troubles.every((each) => each !== null) ? troubles[0] : undefined
    if (trouble === undefined) continue
    const text = `${name} ${file} ${trouble}: no other peer would accept it`
    throw new StoreError(ErrorCode.InvalidArgument, `${text}. Put a valid one there`)
  }
}

/** Null: it is valid, or no certificate at all, which who loads it tells. */
function invalidityOf(pem: string, nowMs: number): string | null {
  let certificate: X509Certificate
  try {
    certificate = new X509Certificate(pem)
  } catch {
    return null
  }
  const [from, to] = [new Date(certificate.validFrom), new Date(certificate.validTo)]
  if (nowMs > to.getTime()) return `expired at ${to.toISOString()}`
  if (nowMs >= from.getTime()) return null
  const now = new Date(nowMs).toISOString()
  return `is not valid before ${from.toISOString()} (this machine's clock says ${now})`
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
