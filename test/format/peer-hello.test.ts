import { deepStrictEqual, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { viewOf } from '../../src/format/fields.ts'
import {
  type Challenge,
  decodeChallenge,
  decodeHello,
  decodeHelloVersions,
  decodeProof,
  decodeWelcome,
  encodeChallenge,
  encodeHello,
  encodeProof,
  encodeWelcome,
  HANDSHAKE_MESSAGE_BYTES_MAX,
  type Hello,
  handshakeMessageBytes,
  type Welcome
} from '../../src/format/peer-hello.ts'
import { equalGolden } from '../helpers/golden.ts'

const test = suite('peer hello')

const hello: Hello = {
  versions: { min: 1, max: 3 },
  features: 0x01020304,
  clusterId: '11'.repeat(16),
  fromPeer: '22'.repeat(16),
  fromBoot: '33'.repeat(16),
  toPeer: '44'.repeat(16),
  toBoot: '55'.repeat(16),
  nonce: Buffer.alloc(32, 0x66)
}
const challenge: Challenge = {
  version: 2,
  versions: { min: 1, max: 2 },
  nonce: Buffer.alloc(32, 0x77)
}
const welcome: Welcome = {
  error: 17,
  features: 0x01020304,
  windowOps: 5,
  windowBytes: 6,
  idleMs: 7,
  peerId: '88'.repeat(16),
  bootId: '99'.repeat(16),
  text: 'h\u00e4'
}

test('messages have these bytes, and are read again', () => {
  const bytes = encodeHello(hello)
  equalGolden(bytes, [
    '54504849008000010003000001020304',
    ...['11', '22', '33', '44', '55', '66', '66'].map((byte) => byte.repeat(16))
  ])
  deepStrictEqual(decodeHello(bytes), hello)
  deepStrictEqual(decodeHello(encodeHello({ ...hello, toBoot: null }))?.toBoot, null)
  const asked = encodeChallenge(challenge)
  equalGolden(asked, ['54504348003000020001000200000000', '77'.repeat(16), '77'.repeat(16)])
  deepStrictEqual(decodeChallenge(asked), challenge)
  const proof = Buffer.alloc(32, 0xaa)
  const proved = encodeProof(proof)
  strictEqual(proved.toString('hex'), `5450505200280000${'aa'.repeat(32)}`)
  deepStrictEqual(decodeProof(proved), proof)
  const last = encodeWelcome(welcome)
  equalGolden(last, [
    '54505745005f00110102030400000005',
    `0000000600000007${'88'.repeat(8)}`,
    `${'88'.repeat(8)}${'99'.repeat(8)}`,
    `${'99'.repeat(8)}${'00'.repeat(8)}`,
    '00'.repeat(16),
    `${'00'.repeat(8)}0003000068c3a4`
  ])
  deepStrictEqual(decodeWelcome(last), welcome)
})

test('a hello of a later version still tells its versions and its length', () => {
  const bytes = Buffer.concat([encodeHello({ ...hello, versions: { min: 7, max: 9 } })])
  const later = Buffer.concat([bytes, Buffer.alloc(100, 1)])
  later.writeUInt16BE(later.length, 4)
  strictEqual(handshakeMessageBytes(viewOf(later), 0), later.length)
  deepStrictEqual(decodeHelloVersions(later), { min: 7, max: 9 })
})

test('what starts no message has no length', () => {
  const bytes = encodeHello(hello)
  bytes.writeUInt16BE(HANDSHAKE_MESSAGE_BYTES_MAX + 1, 4)
  strictEqual(handshakeMessageBytes(viewOf(bytes), 0), 0)
  bytes.writeUInt16BE(3, 4)
  strictEqual(handshakeMessageBytes(viewOf(bytes), 0), 0)
  strictEqual(handshakeMessageBytes(viewOf(Buffer.from('GET / HTTP/1.1\r\n')), 0), 0)
})

test('a message in the place of another one is none', () => {
  const messages = [
    encodeHello(hello),
    encodeChallenge(challenge),
    encodeProof(Buffer.alloc(32)),
    encodeWelcome(welcome)
  ]
  const decoders = [decodeHello, decodeChallenge, decodeProof, decodeWelcome]
  for (const [made, message] of messages.entries()) {
    for (const [read, decode] of decoders.entries()) {
      strictEqual(decode(message) !== null, made === read, `${made} read as ${read}`)
    }
  }
})

test.run()
