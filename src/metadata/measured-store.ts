/** A store that counts its calls: how many, how many failed, how long they took. */
import { type HistogramSnapshot, LatencyHistogram } from '../core/histogram.ts'
import type * as api from './store.ts'

const metadataOperations = [
  'get',
  'range',
  'transact',
  'grantLease',
  'keepAlive',
  'revokeLease',
  'compact'
] as const
type MetadataOperation = (typeof metadataOperations)[number]

export interface MetadataCallStats {
  readonly operation: MetadataOperation
  readonly count: number
  readonly errors: number
  readonly latency: HistogramSnapshot
}

class Row {
  count = 0
  errors = 0
  readonly latency = new LatencyHistogram()
}

export class MeasuredStore implements api.MetadataStore {
  readonly #store: api.MetadataStore
  readonly #rows = new Map<MetadataOperation, Row>(
    metadataOperations.map((operation) => [operation, new Row()])
  )
  /** Changes that watches were told of. */
  watchChanges = 0

  constructor(store: api.MetadataStore) {
    this.#store = store
  }

  stats(): MetadataCallStats[] {
    return [...this.#rows].map(([operation, { count, errors, latency }]) => ({
      operation,
      count,
      errors,
      latency: latency.snapshot()
    }))
  }

  get(key: string): Promise<api.Entry | null> {
    return this.#measure('get', () => this.#store.get(key))
  }

  range(prefix: string, options?: api.RangeOptions): Promise<api.RangeResult> {
    return this.#measure('range', () => this.#store.range(prefix, options))
  }

  transact(transaction: api.Transaction): Promise<api.TransactionResult> {
    return this.#measure('transact', () => this.#store.transact(transaction))
  }

  watch(
    prefix: string,
    listener: (change: api.WatchChange) => void,
    options?: { readonly fromRevision?: number }
  ): api.Watch {
    const counting = (change: api.WatchChange): void => {
      this.watchChanges++
      listener(change)
    }
    return this.#store.watch(prefix, counting, options)
  }

  grantLease(ttlMs: number): Promise<api.Lease> {
    return this.#measure('grantLease', () => this.#store.grantLease(ttlMs))
  }

  keepAlive(lease: api.LeaseId): Promise<void> {
    return this.#measure('keepAlive', () => this.#store.keepAlive(lease))
  }

  revokeLease(lease: api.LeaseId): Promise<void> {
    return this.#measure('revokeLease', () => this.#store.revokeLease(lease))
  }

  compact(revision: number): Promise<void> {
    return this.#measure('compact', () => this.#store.compact(revision))
  }

  close(): Promise<void> {
    return this.#store.close()
  }

  async #measure<T>(operation: MetadataOperation, call: () => Promise<T>): Promise<T> {
    const row = this.#rows.get(operation)!
    const startMs = performance.now()
    row.count++
    try {
      return await call()
    } catch (thrown) {
      row.errors++
      throw thrown
    } finally {
      row.latency.recordMs(performance.now() - startMs)
    }
  }
}
