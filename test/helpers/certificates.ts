/** Certificates for TLS tests, made by openssl: an authority, a server and a client of it. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runOk } from './process.ts'
import type { Scratch } from './images.ts'

export interface Certificates {
  /** Holds ca-cert.pem, client-cert.pem and client-key.pem, as libnbd wants them. */
  readonly directory: string
  readonly ca: string
  readonly serverCert: string
  readonly serverKey: string
}

export interface ExtraCertificate {
  readonly name: string
  /** As openssl has it: `DNS:localhost,IP:127.0.0.1`. */
  readonly names?: string
  readonly expired?: boolean
}

/** One more certificate of the authority that `makeCertificates` made there. */
export async function addCertificate(
  { directory }: Certificates,
  { name, names = `DNS:${name}`, expired = false }: ExtraCertificate
): Promise<{ cert: string; key: string }> {
  const at = (file: string): string => join(directory, file)
  const [cert, key, request] = [at(`${name}-cert.pem`), at(`${name}-key.pem`), at(`${name}.csr`)]
  await runOk('openssl', [
    'req',
    ...NEW_KEY,
    '-subj',
    `/CN=${name}`,
    '-keyout',
    key,
    '-out',
    request
  ])
  await writeFile(at(`${name}.ext`), `subjectAltName=${names}\n`)
  const authority = ['-CA', at('ca-cert.pem'), '-CAkey', at('ca-key.pem'), '-CAcreateserial']
  // openssl 3.0 takes no dates here, but days that are over.
  const days = ['-days', expired ? '-1' : '2']
  const place = ['-extfile', at(`${name}.ext`), '-in', request, '-out', cert]
  await runOk('openssl', ['x509', '-req', ...authority, ...days, ...place])
  return { cert, key }
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

export async function makeCertificates(scratch: Scratch): Promise<Certificates> {
  const path = (name: string): string => scratch.path(name)
  const openssl = (...args: string[]): Promise<string> => runOk('openssl', args)
  const ca = path('ca-cert.pem')
  const caKey = path('ca-key.pem')
  const own = ['-x509', ...NEW_KEY, '-days', '2', '-subj', '/CN=test authority']
  await openssl('req', ...own, '-keyout', caKey, '-out', ca)
  await writeFile(path('server.ext'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n')
  await writeFile(path('client.ext'), 'extendedKeyUsage=clientAuth\n')
  for (const name of ['server', 'client']) {
    const request = path(`${name}.csr`)
    const key = path(`${name}-key.pem`)
    await openssl('req', ...NEW_KEY, '-subj', `/CN=${name}`, '-keyout', key, '-out', request)
    const issuer = ['-CA', ca, '-CAkey', caKey, '-CAcreateserial', '-days', '2']
    const extensions = ['-extfile', path(`${name}.ext`)]
    const place = ['-in', request, '-out', path(`${name}-cert.pem`)]
    await openssl('x509', '-req', ...issuer, ...extensions, ...place)
  }
  return {
    directory: scratch.directory,
    ca,
    serverCert: path('server-cert.pem'),
    serverKey: path('server-key.pem')
  }
}
