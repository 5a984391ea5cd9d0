/** Between the store's words and etcd's. Pure. */
import type { ICompare, IEvent, IKeyValue, IRequestOp } from 'etcd3'
import type { Compare, Entry, LeaseId, Operation, WatchEvent } from './store.ts'

const ZERO = Buffer.from([0])

/** etcd's lease ids are 63-bit numbers, kept as decimal text. '' is none, 0 for etcd. */
const leaseNumber = (lease: LeaseId | undefined): string => lease || '0'

/** Could etcd have given this id? Others never were. */
export const isLeaseNumber = (lease: LeaseId): boolean => /^[1-9]\d{0,18}$/.test(lease)

/** [start, end) of all keys that start with `prefix`, after `after` if there is one. */
export function rangeOf(prefix: string, after?: string): { key: Buffer; range_end: Buffer } {
  const start = prefix === '' ? ZERO : Buffer.from(prefix)
  const next = after === undefined ? ZERO : Buffer.concat([Buffer.from(after), ZERO])
  return {
    key: Buffer.compare(next, start) > 0 ? next : start,
    // A zero byte as end means: to the last key.
    range_end: prefix === '' ? ZERO : endOf(Buffer.from(prefix))
  }
}

/** UTF-8 has no byte 255, so the last one can be raised. */
function endOf(prefix: Buffer): Buffer {
  const end = Buffer.from(prefix)
  end[end.length - 1]! += 1
  return end
}

export const entryOf = (kv: IKeyValue): Entry => ({
  key: kv.key.toString('utf8'),
  value: Buffer.from(kv.value),
  createRevision: Number(kv.create_revision),
  modRevision: Number(kv.mod_revision),
  version: Number(kv.version),
  lease: kv.lease === '0' ? '' : kv.lease
})

export function eventOf({ type, kv }: IEvent): WatchEvent {
  if (type === 'Put' || String(type).toLowerCase() === 'put') {
    return { kind: 'put', entry: entryOf(kv) }
  }
  return { kind: 'delete', key: kv.key.toString('utf8'), modRevision: Number(kv.mod_revision) }
}

export function comparesOf(condition: Compare): ICompare[] {
  const key = Buffer.from(condition.key)
  const equal = { key, result: 'Equal' } as const
  if ('is' in condition) {
    const result = condition.is === 'absent' ? 'Equal' : 'Greater'
    return [{ key, result, target: 'Version', version: 0 }]
  }
  if ('createRevision' in condition) {
    return [{ ...equal, target: 'Create', create_revision: condition.createRevision }]
  }
  if ('modRevision' in condition) {
    return [{ ...equal, target: 'Mod', mod_revision: condition.modRevision }]
  }
  if ('version' in condition) {
    return [{ ...equal, target: 'Version', version: condition.version }]
  }
  if ('value' in condition) {
    return [{ ...equal, target: 'Value', value: Buffer.from(condition.value) }]
  }
  const lease: ICompare = { ...equal, target: 'Lease', lease: leaseNumber(condition.lease) }
  // To etcd an absent key has lease 0; to us it has none that could be compared.
  if (condition.lease !== '') return [lease]
  return [lease, { key, result: 'Greater', target: 'Version', version: 0 }]
}

export function requestOf(operation: Operation): IRequestOp {
  if ('get' in operation) return { request_range: { key: Buffer.from(operation.get) } }
  if ('delete' in operation) return { request_delete_range: { key: Buffer.from(operation.delete) } }
  const { put, value, lease } = operation
  const key = Buffer.from(put)
  return { request_put: { key, value: Buffer.from(value), lease: leaseNumber(lease) } }
}
