/** The admin API over TLS, with and without certificates of programs. */
import { match, rejects, strictEqual } from 'node:assert'
import { copyFile } from 'node:fs/promises'
import { suite } from 'uvu'
import { AdminTls } from '../../src/admin/tls.ts'
import { type AdminTlsOptions, ApiClient } from '../../src/cli/api-client.ts'
import { startFixture } from '../helpers/admin.ts'
import { addCertificate, type Certificates, makeCertificates } from '../helpers/certificates.ts'
import { Scratch } from '../helpers/images.ts'

const test = suite('admin TLS')
let scratch: Scratch
let foreignScratch: Scratch
let made: Certificates
let foreign: Certificates

test.before(async () => {
  scratch = await Scratch.create()
  foreignScratch = await Scratch.create()
  made = await makeCertificates(scratch)
  foreign = await makeCertificates(foreignScratch)
})

test.after(async () => {
  await scratch?.remove()
  await foreignScratch?.remove()
})

async function withTls(
  { ca = null, cert = made.serverCert }: { ca?: string | null; cert?: string },
  body: (ask: (options?: AdminTlsOptions) => Promise<unknown>, tls: AdminTls) => Promise<void>
): Promise<void> {
  const tls = new AdminTls({ cert, key: cert.replace('-cert', '-key'), ca })
  const fixture = await startFixture({ tls, tlsAdmins: ['someone', 'Client'] })
  try {
    match(fixture.url, /^https:/)
    await body((options = {}) => new ApiClient(fixture.url, () => null, options).status(), tls)
  } finally {
    await fixture.stop()
  }
}

const ours = (name: string): AdminTlsOptions => ({
  adminCa: made.ca,
  adminCert: `${made.directory}/${name}-cert.pem`,
  adminKey: `${made.directory}/${name}-key.pem`
})

test('a server is believed by the authority of its certificate, and by its name', () =>
  withTls({}, async (ask) => {
    await ask({ adminCa: made.ca })
    await rejects(ask(), /is not trusted: see --admin-ca/)
    await rejects(ask({ adminCa: foreign.ca }), /is not trusted/)
    await rejects(ask({ adminCa: '/none' }), /--admin-ca \/none cannot be read/)
  }))

test('a server with the name of another, or past its time, is not', async () => {
  const other = await addCertificate(made, { name: 'elsewhere' })
  await withTls({ cert: other.cert }, (ask) =>
    rejects(ask({ adminCa: made.ca }), /its certificate has other names/)
  )
  const old = await addCertificate(made, { name: 'old', names: 'IP:127.0.0.1', expired: true })
  await withTls({ cert: old.cert }, (ask) =>
    rejects(ask({ adminCa: made.ca }), /its certificate expired/)
  )
})

test('with an authority nobody comes in without a certificate of it', async () => {
  await addCertificate(made, { name: 'late', expired: true })
  await withTls({ ca: made.ca }, async (ask) => {
    await ask(ours('client'))
    await rejects(ask({ adminCa: made.ca }), /asks for a certificate/)
    await rejects(ask(ours('late')), /https:.*(certificate|TLS)/)
    await addCertificate(made, { name: 'guest' })
    await rejects(ask(ours('guest')), /a valid token is needed/)
    const stranger = { ...ours('client'), adminCert: `${foreign.directory}/client-cert.pem` }
    await rejects(
      ask({ ...stranger, adminKey: `${foreign.directory}/client-key.pem` }),
      /https:.*(unknown ca|TLS|may not take our certificate|closed)/i
    )
    await ask(ours('client'))
  })
})

test('certificates are replaced while the server listens, bad ones change nothing', async () => {
  const place = await addCertificate(made, { name: 'turning', names: 'IP:127.0.0.1' })
  await withTls({ cert: place.cert }, async (ask, tls) => {
    await ask({ adminCa: made.ca })
    await copyFile(`${foreign.directory}/server-cert.pem`, place.cert)
    await rejects(tls.load(), /admin TLS certificate .* cannot be used/)
    await ask({ adminCa: made.ca })
    await copyFile(`${foreign.directory}/server-key.pem`, place.key)
    await tls.load()
    await rejects(ask({ adminCa: made.ca }), /is not trusted/)
    await ask({ adminCa: foreign.ca })
  })
})

test('plain HTTP gets nothing where TLS is spoken', () =>
  withTls({}, async (ask) => {
    strictEqual(await ask({ adminCa: made.ca }).then(() => true), true)
    const tls = new AdminTls({ cert: made.serverCert, key: made.serverKey })
    const fixture = await startFixture({ tls })
    const plain = new ApiClient(fixture.url.replace('https', 'http'))
    await rejects(plain.status(), /no peer answers/)
    await fixture.stop()
  }))

test.run()
