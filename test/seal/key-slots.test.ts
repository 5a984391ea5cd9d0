import { deepStrictEqual, ok, rejects, strictEqual, throws } from 'node:assert/strict'
import { suite } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import {
  type KeySlot,
  makeKey,
  makeSlot,
  openGeneration,
  openSlot,
  type PasswordHash,
  sealGeneration
} from '../../src/seal/key-slots.ts'
import { fastHash } from '../helpers/password-hash.ts'

const test = suite('key slots')
const FAMILY = '0123456789abcdef'
const spec = { id: 1, kind: 'passphrase', label: 'me', createdAt: '2026-01-01T00:00:00Z' } as const
const passphrase = Buffer.from('correct horse battery')

const slotOf = (master: Buffer, kind: KeySlot['kind'] = 'passphrase', secret = passphrase) =>
  makeSlot(FAMILY, { ...spec, kind }, master, secret, fastHash)

const codeOf =
  (code: number) =>
  (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === code

test('a slot gives the master key back to who has its secret, and to nobody else', async () => {
  const master = makeKey()
  const slot = await slotOf(master)
  deepStrictEqual(await openSlot(FAMILY, slot, passphrase, fastHash), master)
  strictEqual(await openSlot(FAMILY, slot, Buffer.from('correct horse batterz'), fastHash), null)
  strictEqual(await openSlot(FAMILY, slot, Buffer.alloc(0), fastHash), null)
})

test('key files and commands need no slow hash, and 32 bytes', async () => {
  const none: PasswordHash = { argon2id: () => Promise.reject(new Error('not for a key file')) }
  const master = makeKey()
  const key = Buffer.alloc(32, 7)
  const slot = await makeSlot(FAMILY, { ...spec, kind: 'key-file' }, master, key, none)
  deepStrictEqual(await openSlot(FAMILY, slot, key, none), master)
  await rejects(slotOf(master, 'key-file', Buffer.alloc(31)), codeOf(ErrorCode.InvalidArgument))
  await rejects(slotOf(master, 'passphrase', Buffer.alloc(7)), codeOf(ErrorCode.InvalidArgument))
  const long = Buffer.alloc(8 * 1024 + 1, 1)
  await rejects(slotOf(master, 'command', long), codeOf(ErrorCode.InvalidArgument))
})

test('no part of a slot can be another and still open', async () => {
  const slot = await slotOf(makeKey())
  const { kdf } = slot
  ok(kdf.name === 'argon2id')
  const sealed = Buffer.from(slot.sealed, 'base64')
  const others: KeySlot[] = [
    { ...slot, id: 2 },
    { ...slot, kind: 'command' },
    { ...slot, kdf: { ...kdf, opsLimit: kdf.opsLimit + 1 } },
    { ...slot, kdf: { ...kdf, salt: Buffer.alloc(16, 1).toString('base64') } },
    { ...slot, kdf: { name: 'hkdf-sha256', salt: kdf.salt } },
    { ...slot, sealed: sealed.subarray(0, 47).toString('base64') },
    { ...slot, sealed: '' }
  ]
  for (let at = 0; at < sealed.length; at++) {
    const flipped = Buffer.from(sealed)
    flipped[at]! ^= 1
    others.push({ ...slot, sealed: flipped.toString('base64') })
  }
  for (const other of others) strictEqual(await openSlot(FAMILY, other, passphrase, fastHash), null)
  strictEqual(await openSlot('f'.repeat(16), slot, passphrase, fastHash), null)
})

test('metadata cannot make a peer compute for ever', async () => {
  const slot = await slotOf(makeKey())
  ok(slot.kdf.name === 'argon2id')
  for (const change of [
    { opsLimit: 0 },
    { opsLimit: 65 },
    { memoryBytes: 2 ** 40 },
    { salt: '' }
  ]) {
    const asking = { ...slot, kdf: { ...slot.kdf, ...change } }
    await rejects(openSlot(FAMILY, asking, passphrase, fastHash), codeOf(ErrorCode.Corrupt))
  }
})

test('a data key opens with its master key, in its place only', () => {
  const master = makeKey()
  const data = makeKey()
  const sealed = sealGeneration(FAMILY, { generation: 3, fromEpoch: 9 }, master, data)
  deepStrictEqual(openGeneration(FAMILY, sealed, master), data)
  const corrupt = codeOf(ErrorCode.Corrupt)
  throws(() => openGeneration(FAMILY, { ...sealed, fromEpoch: 8 }, master), corrupt)
  throws(() => openGeneration(FAMILY, { ...sealed, generation: 2 }, master), corrupt)
  throws(() => openGeneration('f'.repeat(16), sealed, master), corrupt)
  throws(() => openGeneration(FAMILY, sealed, makeKey()), corrupt)
})

// What volumes were made with must open for ever.
test('a slot that was made long ago opens', async () => {
  const slot: KeySlot = {
    id: 1,
    kind: 'key-file',
    label: '',
    createdAt: '2026-01-01T00:00:00Z',
    kdf: { name: 'hkdf-sha256', salt: 'AAECAwQFBgcICQoLDA0ODw==' },
    sealed: 'gb3Wdivsn+6v2HRoXqyFESny+sISvNHs6OcUTwjrbUHXze72BWx1fKiQI7dHsU4n'
  }
  const master = await openSlot(FAMILY, slot, Buffer.alloc(32, 7), fastHash)
  strictEqual(master?.toString('hex'), '2a'.repeat(32))
})

test.run()
