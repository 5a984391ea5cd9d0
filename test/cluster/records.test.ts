import { deepStrictEqual, match, ok, strictEqual, throws } from 'node:assert'
import { test } from 'uvu'
import { Keys } from '../../src/cluster/keys.ts'
import { checkDescription, checkLabels, checkVolumeName } from '../../src/cluster/names.ts'
import { decodeRecord, encodeRecord, type VolumeRecord } from '../../src/cluster/records.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'

const failsWith =
  (code: ErrorCode) =>
  (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === code

const volume: VolumeRecord = {
  v: 1,
  id: '00000000000000a1',
  name: 'v',
  type: 'block',
  family: '00000000000000b2',
  headLayer: '00000000000000c3',
  sizeBytes: 4096,
  touchedBytes: 4096,
  state: 'ready',
  readOnly: false,
  labels: { a: 'b' },
  description: '',
  settings: { deep: [1, { x: null }] },
  createdAt: '2026-01-31T12:00:00.000Z'
}

const decode = (value: unknown) =>
  decodeRecord('volume', '/torus/v1/volumes/x', Buffer.from(JSON.stringify(value)))

test('a record is read as it was written', () => {
  const bytes = encodeRecord('volume', volume)
  deepStrictEqual(decodeRecord('volume', 'k', bytes), volume)
})

test('fields that a later release adds survive a rewrite by this one', () => {
  const later = { ...volume, qos: { iops: 100 } }
  const read = decode(later)
  deepStrictEqual(JSON.parse(encodeRecord('volume', { ...read, name: 'w' }).toString()), {
    ...later,
    name: 'w'
  })
})

test('a record of a newer version is refused by both versions', () => {
  throws(() => decode({ ...volume, v: 2 }), failsWith(ErrorCode.UnknownVersion))
  try {
    decode({ v: 7 })
  } catch (thrown) {
    match(String(thrown), /volumes\/x: volume record of version 7, this program knows 1/)
  }
})

test('what is no record is corrupt, and the message names the key and the field', () => {
  const wrong = [
    null,
    5,
    [],
    {},
    { ...volume, v: 0 },
    { ...volume, v: '1' },
    { ...volume, id: 'A1' },
    { ...volume, family: '0000000000000000' },
    { ...volume, sizeBytes: -1 },
    { ...volume, sizeBytes: 1.5 },
    { ...volume, sizeBytes: '4096' },
    { ...volume, state: 'gone' },
    { ...volume, labels: { a: 1 } },
    { ...volume, createdAt: 'yesterday' }
  ]
  for (const value of wrong) {
    throws(() => decode(value), failsWith(ErrorCode.Corrupt), JSON.stringify(value))
  }
  const garbage = Buffer.from([0xff, 0x7b])
  throws(() => decodeRecord('peer', 'k', garbage), failsWith(ErrorCode.Corrupt))
  try {
    decode({ ...volume, sizeBytes: -1 })
    ok(false)
  } catch (thrown) {
    match(String(thrown), /volumes\/x/)
    match(String(thrown), /sizeBytes/)
  }
})

test('a volume record has this form on disk', () => {
  strictEqual(
    encodeRecord('volume', volume).toString(),
    '{"v":1,"id":"00000000000000a1","name":"v","type":"block","family":"00000000000000b2",' +
      '"headLayer":"00000000000000c3","sizeBytes":4096,"touchedBytes":4096,"state":"ready",' +
      '"readOnly":false,"labels":{"a":"b"},"description":"","settings":{"deep":[1,{"x":null}]},' +
      '"createdAt":"2026-01-31T12:00:00.000Z"}'
  )
})

test('keys stand below a prefix and a version', () => {
  const keys = new Keys('/site/torus/')
  strictEqual(keys.volume('a1'), '/site/torus/v1/volumes/a1')
  strictEqual(keys.name('demo'), '/site/torus/v1/names/demo')
  strictEqual(new Keys().cluster, '/torus/v1/cluster')
  strictEqual(new Keys('').writer('f'), '/v1/writers/f')
})

test('names, labels and descriptions have rules', () => {
  for (const name of ['a', '0', 'A.b_c-d', 'x'.repeat(128)]) checkVolumeName(name)
  for (const name of ['', '_a', '.', '..', 'a b', 'a@b', 'a/b', 'ä', 'a\0', 'x'.repeat(129)]) {
    throws(() => checkVolumeName(name), failsWith(ErrorCode.InvalidArgument), name)
  }
  checkLabels({ 'team/storage': 'any text: ä', x: '' })
  const many = Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`k${index}`, '']))
  for (const labels of [{ '': 'x' }, { 'a b': 'x' }, { a: 'x'.repeat(257) }, many]) {
    throws(() => checkLabels(labels), failsWith(ErrorCode.InvalidArgument))
  }
  checkDescription('x'.repeat(1024))
  throws(() => checkDescription('x'.repeat(1025)), failsWith(ErrorCode.InvalidArgument))
})

test.run()
