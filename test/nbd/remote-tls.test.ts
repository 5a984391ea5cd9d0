/** What stands between the kernel and its gateways asks over TLS who they are. */
import { deepStrictEqual, rejects, strictEqual } from 'node:assert'
import { readFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { test } from 'uvu'
import { RemoteLink } from '../../src/nbd/remote-link.ts'
import { addCertificate, type Certificates, makeCertificates } from '../helpers/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { bounded, serving } from '../helpers/nbd-serving.ts'

async function withCertificates(
  body: (certificates: Certificates, ca: Buffer) => Promise<void>
): Promise<void> {
  const scratch = await Scratch.create()
  try {
    const certificates = await makeCertificates(scratch)
    await body(certificates, await readFile(certificates.ca))
  } finally {
    await scratch.remove()
  }
}

const linkTo = (host: string, port: number, ca: Buffer): Promise<RemoteLink> =>
  RemoteLink.connect({
    ...{ endpoint: { host, port }, exportName: 'demo' },
    ...{ tls: { ca }, timeoutMs: 5000 }
  })

testNeeding({ programs: ['openssl'] }, 'a gateway is the one that was asked for', () =>
  withCertificates(async (certificates, ca) => {
    const names: readonly [string, string, readonly string[]][] = [
      ['address', 'IP:127.0.0.1', ['127.0.0.1']],
      ['name', 'DNS:localhost', ['localhost']],
      ['other', 'DNS:other.example,IP:10.0.0.1', []]
    ]
    for (const [name, alternatives, known] of names) {
      const { cert, key } = await addCertificate(certificates, { name, names: alternatives })
      const tls = { mode: 'require', certFile: cert, keyFile: key } as const
      await serving(
        async ({ port }) => {
          const reached: string[] = []
          for (const host of ['127.0.0.1', 'localhost']) {
            const link = await linkTo(host, port, ca).catch(() => null)
            if (link !== null) reached.push(host)
            link?.close()
          }
          deepStrictEqual(reached, known, name)
        },
        { options: { tls } }
      )
    }
  })
)

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex')
const GREETING = hex('4e42444d41474943 49484156454f5054 0003')
/** Answers of NBD_OPT_STARTTLS and NBD_OPT_GO: magic, option, type, length. */
const STARTTLS_ACK = hex('0003e889045565a9 00000005 00000001 00000000')
const GO_INFO = hex('0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0003')
const GO_ACK = hex('0003e889045565a9 00000007 00000001 00000000')

test('nothing is believed that came in the clear, before TLS', async () => {
  const sockets: Socket[] = []
  const between = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    socket.write(GREETING)
    socket.once('data', () => socket.write(Buffer.concat([STARTTLS_ACK, GO_INFO, GO_ACK])))
  })
  await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', () => resolve()))
  const address = between.address()
  const port = address === null || typeof address === 'string' ? 0 : address.port
  const link = linkTo('127.0.0.1', port, Buffer.alloc(0))
  try {
    await bounded(rejects(link, /goes on in the clear before TLS/), 4000)
  } finally {
    for (const socket of sockets) socket.destroy()
    between.close()
  }
  strictEqual(sockets.length, 1)
})

test.run()
