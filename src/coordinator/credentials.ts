/**
 * Files with certificates, keys and secrets, and who uses them: read again when they change or
 * somebody asks (SIGHUP). What is open goes on with what it has; files that cannot be used change
 * nothing, are logged, and stand in `torus status` until they can.
 */
import { X509Certificate } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import type { CertificateInfo, HealthProblem } from '../admin/schemas.ts'
import type { AdminTls } from '../admin/tls.ts'
import type { Clock, Timers } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import { namesOfCertificate, pemCertificates } from '../core/certificate-names.ts'

export interface CredentialUser {
  /** As messages and `torus tls show` name it: `nbd`, `admin`, `peer`, `etcd`. */
  readonly name: string
  readonly files: readonly string[]
  /** Those of them that are certificates. */
  readonly certificates: readonly string[]
  /** @throws StoreError, and then what was read before stays in use */
  reload(): void | Promise<void>
}

/** A certificate and its key are replaced one after the other: both rest before they are read. */
const POLL_MS = 2_000
const DAY_MS = 24 * 3600 * 1000
const WARN_BEFORE_MS = 30 * DAY_MS

interface Watched {
  readonly user: CredentialUser
  /** As last read. */
  inUse: string
  /** As last seen. */
  seen: string
  /** Why the files as they are cannot be used; '' when they are in use. */
  failure: string
}

export interface CredentialsOptions {
  readonly adminTls: AdminTls | null
  readonly clock: Clock
  readonly timers: Timers
  readonly log: Log
}

export class Credentials {
  /** Of the admin API; null where that talks plain HTTP. */
  readonly adminTls: AdminTls | null
  readonly #options: CredentialsOptions
  readonly #watched: Watched[] = []
  #certificates: readonly CertificateInfo[] = []
  #cancel: () => void = () => {}
  #closed = false

  constructor(options: CredentialsOptions) {
    this.#options = options
    this.adminTls = options.adminTls
  }

  add(user: CredentialUser): void {
    if (user.files.length > 0) this.#watched.push({ user, inUse: '', seen: '', failure: '' })
  }

  /** What was read so far is taken to be what the files have now. */
  async start(): Promise<void> {
    for (const each of this.#watched) each.inUse = each.seen = await marksOf(each.user.files)
    await this.#readCertificates()
    this.#wait()
  }

  close(): void {
    this.#closed = true
    this.#cancel()
  }

  /** Everything, changed or not. @throws what the first that failed threw */
  async reload(): Promise<void> {
    const failures: unknown[] = []
    for (const each of this.#watched) {
      each.seen = await marksOf(each.user.files)
      await this.#read(each).catch((thrown: unknown) => failures.push(thrown))
    }
    await this.#readCertificates()
    if (failures.length > 0) throw failures[0]
  }

  /** As their files have them. */
  list(): readonly CertificateInfo[] {
    return this.#certificates
  }

  problems(): HealthProblem[] {
    const failed = this.#watched.flatMap(({ user, failure }): HealthProblem[] =>
      failure === ''
        ? []
        : [{ level: 'error', code: 'credentials', message: `${user.name}: ${failure}` }]
    )
    const nowMs = this.#options.clock.wallMs()
    return [...failed, ...this.#certificates.flatMap((each) => expiryProblem(each, nowMs))]
  }

  #wait(): void {
    if (this.#closed || this.#watched.length === 0) return
    this.#cancel = this.#options.timers.start(POLL_MS, () => {
      void this.#look().finally(() => this.#wait())
    })
  }

  async #look(): Promise<void> {
    let changed = false
    for (const each of this.#watched) {
      const marks = await marksOf(each.user.files)
      const rests = marks === each.seen
      each.seen = marks
      if (!rests || marks === each.inUse) continue
      changed = true
      await this.#read(each).catch(() => {})
    }
    if (changed) await this.#readCertificates()
  }

  async #read(watched: Watched): Promise<void> {
    const { user, seen } = watched
    const { log } = this.#options
    watched.inUse = seen
    try {
      await user.reload()
      watched.failure = ''
      log.info({ of: user.name }, 'certificates and secrets were read again')
    } catch (thrown) {
      watched.failure = thrown instanceof Error ? thrown.message : String(thrown)
      const fields = { of: user.name, reason: watched.failure }
      log.error(fields, 'certificates and secrets were not read again; the old ones stay in use')
      throw thrown
    }
  }

  async #readCertificates(): Promise<void> {
    const lists = this.#watched.map(({ user }) =>
      Promise.all(user.certificates.map((file) => infosOf(user.name, file)))
    )
    this.#certificates = (await Promise.all(lists)).flat(2)
  }
}

/** Changes when a file does, also through a link that points elsewhere (as Kubernetes does it). */
async function marksOf(files: readonly string[]): Promise<string> {
  const marks = files.map(async (file) => {
    const status = await stat(file, { bigint: true }).catch(() => null)
    return status === null ? 'none' : `${status.ino} ${status.mtimeNs} ${status.size}`
  })
  return (await Promise.all(marks)).join(', ')
}

/** Of all in the file: its chain, or several authorities; none of a file that has none. */
async function infosOf(use: string, file: string): Promise<CertificateInfo[]> {
  try {
    const all = pemCertificates(await readFile(file, 'utf8'))
    return all.map((pem) => infoOf({ use, file }, new X509Certificate(pem)))
  } catch {
    return []
  }
}

const infoOf = (
  of: Pick<CertificateInfo, 'use' | 'file'>,
  certificate: X509Certificate
): CertificateInfo => ({
  ...of,
  names: namesOfCertificate(certificate.subjectAltName ?? ''),
  subject: certificate.subject.replaceAll('\n', ', '),
  issuer: certificate.issuer.replaceAll('\n', ', '),
  isAuthority: certificate.ca,
  validFrom: new Date(certificate.validFrom).toISOString(),
  validTo: new Date(certificate.validTo).toISOString()
})

function expiryProblem(
  { use, file, subject, validTo }: CertificateInfo,
  nowMs: number
): HealthProblem[] {
  const leftMs = Date.parse(validTo) - nowMs
  if (leftMs > WARN_BEFORE_MS) return []
  const what = `${use}: certificate ${file} (${subject})`
  const then = 'put a new one in its place: it is read by itself'
  if (leftMs <= 0) {
    const message = `${what} expired at ${validTo}: ${then}`
    return [{ level: 'error', code: 'certificateExpired', message }]
  }
  const message = `${what} expires in ${Math.floor(leftMs / DAY_MS)} days, at ${validTo}: ${then}`
  return [{ level: 'warning', code: 'certificateExpires', message }]
}
