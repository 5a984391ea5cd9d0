/**
 * Makes an authority and certificates of it, with openssl(1): Node's crypto cannot, libraries that
 * can bring a dozen packages each, and openssl is where certificates are looked after anyway.
 * Keys are made in this process and are their owner's alone from the first byte.
 */
import { execFile } from 'node:child_process'
import { generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { CommandError } from './errors.ts'

const CA_DAYS = 3650
const CERTIFICATE_DAYS = 365
/** Letters that mean nothing to openssl's configuration. */
const NAME = /^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}$/

export interface Authority {
  readonly cert: string
  readonly key: string
}

export interface CertificateWish {
  /** `NAME-cert.pem` and `NAME-key.pem`. */
  readonly file: string
  readonly commonName: string
  readonly names: readonly string[]
  readonly use: 'server' | 'client' | 'both'
}

const usages = {
  server: 'serverAuth',
  client: 'clientAuth',
  both: 'serverAuth,clientAuth'
} as const

/** In `ca-cert.pem` and `ca-key.pem`; one that is there is used again. @throws CommandError */
export async function authorityIn(directory: string): Promise<Authority> {
  const authority = { cert: join(directory, 'ca-cert.pem'), key: join(directory, 'ca-key.pem') }
  if (existsSync(authority.cert) && existsSync(authority.key)) return authority
  writeKey(authority.key)
  const subject = ['-subj', `/CN=torus ${randomBytes(4).toString('hex')}`]
  const extensions = [
    ...['-addext', 'basicConstraints=critical,CA:TRUE,pathlen:0'],
    ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign']
  ]
  const made = ['-key', authority.key, '-out', authority.cert, '-days', String(CA_DAYS)]
  await openssl(['req', '-x509', ...made, ...subject, ...extensions]).catch((thrown: unknown) => {
    rmSync(authority.key, { force: true })
    throw thrown
  })
  return authority
}

/** Refuses to replace files. Returns what was made. @throws CommandError */
export async function issue(
  authority: Authority,
  directory: string,
  wish: CertificateWish
): Promise<X509Certificate> {
  const bad = [wish.commonName, ...wish.names].find((name) => !NAME.test(name))
  if (bad !== undefined) throw new CommandError('InvalidArgument', `"${bad}" is no name`)
  const at = (suffix: string): string => join(directory, `${wish.file}-${suffix}`)
  const [cert, key, request, extensions] = ['cert.pem', 'key.pem', 'tmp.csr', 'tmp.ext'].map(at)
  if (existsSync(cert!)) throw new CommandError('AlreadyExists', `${cert} is there already`)
  writeKey(key!)
  try {
    const alternatives = wish.names.map((name) => `${isIP(name) === 0 ? 'DNS' : 'IP'}:${name}`)
    const lines = [
      `subjectAltName=${alternatives.join(',')}`,
      `extendedKeyUsage=${usages[wish.use]}`,
      'keyUsage=critical,digitalSignature',
      'basicConstraints=critical,CA:FALSE'
    ]
    writeFileSync(extensions!, `${lines.join('\n')}\n`)
    await openssl([
      'req',
      '-new',
      '-key',
      key!,
      '-subj',
      `/CN=${wish.commonName}`,
      '-out',
      request!
    ])
    const issuer = ['-CA', authority.cert, '-CAkey', authority.key]
    const serial = ['-set_serial', `0x00${randomBytes(15).toString('hex')}`]
    const place = ['-in', request!, '-extfile', extensions!, '-out', cert!]
    const days = ['-days', String(CERTIFICATE_DAYS)]
    await openssl(['x509', '-req', '-sha256', ...issuer, ...serial, ...days, ...place])
    return new X509Certificate(readFileSync(cert!))
  } catch (thrown) {
    // Without its certificate the key would only be in the way.
    if (!existsSync(cert!)) rmSync(key!, { force: true })
    throw thrown
  } finally {
    rmSync(request!, { force: true })
    rmSync(extensions!, { force: true })
  }
}

export const makeDirectory = (directory: string): void => {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
}

function writeKey(path: string): void {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' })
  try {
    writeFileSync(path, pem, { mode: 0o600, flag: 'wx' })
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new CommandError('AlreadyExists', `${path} cannot be made: ${code}`, { cause })
  }
}

async function openssl(args: readonly string[]): Promise<void> {
  try {
    await promisify(execFile)('openssl', [...args], { timeout: 60_000 })
  } catch (cause) {
    const { code, stderr = '' } = cause as NodeJS.ErrnoException & { stderr?: string }
    const missing = 'openssl(1) is needed to make certificates: install the package openssl'
    const why = code === 'ENOENT' ? missing : `openssl: ${stderr.trim() || code}`
    throw new CommandError('Unavailable', why, { cause })
  }
}
