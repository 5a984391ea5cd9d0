/** TLS and users of etcd: who may come in, and what is said to who may not. */
import { match, ok, rejects, strictEqual } from 'node:assert'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { createServer } from 'node:tls'
import { Range } from 'etcd3'
import { test } from 'uvu'
import { systemClock } from '../../src/core/clock.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { EtcdOptions } from '../../src/metadata/etcd-options.ts'
import { EtcdStore } from '../../src/metadata/etcd-store.ts'
import { addCertificate, type Certificates, makeCertificates } from '../helpers/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { EtcdServer } from '../helpers/etcd.ts'
import { Scratch } from '../helpers/images.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'

const failsWith = (code: ErrorCode, words: RegExp) => (thrown: unknown) => {
  ok(thrown instanceof StoreError, String(thrown))
  match(thrown.message, words)
  strictEqual(thrown.code, code, thrown.message)
  return true
}

const times = { callMs: 2500, attemptMs: 1000 }

async function use(options: Partial<EtcdOptions> & Pick<EtcdOptions, 'endpoints'>): Promise<void> {
  const clock = systemClock
  const store = await EtcdStore.open({ clock, random: new SeededRandom(1), times, ...options })
  try {
    const heard: string[] = []
    store.watch('/torus/', (change) => heard.push(change.kind))
    const { id } = await store.grantLease(5000)
    const value = Buffer.from('1')
    await store.transact({ success: [{ put: '/torus/a', value, lease: id }] })
    strictEqual((await store.get('/torus/a'))?.value.toString(), '1')
    await store.keepAlive(id)
    await until(() => heard.length > 0, 'the watch hears of it', 5000)
    strictEqual(heard.join(), 'events')
    await store.revokeLease(id)
  } finally {
    await store.close()
  }
}

/** The server starts when it is ready; with TLS the helper cannot ask it. */
async function useSoon(options: Parameters<typeof use>[0]): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await use(options)
    } catch (thrown) {
      if (attempt > 8 || !(thrown instanceof StoreError)) throw thrown
      if (thrown.code !== ErrorCode.Unavailable) throw thrown
    }
  }
}

async function withTls(
  clientAuth: boolean,
  body: (endpoints: readonly string[], files: Certificates) => Promise<void>
): Promise<void> {
  const scratch = await Scratch.create()
  try {
    const files = await makeCertificates(scratch)
    const tls = { cert: files.serverCert, key: files.serverKey }
    const server = await EtcdServer.start({
      tls: clientAuth ? { ...tls, clientCa: files.ca } : tls
    })
    try {
      await body(server.endpoints, files)
    } finally {
      await server.stop()
    }
  } finally {
    await scratch.remove()
  }
}

const needs = { programs: ['etcd', 'openssl'] }

testNeeding(needs, 'an etcd with TLS is used, and one that cannot be trusted is not', async () => {
  await withTls(false, async (endpoints, { ca }) => {
    await useSoon({ endpoints, tls: { ca: readFileSync(ca) } })
    await rejects(use({ endpoints }), failsWith(ErrorCode.Forbidden, /certificate/))
    const plain = endpoints.map((url) => url.replace('https:', 'http:'))
    await rejects(use({ endpoints: plain }), failsWith(ErrorCode.Unavailable, /127\.0\.0\.1/))
  })
})

const old = 'an etcd whose certificate is over, of another name or authority is not trusted'
testNeeding({ programs: ['openssl'] }, old, async () => {
  const [scratch, others] = [await Scratch.create(), await Scratch.create()]
  try {
    const files = await makeCertificates(scratch)
    const foreign = await makeCertificates(others)
    const shown = [
      await addCertificate(files, { name: 'old', names: 'IP:127.0.0.1', expired: true }),
      await addCertificate(files, { name: 'elsewhere' }),
      { cert: foreign.serverCert, key: foreign.serverKey }
    ]
    const quick = { callMs: 1500, attemptMs: 500 }
    const refuse = async ({ cert, key }: { cert: string; key: string }): Promise<void> => {
      const pair = { cert: readFileSync(cert), key: readFileSync(key) }
      const server = createServer({ ...pair, ALPNProtocols: ['h2'] })
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      const endpoints = [`https://127.0.0.1:${(server.address() as AddressInfo).port}`]
      const given = { endpoints, tls: { ca: readFileSync(files.ca) }, times: quick }
      await rejects(use(given), failsWith(ErrorCode.Forbidden, /certificate/))
      server.close()
    }
    await Promise.all(shown.map(refuse))
  } finally {
    for (const each of [scratch, others]) await each.remove()
  }
})

testNeeding(needs, 'an etcd that asks for a certificate gets ours', async () => {
  await withTls(true, async (endpoints, { ca, directory }) => {
    const tls = { ca: readFileSync(ca) }
    const cert = readFileSync(join(directory, 'client-cert.pem'))
    const key = readFileSync(join(directory, 'client-key.pem'))
    await useSoon({ endpoints, tls: { ...tls, cert, key } })
    await rejects(use({ endpoints, tls }), (thrown) => thrown instanceof StoreError)
  })
})

testNeeding(needs, 'an etcd with users wants the right one, with rights', async () => {
  const server = await EtcdServer.start()
  try {
    const { endpoints } = server
    const auth = { user: 'torus', password: 'secret' }
    const noUsers = failsWith(ErrorCode.InvalidArgument, /leave --etcd-user out/)
    await rejects(use({ endpoints, auth }), noUsers)
    const raw = server.client()
    await raw.user('root').create('secret')
    await raw.role('root').create()
    await raw.user('root').addRole('root')
    await raw.role('torus').create()
    await raw.role('torus').grant({ permission: 'Readwrite', range: Range.prefix('/torus/') })
    await raw.user('torus').create('secret')
    await raw.user('torus').addRole('torus')
    await raw.auth.authEnable()
    raw.close()
    await use({ endpoints, auth })
    const wrong = { user: 'torus', password: 'wrong' }
    const refused = failsWith(ErrorCode.Forbidden, /refuses the user or the password/)
    await rejects(use({ endpoints, auth: wrong }), refused)
    await rejects(use({ endpoints }), failsWith(ErrorCode.Forbidden, /asks for a user/))
    const clock = systemClock
    const options = { endpoints, auth, clock, random: new SeededRandom(1), times }
    const store = await EtcdStore.open(options)
    await rejects(store.get('/other'), failsWith(ErrorCode.Forbidden, /grant it readwrite/))
    const heard: string[] = []
    store.watch('/torus/', (change) => heard.push(change.kind))
    const put = () => store.transact({ success: [{ put: '/torus/a', value: Buffer.from('2') }] })
    await put()
    await until(() => heard.length === 1, 'the watch is there')
    const root = server.client({ username: 'root', password: 'secret' })
    await root.user('torus').setPassword('another')
    root.close()
    await rejects(put(), refused)
    const renewed = { auth: { user: 'torus', password: 'another' } }
    store.renew(renewed)
    await put()
    await until(() => heard.length === 2, 'the watch goes on with the new password', 15_000)
    // Tokens are forgotten with the process.
    await server.kill(0)
    server.restart(0)
    await server.ready()
    await until(() => put().then(Boolean, () => false), 'changes go on')
    await until(() => heard.length > 2, 'and so does the watch', 15_000)
    await store.close()
  } finally {
    await server.stop()
  }
})

test.run()
