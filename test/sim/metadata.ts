import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type {
  Entry,
  Lease,
  LeaseId,
  MetadataStore,
  RangeOptions,
  RangeResult,
  Transaction,
  TransactionResult,
  Watch,
  WatchChange
} from '../../src/metadata/store.ts'
import type { Network, Pipe, Place } from './network.ts'
import type { Process } from './world.ts'

export const METADATA: Place = 'metadata'
/** After it a call counts as failed, whether or not it was carried out. */
const CALL_DEADLINE_MS = 1500

/** The metadata store as one process reaches it: over the network, late, or not at all. */
export class RemoteMetadata implements MetadataStore {
  readonly #store: MetadataStore
  readonly #network: Network
  readonly #process: Process
  readonly #place: Place
  readonly #there: Process
  readonly #onChanging: (transaction: Transaction) => void
  readonly #toStore: Pipe
  readonly #fromStore: Pipe

  constructor(
    store: MetadataStore,
    network: Network,
    from: {
      readonly process: Process
      readonly place: Place
      readonly server: Process
      /** Sees what is changed, before anything else does. */
      readonly onChanging: (transaction: Transaction) => void
    }
  ) {
    this.#store = store
    this.#network = network
    this.#process = from.process
    this.#place = from.place
    this.#there = from.server
    this.#onChanging = from.onChanging
    this.#toStore = network.pipe()
    this.#fromStore = network.pipe()
  }

  get(key: string): Promise<Entry | null> {
    return this.#call((store) => store.get(key))
  }
  range(prefix: string, options?: RangeOptions): Promise<RangeResult> {
    return this.#call((store) => store.range(prefix, options))
  }
  transact(transaction: Transaction): Promise<TransactionResult> {
    return this.#call((store) => {
      this.#onChanging(transaction)
      return store.transact(transaction)
    })
  }
  grantLease(ttlMs: number): Promise<Lease> {
    return this.#call((store) => store.grantLease(ttlMs))
  }
  keepAlive(lease: LeaseId): Promise<void> {
    return this.#call((store) => store.keepAlive(lease))
  }
  revokeLease(lease: LeaseId): Promise<void> {
    return this.#call((store) => store.revokeLease(lease))
  }
  compact(revision: number): Promise<void> {
    return this.#call((store) => store.compact(revision))
  }

  watch(
    prefix: string,
    listener: (change: WatchChange) => void,
    options: { readonly fromRevision?: number } = {}
  ): Watch {
    let cancelled = false
    const pipe = this.#network.pipe()
    const inner = this.#store.watch(
      prefix,
      (change) => {
        this.#network.send(pipe, METADATA, this.#place, this.#process, () => {
          if (!cancelled) listener(change)
        })
      },
      options
    )
    return {
      cancel: () => {
        cancelled = true
        inner.cancel()
      }
    }
  }

  async close(): Promise<void> {}

  #call<T>(work: (store: MetadataStore) => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const cancel = this.#process.start(CALL_DEADLINE_MS, () => {
        reject(new StoreError(ErrorCode.Unavailable, 'the metadata store does not answer'))
      })
      const answer = (give: () => void): void => {
        this.#network.send(this.#fromStore, METADATA, this.#place, this.#process, () => {
          cancel()
          give()
        })
      }
      this.#network.send(this.#toStore, this.#place, METADATA, this.#there, () => {
        work(this.#store).then(
          (value) => answer(() => resolve(value)),
          (thrown: unknown) => answer(() => reject(thrown))
        )
      })
    })
  }
}
