/** TLS by NBD_OPT_STARTTLS, with certificates as openssl makes them and libnbd as client. */
import { match, notStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import { type Certificates, makeCertificates } from '../helpers/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { nbdCopy, nbdInfo } from '../helpers/nbd-clients.ts'
import { run } from '../helpers/process.ts'
import { TorusServer } from '../helpers/server.ts'

let scratch: Scratch
let certificates: Certificates

test.before(async () => {
  scratch = await Scratch.create()
  certificates = await makeCertificates(scratch)
})

test.after(async () => {
  await scratch?.remove()
})

async function withServer(
  args: readonly string[],
  use: (server: TorusServer) => Promise<void>
): Promise<void> {
  const pair = ['--nbd-tls-cert', certificates.serverCert, '--nbd-tls-key', certificates.serverKey]
  const server = await TorusServer.start({ args: [...pair, ...args, '--volume', 'safe=16MiB'] })
  try {
    await use(server)
  } finally {
    await server.dispose()
  }
}

const tlsUri = (server: TorusServer): string =>
  `nbds://localhost:${server.nbdPort}/safe?tls-certificates=${certificates.directory}`

const needs = { programs: ['openssl', 'nbdinfo', 'nbdcopy'] }

testNeeding(needs, 'with --nbd-tls require data passes, and only encrypted', async () => {
  await withServer(['--nbd-tls', 'require'], async (server) => {
    const info = await nbdInfo(tlsUri(server))
    ok(info.TLS)
    strictEqual(info.exports[0]?.['export-size'], 16 * MiB)
    makeImage(scratch.path('in'), 16 * MiB, [[MiB, 5 * MiB]])
    await nbdCopy(scratch.path('in'), tlsUri(server))
    await nbdCopy(tlsUri(server), scratch.path('out'))
    strictEqual(await sha256Of(scratch.path('out')), await sha256Of(scratch.path('in')))
    const plain = await run('nbdinfo', [server.uri('safe')])
    notStrictEqual(plain.code, 0)
    match(plain.stderr, /TLS|not supported/i)
  })
})

testNeeding(needs, 'with --nbd-tls allow a client chooses', async () => {
  await withServer(['--nbd-tls', 'allow'], async (server) => {
    ok((await nbdInfo(tlsUri(server))).TLS)
    ok(!(await nbdInfo(server.uri('safe'))).TLS)
  })
})

testNeeding(
  needs,
  'with an authority set, a client without its certificate is refused',
  async () => {
    const authority = ['--nbd-tls', 'require', '--nbd-tls-ca', certificates.ca]
    await withServer(authority, async (server) => {
      ok((await nbdInfo(tlsUri(server))).TLS)
      const bare = await Scratch.create()
      try {
        await run('cp', [certificates.ca, bare.path('ca-cert.pem')])
        const uri = tlsUri(server).replace(certificates.directory, bare.directory)
        notStrictEqual((await run('nbdinfo', [uri])).code, 0)
      } finally {
        await bare.remove()
      }
      ok((await nbdInfo(tlsUri(server))).TLS)
      await server.stop()
      const lines = await readFile(join(server.dataDir, 'audit', 'audit.log'), 'utf8')
      const [opened] = lines.split('\n')
      match(opened ?? '', /"kind":"nbd","name":"client".*"action":"nbdOpen","volume":"safe"/)
    })
  }
)

test.run()
