/**
 * The metadata in etcd 3.4 or newer. What this adds to etcd's own semantics, which the interface
 * takes over: deadlines on every call, another member when one fails, and errors in words.
 *
 * - `get` and `range` are linearizable, and repeated on other members until the deadline.
 * - A transaction is repeated only while it is sure that nothing happened; else it ends with
 *   Unavailable, as the interface says.
 * - A watch without a revision starts after the newest revision that this process has seen, so
 *   it may also hear what others changed a moment before.
 * - Nothing here compacts the history by itself: etcd may have other users. Operators set
 *   `--auto-compaction-retention`.
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { checkKey, checkLimit, checkTransaction, checkTtl } from './checks.ts'
import { EtcdClient } from './etcd-client.ts'
import { comparesOf, entryOf, isLeaseNumber, rangeOf, requestOf } from './etcd-convert.ts'
import { isCompacted } from './etcd-errors.ts'
import type { EtcdOptions } from './etcd-options.ts'
import { EtcdWatches } from './etcd-watches.ts'
import type * as api from './store.ts'

export class EtcdStore implements api.MetadataStore {
  readonly #client: EtcdClient
  readonly #watches: EtcdWatches

  private constructor(client: EtcdClient) {
    this.#client = client
    this.#watches = new EtcdWatches(client)
  }

  /** @throws StoreError Unavailable, Forbidden, UnknownVersion, InvalidArgument */
  static async open(options: EtcdOptions): Promise<EtcdStore> {
    const store = new EtcdStore(new EtcdClient(options))
    try {
      // Watches start after what is known, so there must be something known.
      await store.#client.call('connecting to etcd', true, async (etcd, call) => {
        store.#client.note((await etcd.maintenance.status(call)).header)
      })
    } catch (thrown) {
      await store.close()
      throw thrown
    }
    return store
  }

  /** The endpoint that is asked first now. */
  get endpoint(): string {
    return this.#client.endpoint
  }

  /** With other certificates, or another password, from now on. Watches miss nothing. */
  renew(credentials: Pick<EtcdOptions, 'tls' | 'auth'>): void {
    this.#client.renew(credentials)
  }

  async get(key: string): Promise<api.Entry | null> {
    checkKey(key)
    const since = this.#client.revision
    return this.#client.call('reading metadata', true, async (etcd, call) => {
      const { header, kvs } = await etcd.kv.range({ key: Buffer.from(key) }, call)
      this.#client.note(header, since)
      return kvs[0] === undefined ? null : entryOf(kvs[0])
    })
  }

  async range(prefix: string, options: api.RangeOptions = {}): Promise<api.RangeResult> {
    const limit = checkLimit(options.limit)
    const request = { ...rangeOf(prefix, options.after), limit }
    const since = this.#client.revision
    return this.#client.call('reading metadata', true, async (etcd, call) => {
      const { header, kvs, more } = await etcd.kv.range(request, call)
      return { revision: this.#client.note(header, since), entries: kvs.map(entryOf), more }
    })
  }

  async transact(transaction: api.Transaction): Promise<api.TransactionResult> {
    checkTransaction(transaction)
    const { compare = [], success = [], failure = [] } = transaction
    checkLeases([...success, ...failure])
    const request = {
      compare: compare.flatMap(comparesOf),
      success: success.map(requestOf),
      failure: failure.map(requestOf)
    }
    const since = this.#client.revision
    return this.#client.call('changing metadata', false, async (etcd, call) => {
      const { header, succeeded, responses } = await etcd.kv.txn(request, call)
      const entries = responses.flatMap(({ response_range: found }) =>
        found === undefined || found === null ? [] : [found.kvs[0] ? entryOf(found.kvs[0]) : null]
      )
      return { succeeded, revision: this.#client.note(header, since), entries }
    })
  }

  watch(
    prefix: string,
    listener: (change: api.WatchChange) => void,
    options: { readonly fromRevision?: number } = {}
  ): api.Watch {
    this.#client.checkOpen()
    const { fromRevision = this.#client.revision + 1 } = options
    if (fromRevision >= 1) return this.#watches.add(prefix, listener, fromRevision)
    const text = `a watch from revision ${fromRevision}: the first is 1`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }

  async grantLease(ttlMs: number): Promise<api.Lease> {
    const seconds = Math.ceil(checkTtl(ttlMs) / 1000)
    // Repeated: a lease that nobody knows of ends by itself.
    return this.#client.call('taking a lease', true, async (etcd, call) => {
      const { header, ID, TTL } = await etcd.leaseClient.leaseGrant({ TTL: seconds }, call)
      this.#client.note(header)
      return { id: ID, ttlMs: Number(TTL) * 1000 }
    })
  }

  async keepAlive(lease: api.LeaseId): Promise<void> {
    if (!isLeaseNumber(lease)) throw leaseEnded(lease)
    await this.#client.call('keeping the lease', true, async (etcd, call) => {
      const stream = await etcd.leaseClient.leaseKeepAlive(call)
      try {
        const { header, TTL } = await new Promise<{
          header: { cluster_id: string; revision: string }
          TTL: string
        }>((resolve, reject) => {
          stream.on('data', resolve)
          stream.on('error', reject)
          stream.on('end', () => reject(new Error('14 UNAVAILABLE: the stream ended')))
          stream.write({ ID: lease })
        })
        this.#client.note(header)
        if (Number(TTL) <= 0) throw leaseEnded(lease)
      } finally {
        // The error of the end that we make is nobody's.
        stream.on('error', () => {})
        stream.end()
        stream.cancel()
      }
    })
  }

  async revokeLease(lease: api.LeaseId): Promise<void> {
    if (!isLeaseNumber(lease)) throw leaseEnded(lease)
    await this.#client.call('ending the lease', false, async (etcd, call) => {
      this.#client.note((await etcd.leaseClient.leaseRevoke({ ID: lease }, call)).header)
    })
  }

  async compact(revision: number): Promise<void> {
    await this.#client.call('compacting the history', true, async (etcd, call) => {
      try {
        await etcd.kv.compact({ revision, physical: true }, call)
      } catch (thrown) {
        if (!isCompacted(thrown)) throw thrown
      }
    })
  }

  async close(): Promise<void> {
    this.#watches.close()
    this.#client.close()
  }
}

const leaseEnded = (lease: api.LeaseId): StoreError =>
  new StoreError(ErrorCode.NotFound, `lease ${lease} has ended or never was`)

function checkLeases(operations: readonly api.Operation[]): void {
  for (const operation of operations) {
    if (!('put' in operation)) continue
    const { lease = '' } = operation
    if (lease !== '' && !isLeaseNumber(lease)) throw leaseEnded(lease)
  }
}
