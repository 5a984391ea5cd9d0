import { match, ok, rejects, strictEqual } from 'node:assert'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { requireValidNow } from '../../src/core/tls-files.ts'
import { encodeHello, encodeProof } from '../../src/format/peer-hello.ts'
import { ClientHandshake, ServerHandshake } from '../../src/replication/peer-handshake.ts'
import { NO_BINDING, PeerSecurity } from '../../src/replication/peer-security.ts'
import { addCertificate, type Certificates, makeCertificates } from '../helpers/certificates.ts'
import { Scratch } from '../helpers/images.ts'
import {
  clientIdentity,
  filled,
  type Gateway,
  type PeerServing,
  peerServing,
  SECRET,
  serverIdentity,
  until
} from '../helpers/peer-serving.ts'
import { PeerWire, plainFrame } from '../helpers/peer-wire.ts'

const test = suite('peer handshake')
const security = PeerSecurity.ofSecret(SECRET)

/** A link that must not come about: why it did not. */
async function refused({ logged }: PeerServing, gateway: Gateway): Promise<string> {
  const before = logged.length
  strictEqual(gateway.links.find(serverIdentity.peerId), null)
  await until(() => logged.length > before && gateway.links.troubleOf(serverIdentity.peerId) !== '')
  await until(() => gateway.links.troubleOf(serverIdentity.peerId) !== 'not connected yet')
  strictEqual(gateway.links.find(serverIdentity.peerId), null)
  return gateway.links.troubleOf(serverIdentity.peerId)
}

test('another secret gets nothing, and both sides say so', () =>
  peerServing(async (all) => {
    const other = PeerSecurity.ofSecret('a secret of quite another cluster')
    match(await refused(all, all.gateway({ security: other })), /is the cluster secret the same/)
    await until(() => all.logged.some((line) => /could not prove that it knows/.test(line)))
    strictEqual(all.server.listLinks().length, 0)
    await all.gateway().member()
  }))

test('a server with another secret is not believed', () => {
  const client = new ClientHandshake(
    clientIdentity,
    serverIdentity.peerId,
    null,
    security,
    NO_BINDING
  )
  const other = PeerSecurity.ofSecret('a secret of quite another cluster')
  const server = new ServerHandshake(serverIdentity, other, NO_BINDING)
  const challenge = server.receive(client.hello)
  ok(challenge.kind === 'reply')
  const proof = client.receive(challenge.bytes)
  ok(proof.kind === 'reply')
  strictEqual(server.receive(proof.bytes).kind, 'close')
  const welcome = { error: 0, text: '', windowOps: 1, windowBytes: 1, idleMs: 1 }
  const step = client.receive(server.welcome(welcome))
  ok(step.kind === 'failed')
  match(step.reason, /could not prove/)
})

test('a proof is good for one session, one direction and one TLS connection', () => {
  const make = (binding = NO_BINDING) => ({
    client: new ClientHandshake(clientIdentity, serverIdentity.peerId, null, security, binding),
    server: new ServerHandshake(serverIdentity, security, binding)
  })
  const first = make()
  const challenge = first.server.receive(first.client.hello)
  ok(challenge.kind === 'reply')
  const proof = first.client.receive(challenge.bytes)
  ok(proof.kind === 'reply')
  strictEqual(first.server.receive(proof.bytes).kind, 'proved')
  // Replayed: the server's nonce is another one.
  const second = make()
  strictEqual(second.server.receive(first.client.hello).kind, 'reply')
  strictEqual(second.server.receive(proof.bytes).kind, 'close')
  // Reflected: what the client proves, the server did not.
  const welcome = { error: 0, text: '', windowOps: 1, windowBytes: 1, idleMs: 1 }
  const last = first.server.welcome(welcome)
  proof.bytes.copy(last, 56, 8)
  strictEqual(first.client.receive(last).kind, 'failed')
  // Passed on from one TLS connection to another.
  const relayed = make(Buffer.alloc(32, 1))
  const server = new ServerHandshake(serverIdentity, security, Buffer.alloc(32, 2))
  const asked = server.receive(relayed.client.hello)
  ok(asked.kind === 'reply')
  const answer = relayed.client.receive(asked.bytes)
  ok(answer.kind === 'reply')
  strictEqual(server.receive(answer.bytes).kind, 'close')
})

test('versions that do not meet are both named, to both', () =>
  peerServing(async ({ at, logged }) => {
    const hello = {
      versions: { min: 7, max: 9 },
      features: 0,
      clusterId: clientIdentity.clusterId,
      fromPeer: clientIdentity.peerId,
      fromBoot: clientIdentity.bootId,
      toPeer: serverIdentity.peerId,
      toBoot: null,
      nonce: Buffer.alloc(32)
    }
    const wire = await PeerWire.connect(at)
    wire.write(encodeHello(hello))
    const challenge = await wire.message()
    const client = new ClientHandshake(
      clientIdentity,
      serverIdentity.peerId,
      null,
      security,
      NO_BINDING
    )
    const step = client.receive(challenge!)
    ok(step.kind === 'failed')
    match(step.reason, /speaks version 1 of the peer protocol, this program 1/)
    await until(() => wire.closed)
    const said = /speaks version 7-9 of the peer protocol, this program 1/
    await until(() => logged.some((line) => said.test(line)))
  }))

test('the wrong cluster, peer or boot is refused by name', () =>
  peerServing(async (all) => {
    const cluster = { ...clientIdentity, clusterId: 'ff'.repeat(16) }
    match(await refused(all, all.gateway({ identity: cluster })), /is of cluster c1c1.*not ffff/)
    const boot = { ...all.at, bootId: 'ee'.repeat(16) }
    match(await refused(all, all.gateway({ addressOf: () => boot })), /runs as boot b5b5.*not eeee/)
    const self = { ...clientIdentity, peerId: serverIdentity.peerId }
    match(await refused(all, all.gateway({ identity: self })), /is me: does a copy/)
    await all.gateway().member()
  }))

test('a peer that waits to be let in is told so, and has a link once it is let in', () => {
  let isPending = true
  const refusal = (peerId: string): string | null =>
    isPending && peerId === clientIdentity.peerId ? 'it waits to be let in' : null
  return peerServing(
    async (all) => {
      const gateway = all.gateway()
      match(await refused(all, gateway), /it refused: it waits to be let in/)
      isPending = false
      await gateway.member()
    },
    { refusal }
  )
})

test('a boot that nobody named is told', () =>
  peerServing(async ({ gateway, at }) => {
    const own = gateway({ addressOf: () => ({ ...at, bootId: null }) })
    strictEqual((await own.member()).bootId, serverIdentity.bootId)
  }))

test('strangers have little time and little room', () =>
  peerServing(
    async ({ at, server, gateway, logged }) => {
      const silent = await PeerWire.connect(at)
      await until(() => silent.closed, 'the silent one is closed')
      ok(logged.some((line) => /did not prove itself in time/.test(line)))
      const first = await PeerWire.connect(at)
      const others = await Promise.all([1, 2, 3, 4].map(() => PeerWire.connect(at)))
      await until(() => first.closed, 'the first makes room')
      await gateway().member()
      const loud = await PeerWire.connect(at)
      loud.write(Buffer.alloc(100_000, 0x41))
      await until(() => loud.closed)
      strictEqual(loud.received.length, 0)
      for (const each of others) each.destroy()
      ok(server.strangersRefused >= 3)
    },
    { limits: { handshakeMs: 300, strangers: 4 } }
  ))

test('nothing is taken behind a hello or a proof', () =>
  peerServing(async ({ at, member }) => {
    const wire = await PeerWire.connect(at)
    const client = new ClientHandshake(
      clientIdentity,
      serverIdentity.peerId,
      null,
      security,
      NO_BINDING
    )
    wire.write(client.hello)
    const step = client.receive((await wire.message())!)
    ok(step.kind === 'reply')
    wire.write(Buffer.concat([step.bytes, plainFrame(5, 1)]))
    strictEqual(await wire.message(), null)
    strictEqual(member.flushes, 0)
    const early = await PeerWire.connect(at)
    early.write(encodeProof(Buffer.alloc(32)))
    strictEqual(await early.message(), null)
  }))

test('secrets and certificates that cannot be used are named', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-secret-'))
  const none = { secretFile: null, tlsCa: null, tlsCert: null, tlsKey: null }
  const why = async (files: Partial<typeof none> | object): Promise<string> => {
    try {
      await PeerSecurity.load({ ...none, ...files })
    } catch (thrown) {
      ok(thrown instanceof StoreError && thrown.code === ErrorCode.InvalidArgument)
      return thrown.message
    }
    return ''
  }
  const file = join(directory, 'secret')
  writeFileSync(file, 'short\n')
  match(await why({}), /need cluster-secret-file, or peer-tls/)
  match(await why({ secretFile: file }), /has 5 characters, needed are 32/)
  match(await why({ secretFile: join(directory, 'none') }), /cannot be read: ENOENT/)
  match(await why({ tlsCa: file }), /needed together/)
  match(await why({ tlsCa: file, tlsCert: file, tlsKey: file }), /cannot be used/)
  writeFileSync(file, `${'ab'.repeat(32)}\n`)
  strictEqual(await why({ secretFile: file }), '')
  rmSync(directory, { recursive: true })
})

test('while the secret changes both are valid, and the old one is not after it', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-secret-'))
  const secretFile = join(directory, 'secret')
  const none = { tlsCa: null, tlsCert: null, tlsKey: null }
  const [old, fresh] = ['old '.repeat(8), 'new '.repeat(8)].map((text) => text.replaceAll(' ', '-'))
  writeFileSync(secretFile, `${old}\n`)
  const serverSide = await PeerSecurity.load({ ...none, secretFile })
  await peerServing(
    async (all) => {
      const before = all.gateway({ security: PeerSecurity.ofSecret(old!) })
      const member = await before.member()
      // Another boot each: a newer link of the same one would end the older.
      const withSecret = (secret: string, boot: string): Gateway => {
        const identity = { ...clientIdentity, bootId: boot.repeat(32) }
        return all.gateway({ identity, security: PeerSecurity.ofSecret(secret) })
      }
      const early = withSecret(fresh!, '1')
      match(await refused(all, early), /is the cluster secret the same/)
      writeFileSync(secretFile, `${old}\n${fresh}\n`)
      await serverSide.reload()
      await withSecret(fresh!, '2').member()
      await withSecret(old!, '3').member()
      writeFileSync(secretFile, 'too short\n')
      let why = ''
      await serverSide.reload().catch((thrown: Error) => {
        why = thrown.message
      })
      match(why, /has 9 characters/)
      writeFileSync(secretFile, `${fresh}\n`)
      await serverSide.reload()
      await withSecret(fresh!, '4').member()
      const late = withSecret(old!, '5')
      match(await refused(all, late), /is the cluster secret the same/)
      strictEqual(await before.write(member, 1, 0, filled(1, 1)), 0, 'who is connected stays')
    },
    { security: serverSide }
  )
  rmSync(directory, { recursive: true })
})

const tlsFiles = (made: Certificates, who: string) => ({
  secretFile: null,
  tlsCa: made.ca,
  tlsCert: join(made.directory, `${who}-cert.pem`),
  tlsKey: join(made.directory, `${who}-key.pem`)
})

async function withScratch(body: (scratch: Scratch) => Promise<void>): Promise<void> {
  const scratch = await Scratch.create()
  try {
    await body(scratch)
  } finally {
    await scratch.remove()
  }
}

test('with certificates both sides are verified, and data goes through TLS', () =>
  withScratch(async (scratch) => {
    const made = await makeCertificates(scratch)
    await addCertificate(made, { name: 'peer-client', names: `DNS:${clientIdentity.peerId}` })
    const named = (id: string): string[] => (id === serverIdentity.peerId ? ['LocalHost'] : [])
    const serverSide = await PeerSecurity.load(tlsFiles(made, 'server'))
    await peerServing(
      async (all) => {
        const files = tlsFiles(made, 'peer-client')
        const own = all.gateway({ security: await PeerSecurity.load(files, named) })
        const member = await own.member()
        for (const blocks of [1, 3, 20, 256]) {
          const bytes = filled(blocks, blocks)
          strictEqual(await own.write(member, 1, 0, bytes), 0)
          ok((await own.read(member, 1, 0, blocks)).equals(bytes))
        }
        // In the clear there is no answer at all.
        const plain = all.gateway({ security })
        ok((await refused(all, plain)).length > 0)
      },
      { security: serverSide }
    )
  }))

test('a certificate speaks for its own peer only, and only as long as it is valid', () =>
  withScratch(async (scratch) => {
    const made = await makeCertificates(scratch)
    await addCertificate(made, { name: 'own', names: `DNS:${clientIdentity.peerId}` })
    await addCertificate(made, { name: 'other', names: `DNS:${'77'.repeat(16)}` })
    await addCertificate(made, {
      name: 'old',
      names: `DNS:${clientIdentity.peerId}`,
      expired: true
    })
    const named = (id: string): string[] => (id === serverIdentity.peerId ? ['localhost'] : [])
    const load = (who: string, names = named): Promise<PeerSecurity> =>
      PeerSecurity.load(tlsFiles(made, who), names)
    await peerServing(
      async (all) => {
        const as = async (who: string, names = named): Promise<string> =>
          refused(all, all.gateway({ security: await load(who, names) }))
        // First: such warnings come once in a while only.
        ok((await as('old')).length > 0)
        await until(() => all.logged.some((line) => /certificate has expired/.test(line)))
        match(
          await as('other'),
          /it refused: its certificate is of 7777.*; peer c0c0.* is known as node-c, rack-name/
        )
        // One that has no name at all, as those of NBD clients once were.
        match(await as('client'), /it refused: its certificate is of nobody/)
        match(
          await as('own', () => ['node-x']),
          /^its certificate is of localhost, 127.0.0.1; peer 5e5e.* is known as node-x/
        )
        strictEqual(all.server.listLinks().length, 0)
        await all.gateway({ security: await load('own') }).member()
      },
      { security: await load('server', () => ['node-c', 'rack-name']) }
    )
  }))

test('a certificate or authority whose time is over, or not begun, is told before a start', () =>
  withScratch(async (scratch) => {
    const made = await makeCertificates(scratch)
    await addCertificate(made, { name: 'own', names: 'DNS:a' })
    await addCertificate(made, { name: 'old', names: 'DNS:a', expired: true })
    const check = (who: string, nowMs = Date.now()): Promise<string> => {
      const { tlsCert: cert, tlsCa: ca } = tlsFiles(made, who)
      return requireValidNow('peer', { cert, ca }, nowMs).then(
        () => 'valid',
        (thrown: Error) => thrown.message
      )
    }
    strictEqual(await check('own'), 'valid')
    match(await check('old'), /^peer certificate .*old.* expired at 20.*: no other peer would/)
    match(await check('own', 0), /^peer certificate .*own.* is not valid before 20.*1970-01-01T/)
    const { tlsCert: cert, tlsCa: ca } = tlsFiles(made, 'own')
    const [old, both] = [tlsFiles(made, 'old').tlsCert, join(made.directory, 'both.pem')]
    const swapped = requireValidNow('peer', { cert, ca: old }, Date.now())
    await rejects(swapped, /^.*peer certificate authority .*old.* expired at/)
    writeFileSync(both, readFileSync(old, 'utf8') + readFileSync(ca, 'utf8'))
    await requireValidNow('peer', { cert, ca: both }, Date.now())
  }))

test('a certificate of another authority gets nothing', () =>
  withScratch((first) =>
    withScratch(async (second) => {
      const made = await makeCertificates(first)
      const foreign = await makeCertificates(second)
      await peerServing(
        async (all) => {
          const files = { ...tlsFiles(foreign, 'client'), tlsCa: made.ca }
          const own = all.gateway({ security: await PeerSecurity.load(files) })
          ok((await refused(all, own)).length > 0)
          strictEqual(all.server.listLinks().length, 0)
          const distrusting = all.gateway({
            security: await PeerSecurity.load(tlsFiles(foreign, 'client'))
          })
          match(await refused(all, distrusting), /certificate|signature/)
        },
        { security: await PeerSecurity.load(tlsFiles(made, 'server')) }
      )
    })
  ))

test.run()
