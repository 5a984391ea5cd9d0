/** A damaged copy of exported keys takes no good slot's place. */
import { deepStrictEqual, throws } from 'node:assert'
import { test } from 'uvu'
import type { VolumeKeysRecord } from '../../src/cluster/records.ts'
import { exportedOf, importedOf } from '../../src/coordinator/exported-keys.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'

const base64 = (bytes: number): string => Buffer.alloc(bytes, 7).toString('base64')
const record: VolumeKeysRecord = {
  v: 1,
  family: '00000000000000a1',
  nextSlot: 2,
  slots: [
    {
      ...{ id: 1, kind: 'passphrase', label: '', createdAt: '2026-01-31T12:00:00.000Z' },
      kdf: { name: 'argon2id', salt: base64(16), opsLimit: 3, memoryBytes: 2 ** 28 },
      sealed: base64(48)
    }
  ],
  generations: [{ generation: 1, fromEpoch: 0, salt: base64(16), sealed: base64(48) }],
  rekey: null
}

/** Paths of all strings and numbers in a value. */
function leaves(value: unknown, path: readonly (string | number)[] = []): (typeof path)[] {
  if (typeof value !== 'object' || value === null) return [path]
  const keys = Array.isArray(value) ? [...value.keys()] : Object.keys(value)
  return keys.flatMap((key) =>
    leaves((value as Record<string | number, unknown>)[key], [...path, key])
  )
}

type Tree = Record<string | number, unknown>

function changedAt<T extends object>(whole: T, path: readonly (string | number)[]): T {
  const copy = structuredClone(whole)
  const parents = path.slice(0, -1)
  const parent = parents.reduce<Tree>((at, key) => at[key] as Tree, copy as unknown as Tree)
  const last = path.at(-1)!
  const value = parent[last]
  if (typeof value === 'string')
    parent[last] = `${value.startsWith('A') ? 'B' : 'A'}${value.slice(1)}`
  else parent[last] = typeof value === 'number' ? value + 1 : 1
  return copy
}

test('what was exported is taken again, however its JSON is ordered', () => {
  const { slots, ...rest } = exportedOf(record)
  deepStrictEqual(importedOf({ slots, ...rest }), record)
  deepStrictEqual(importedOf(JSON.parse(JSON.stringify({ ...record }))), record, 'without checksum')
})

test('a change of any value is refused', () => {
  const exported = JSON.parse(JSON.stringify(exportedOf(record))) as ReturnType<typeof exportedOf>
  const paths = leaves(exported)
  for (const path of paths) {
    throws(
      () => importedOf(changedAt(exported, path)),
      (thrown: unknown) =>
        thrown instanceof StoreError &&
        [ErrorCode.InvalidArgument, ErrorCode.Corrupt, ErrorCode.UnknownVersion].some(
          (code) => code === thrown.code
        ),
      path.join('.')
    )
  }
})

test.run()
