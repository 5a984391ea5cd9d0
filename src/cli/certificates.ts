/**
 * Makes an authority and certificates of it, with openssl(1): Node's crypto cannot, libraries that
 * can bring a dozen packages each, and openssl is where certificates are looked after anyway.
 * Keys are made in this process and are their owner's alone from the first byte.
 */
import { execFile } from 'node:child_process'
import { createPrivateKey, generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto'
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { pemCertificates } from '../core/certificate-names.ts'
import { CommandError } from './errors.ts'
import { systemReason } from '../core/system-reason.ts'

const CA_DAYS = 3650
const CERTIFICATE_DAYS = 365
const DAY_MS = 24 * 3600 * 1000
/** Letters that mean nothing to openssl's configuration. */
const NAME = /^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}$/

export interface Authority {
  readonly cert: string
  readonly key: string
  /** Between it and its root, PEM: shown behind each certificate of it. */
  readonly between: string
  readonly endsMs: number
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
  const authority = { cert: join(directory, CA_FILE), key: join(directory, 'ca-key.pem') }
  const isThere = [authority.cert, authority.key].map((file) => existsSync(file))
  if (isThere[0] !== isThere[1]) {
    const [there, missing] = isThere[0] ? ['cert', 'key'] : ['key', 'cert']
    const text = `${directory} has ca-${there}.pem without ca-${missing}.pem`
    throw new CommandError('InvalidArgument', `${text}: name both with --ca-cert and --ca-key`)
  }
  if (isThere[0]) return authorityOf(authority.cert, authority.key)
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
  return authorityOf(authority.cert, authority.key)
}

/** One that somebody else made. Its issuers, up to the root, follow it in the same file. */
export function authorityOf(cert: string, key: string): Authority {
  const chain = certificatesIn(cert)
  const [first] = chain
  if (first === undefined) throw unusable(cert, 'has no certificate')
  const text = contentsOf(key)
  const privateKey = attempt(() => createPrivateKey(text))
  if (privateKey === null) {
    const isLocked = /ENCRYPTED/.test(text)
    throw unusable(key, isLocked ? 'is encrypted: openssl pkey takes that off' : 'has no key')
  }
  if (!first.checkPrivateKey(privateKey)) throw unusable(key, `is not the key of ${cert}`)
  for (const [at, each] of chain.entries()) {
    const name = each.subject.replaceAll('\n', ', ')
    if (!each.ca) throw unusable(cert, `is no authority: ${name}`)
    if (Date.parse(each.validTo) <= Date.now()) throw unusable(cert, `has expired: ${name}`)
    const issuer = chain[at + 1] ?? each
    if (each.checkIssued(issuer) && each.verify(issuer.publicKey)) continue
    throw unusable(cert, `does not go on with the issuer of ${name}, up to the root`)
  }
  const between = chain.slice(0, -1).map(String).join('')
  const endsMs = Math.min(...chain.map(({ validTo }) => Date.parse(validTo)))
  return { cert, key, between, endsMs }
}

/** Where those who verify look for it. */
export function copyAuthority({ cert }: Authority, directory: string): void {
  const copy = join(directory, CA_FILE)
  const text = contentsOf(cert)
  if (!existsSync(copy)) writeFileSync(copy, text)
  else if (contentsOf(copy) !== text) {
    throw new CommandError('AlreadyExists', `${copy} is of another authority: use another --out`)
  }
}

/** @throws CommandError where any of them is there already */
export function requireNew(directory: string, files: readonly string[]): void {
  const there = files
    .flatMap((file) => [`${file}-cert.pem`, `${file}-key.pem`])
    .map((name) => join(directory, name))
    .find((path) => existsSync(path))
  if (there === undefined) return
  const advice = 'make new ones with another --out, and --ca-cert and --ca-key of this one'
  throw new CommandError('AlreadyExists', `${there} is there already: ${advice}`)
}

const CA_FILE = 'ca-cert.pem'

const unusable = (file: string, why: string): CommandError =>
  new CommandError('InvalidArgument', `${file} ${why}`)

function contentsOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    throw unusable(file, `cannot be read: ${systemReason(cause)}`)
  }
}

function attempt<T>(work: () => T): T | null {
  try {
    return work()
  } catch {
    return null
  }
}

function certificatesIn(file: string): X509Certificate[] {
  return pemCertificates(contentsOf(file)).map((pem) => {
    const found = attempt(() => new X509Certificate(pem))
    if (found === null) throw unusable(file, 'has a certificate that cannot be read')
    return found
  })
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
    // None outlives what it is of: that would be found out when it is too late.
    const left = Math.floor((authority.endsMs - Date.now()) / DAY_MS)
    const days = ['-days', String(Math.max(1, Math.min(CERTIFICATE_DAYS, left)))]
    await openssl(['x509', '-req', '-sha256', ...issuer, ...serial, ...days, ...place])
    if (authority.between !== '') appendFileSync(cert!, authority.between)
    return new X509Certificate(readFileSync(cert!))
  } catch (thrown) {
    // Without its certificate the key would only be in the way; openssl leaves an empty one.
    for (const file of [cert!, key!]) rmSync(file, { force: true })
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
