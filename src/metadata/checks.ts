/** What every store refuses, before anything is sent or written: etcd's limits, and our own. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import {
  LEASE_TTL_MS_MAX,
  LEASE_TTL_MS_MIN,
  METADATA_KEY_BYTES_MAX,
  METADATA_RANGE_KEYS_MAX,
  METADATA_REQUEST_BYTES_MAX,
  METADATA_TRANSACTION_OPS_MAX
} from '../core/limits.ts'
import type { Operation, Transaction } from './store.ts'

/** Room for revisions, tags and lengths of one comparison or operation on the wire. */
const OPERATION_BYTES = 32

/** @throws StoreError InvalidArgument, LimitReached */
export function checkTransaction(transaction: Transaction): void {
  const compare = transaction.compare ?? []
  const branches = [transaction.success ?? [], transaction.failure ?? []]
  let bytes = 0
  checkCount('comparisons', compare.length)
  for (const condition of compare) {
    bytes += OPERATION_BYTES + checkKey(condition.key)
    if ('value' in condition) bytes += condition.value.length
  }
  for (const operations of branches) {
    checkCount('operations', operations.length)
    const changed = new Set<string>()
    for (const operation of operations) bytes += checkOperation(operation, changed)
  }
  if (bytes > METADATA_REQUEST_BYTES_MAX) {
    const text = `a metadata transaction of ${bytes} bytes is above ${METADATA_REQUEST_BYTES_MAX}`
    throw new StoreError(ErrorCode.LimitReached, text)
  }
}

function checkOperation(operation: Operation, changed: Set<string>): number {
  if ('get' in operation) return OPERATION_BYTES + checkKey(operation.get)
  const key = 'put' in operation ? operation.put : operation.delete
  const bytes = OPERATION_BYTES + checkKey(key)
  if (changed.has(key)) {
    const text = `a metadata transaction changes ${JSON.stringify(key)} twice`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  changed.add(key)
  return 'put' in operation ? bytes + operation.value.length : bytes
}

function checkCount(what: string, count: number): void {
  if (count <= METADATA_TRANSACTION_OPS_MAX) return
  const limit = `above ${METADATA_TRANSACTION_OPS_MAX}`
  const text = `${count} ${what} in a metadata transaction are ${limit}`
  throw new StoreError(ErrorCode.LimitReached, text)
}

/** Bytes of a key. @throws StoreError InvalidArgument, LimitReached */
export function checkKey(key: string): number {
  const bytes = Buffer.byteLength(key, 'utf8')
  if (bytes === 0 || /\p{Surrogate}/u.test(key)) {
    const text = `${JSON.stringify(key)} is not a metadata key: it is empty or not Unicode`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  if (bytes > METADATA_KEY_BYTES_MAX) {
    const text = `a metadata key of ${bytes} bytes is above ${METADATA_KEY_BYTES_MAX}`
    throw new StoreError(ErrorCode.LimitReached, text)
  }
  return bytes
}

/** @throws StoreError InvalidArgument */
export function checkLimit(limit: number | undefined): number {
  if (limit === undefined) return METADATA_RANGE_KEYS_MAX
  if (Number.isInteger(limit) && limit > 0) return Math.min(limit, METADATA_RANGE_KEYS_MAX)
  throw new StoreError(ErrorCode.InvalidArgument, `a range of ${limit} entries`)
}

/** The TTL that is granted. @throws StoreError InvalidArgument */
export function checkTtl(ttlMs: number): number {
  if (!(ttlMs > 0 && ttlMs <= LEASE_TTL_MS_MAX)) {
    const text = `a lease of ${ttlMs} ms is not within 1 and ${LEASE_TTL_MS_MAX}`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  return Math.max(Math.ceil(ttlMs), LEASE_TTL_MS_MIN)
}
