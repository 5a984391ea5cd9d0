import { systemTimers, type Timers } from '../core/clock.ts'
import { StoreError } from '../core/errors.ts'
import type { Entry, MetadataStore, Watch, WatchChange } from './store.ts'

export interface Follower {
  /** The key has this entry now. Not called twice for one revision of a key. */
  onPut(entry: Entry): void
  onDelete(key: string): void
  /** Reading failed; it is tried again. */
  onTrouble?(error: StoreError): void
}

export interface Following {
  /** Resolves when every key that was there at the start was reported. */
  readonly ready: Promise<void>
  stop(): void
}

/** After a failed read. The store itself waits and reconnects; this only keeps a loop slow. */
const RETRY_MS = 1000

/**
 * Keeps `follower` up to date with the keys below `prefix`: first all that are there, then every
 * change. When the store says that the history of the watch is forgotten, the keys are read again
 * and compared, so that `follower` misses no state, though it may miss one that came and went.
 */
export function follow(
  store: MetadataStore,
  prefix: string,
  follower: Follower,
  timers: Timers = systemTimers
): Following {
  const following = new Follow(store, prefix, follower, timers)
  return { ready: following.ready, stop: () => following.stop() }
}

class Follow {
  readonly ready: Promise<void>
  readonly #store: MetadataStore
  readonly #prefix: string
  readonly #follower: Follower
  /** Revision of each key that was reported. */
  readonly #known = new Map<string, number>()
  #watch: Watch | null = null
  readonly #timers: Timers
  #cancelRetry: () => void = () => {}
  #stopped = false
  #onReady: () => void = () => {}

  constructor(store: MetadataStore, prefix: string, follower: Follower, timers: Timers) {
    this.#timers = timers
    this.#store = store
    this.#prefix = prefix
    this.#follower = follower
    this.ready = new Promise((resolve) => {
      this.#onReady = resolve
    })
    this.#start()
  }

  stop(): void {
    this.#stopped = true
    this.#watch?.cancel()
    this.#cancelRetry()
    this.#onReady()
  }

  #start(): void {
    this.#read().catch((thrown: unknown) => {
      if (!(thrown instanceof StoreError)) throw thrown
      if (this.#stopped) return
      this.#follower.onTrouble?.(thrown)
      this.#cancelRetry = this.#timers.start(RETRY_MS, () => this.#start())
    })
  }

  async #read(): Promise<void> {
    const gone = new Set(this.#known.keys())
    let firstRevision = 0
    let after: string | undefined
    for (;;) {
      const page = await this.#store.range(this.#prefix, after === undefined ? {} : { after })
      if (this.#stopped) return
      if (firstRevision === 0) firstRevision = page.revision
      for (const entry of page.entries) {
        gone.delete(entry.key)
        this.#put(entry)
      }
      after = page.entries.at(-1)?.key
      if (!page.more) break
    }
    for (const key of gone) this.#delete(key)
    // Later pages may be newer than the first: the watch repeats some of it, and `#put` sees that.
    const fromRevision = firstRevision + 1
    const listener = (change: WatchChange): void => this.#onChange(change)
    this.#watch = this.#store.watch(this.#prefix, listener, { fromRevision })
    this.#onReady()
  }

  #onChange(change: WatchChange): void {
    if (this.#stopped || change.kind === 'closed') return
    if (change.kind === 'compacted') {
      this.#start()
      return
    }
    for (const event of change.events) {
      if (this.#stopped) return
      if (event.kind === 'put') this.#put(event.entry)
      else if ((this.#known.get(event.key) ?? 0) < event.modRevision) this.#delete(event.key)
    }
  }

  #put(entry: Entry): void {
    if (this.#stopped || (this.#known.get(entry.key) ?? 0) >= entry.modRevision) return
    this.#known.set(entry.key, entry.modRevision)
    this.#follower.onPut(entry)
  }

  #delete(key: string): void {
    if (this.#stopped || !this.#known.delete(key)) return
    this.#follower.onDelete(key)
  }
}
