import { deepStrictEqual, strictEqual, throws } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import * as layout from '../../src/metadata/layout.ts'
import { endOfPrefix } from '../../src/metadata/tables.ts'

const failsWith =
  (code: ErrorCode) =>
  (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === code

const entry = {
  key: 'a/ä',
  value: Buffer.from('value'),
  createRevision: 2,
  modRevision: 2 ** 40 + 3,
  version: 4,
  lease: '00000000deadbeef'
}

test('the state has these bytes', () => {
  const state = { revision: 2 ** 33 + 5, compactRevision: 7, historyBytes: 4096 }
  const bytes = layout.encodeState(state)
  strictEqual(
    bytes.toString('hex'),
    '0000000143d1f37d000000020000000500000000000000070000000000001000'
  )
  deepStrictEqual(layout.decodeState(bytes), state)
})

test('a record has these bytes, bound to its key', () => {
  const bytes = layout.encodeRecord(entry)
  strictEqual(
    bytes.toString('hex'),
    '25222ddc00100000' +
      '0000000000000002' +
      '0000010000000003' +
      '0000000000000004' +
      Buffer.from('00000000deadbeefvalue').toString('hex')
  )
  deepStrictEqual(layout.decodeRecord(entry.key, bytes), entry)
  throws(() => layout.decodeRecord('a/b', bytes), failsWith(ErrorCode.Corrupt))
})

test('events have these bytes', () => {
  const put = layout.encodeEvent({ kind: 'put', entry })
  strictEqual(put.toString('hex', 0, 8), `01000004${Buffer.from('a/ä').toString('hex')}`)
  deepStrictEqual(layout.decodeEvent(entry.modRevision, put), { kind: 'put', entry })
  const gone = { kind: 'delete', key: 'a', modRevision: 9 } as const
  const bytes = layout.encodeEvent(gone)
  strictEqual(bytes.toString('hex'), '0200000161')
  deepStrictEqual(layout.decodeEvent(9, bytes), gone)
})

test('keys of tables sort by revision', () => {
  strictEqual(
    Buffer.from(layout.historyKeyOf(2 ** 32 + 1, 2), 'latin1').toString('hex'),
    '68000000010000000100000002'
  )
  const keys = [1, 255, 256, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 40].map((revision) =>
    layout.historyKeyOf(revision, 0)
  )
  deepStrictEqual([...keys].sort(), keys)
  deepStrictEqual(keys.map(layout.revisionOfHistoryKey)[5], 2 ** 32)
})

test('every flipped bit of a record or of the state is found', () => {
  const record = layout.encodeRecord(entry)
  const state = layout.encodeState({ revision: 9, compactRevision: 3, historyBytes: 1 })
  for (let bit = 0; bit < record.length * 8; bit++) {
    record[bit >> 3]! ^= 1 << (bit & 7)
    throws(() => layout.decodeRecord(entry.key, record), failsWith(ErrorCode.Corrupt), `${bit}`)
    record[bit >> 3]! ^= 1 << (bit & 7)
  }
  for (let bit = 0; bit < state.length * 8; bit++) {
    state[bit >> 3]! ^= 1 << (bit & 7)
    throws(() => layout.decodeState(state), StoreError)
    state[bit >> 3]! ^= 1 << (bit & 7)
  }
  for (let bytes = 0; bytes < record.length; bytes++) {
    const cut = record.subarray(0, bytes)
    throws(() => layout.decodeRecord(entry.key, cut), failsWith(ErrorCode.Corrupt))
  }
})

test('a store of a newer format is refused by name', () => {
  const state = layout.encodeState({ revision: 9, compactRevision: 3, historyBytes: 1 })
  state.writeUInt32BE(2, 0)
  throws(() => layout.decodeState(state), failsWith(ErrorCode.UnknownVersion))
  throws(() => layout.decodeState(Buffer.alloc(2)), failsWith(ErrorCode.Corrupt))
})

test('the end of a prefix is behind all that start with it', () => {
  for (const prefix of ['a', 'a\xff', 'kp/']) {
    const end = endOfPrefix(prefix)
    for (const rest of ['', '\0', 'z', '\xff\xff']) strictEqual(prefix + rest < end, true)
  }
  strictEqual(endOfPrefix('a\xff'), 'b')
})

test.run()
