import { deepStrictEqual, strictEqual, throws } from 'node:assert'
import fc from 'fast-check'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import {
  decodeBackup,
  encodeBackup,
  type MetadataBackup
} from '../../src/metadata/backup-format.ts'

const small: MetadataBackup = {
  clusterId: '00112233445566778899aabbccddeeff',
  revision: 7,
  createdMs: 1_700_000_000_000,
  entries: [
    { key: 'a', value: Buffer.from('1') },
    { key: 'b/ä', value: Buffer.alloc(0) }
  ]
}
const fileOf = (backup: MetadataBackup): Buffer => Buffer.concat([...encodeBackup(backup)])

test('the layout of a backup is what it was', () => {
  strictEqual(
    fileOf(small).toString('hex'),
    [
      '544f5255534d444200000001',
      'cfde2e77',
      '00112233445566778899aabbccddeeff',
      '0000000000000007',
      '0000018bcfe56800',
      '00'.repeat(16),
      'd8af9b3b0000000100000001000000006131',
      'badb04f6000000040000000000000000622fc3a4',
      '5b426a05000000000000000200000000'
    ].join('')
  )
})

test('a backup gives back what went in', () => {
  const key = fc.string({ minLength: 1, unit: 'grapheme' })
  const fields = { key, value: fc.uint8Array().map((bytes) => Buffer.from(bytes)) }
  const entry = fc.record(fields, { noNullPrototype: true })
  const sorted = fc
    .uniqueArray(entry, { selector: ({ key }) => key })
    .map((entries) =>
      entries.sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)))
    )
  fc.assert(
    fc.property(sorted, fc.maxSafeNat(), (entries, revision) => {
      const backup = { ...small, entries, revision }
      deepStrictEqual(decodeBackup(fileOf(backup)), backup)
    })
  )
})

test('a bit that flipped, a missing end or a missing part is noticed', () => {
  const whole = fileOf(small)
  const parts = [...encodeBackup(small)]
  const fails = (bytes: Buffer, what: string): void => {
    throws(
      () => decodeBackup(bytes),
      (thrown) => thrown instanceof StoreError,
      what
    )
  }
  for (let bit = 0; bit < whole.length * 8; bit++) {
    const bytes = Buffer.from(whole)
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    fails(bytes, `bit ${bit}`)
  }
  for (let length = 0; length < whole.length; length++)
    fails(whole.subarray(0, length), `${length}`)
  fails(Buffer.concat([whole, Buffer.alloc(1)]), 'more')
  fails(Buffer.concat(parts.toSpliced(1, 1)), 'an entry is missing')
  fails(Buffer.concat(parts.with(1, parts[2]!).with(2, parts[1]!)), 'other order')
})

test('a newer format is refused by its number', () => {
  const bytes = fileOf(small)
  bytes.writeUInt32BE(2, 8)
  throws(
    () => decodeBackup(bytes),
    (thrown) => thrown instanceof StoreError && thrown.code === ErrorCode.UnknownVersion
  )
})

test.run()
