import * as layout from './layout.ts'
import type { Watch, WatchChange, WatchEvent } from './store.ts'
import type { ReadTables, Tables } from './tables.ts'

/** Events read from the history at once. */
const PAGE_EVENTS = 256

class Watcher {
  readonly prefix: string
  readonly listener: (change: WatchChange) => void
  nextRevision: number
  ended = false

  constructor(prefix: string, listener: (change: WatchChange) => void, fromRevision: number) {
    this.prefix = prefix
    this.listener = listener
    this.nextRevision = fromRevision
  }
}

/** Feeds watches from the stored history. */
export class WatchHub {
  readonly #tables: Tables
  readonly #watchers = new Set<Watcher>()
  #scheduled = false

  constructor(tables: Tables) {
    this.#tables = tables
  }

  add(prefix: string, listener: (change: WatchChange) => void, fromRevision: number): Watch {
    const watcher = new Watcher(prefix, listener, fromRevision)
    this.#watchers.add(watcher)
    // A new watch may have a past to catch up with, but hears nothing from inside `watch`.
    this.#schedule()
    return {
      cancel: () => {
        watcher.ended = true
        this.#watchers.delete(watcher)
      }
    }
  }

  /** Tells every watch what was committed since it heard last. */
  deliver(): void {
    if (this.#watchers.size === 0) return
    const state = this.#tables.read((read) => {
      const bytes = read.get(layout.STATE_KEY)
      return bytes === null ? null : layout.decodeState(bytes)
    })
    if (state === null) return
    // Most watches stand at the same revision: what is read for one is read for all.
    const pages = new Map<number, Page>()
    for (const watcher of [...this.#watchers]) this.#catchUp(watcher, state, pages)
  }

  close(): void {
    for (const watcher of [...this.#watchers]) this.#end(watcher, { kind: 'closed' })
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(() => {
      this.#scheduled = false
      this.deliver()
    })
  }

  #catchUp(watcher: Watcher, state: layout.State, pages: Map<number, Page>): void {
    while (!watcher.ended && watcher.nextRevision <= state.revision) {
      if (watcher.nextRevision <= state.compactRevision) {
        this.#end(watcher, { kind: 'compacted', compactRevision: state.compactRevision })
        return
      }
      const first = watcher.nextRevision
      const page =
        pages.get(first) ?? this.#tables.read((read) => readPage(read, first, state.revision))
      pages.set(first, page)
      watcher.nextRevision = page.nextRevision
      for (const [revision, all] of page.revisions) {
        const events = all.filter((event) => keyOf(event).startsWith(watcher.prefix))
        if (watcher.ended) return
        if (events.length > 0) call(watcher, { kind: 'events', revision, events })
      }
    }
  }

  #end(watcher: Watcher, change: WatchChange): void {
    watcher.ended = true
    this.#watchers.delete(watcher)
    call(watcher, change)
  }
}

/** A listener that throws is a bug of its owner, and must not fail the write that woke it. */
function call(watcher: Watcher, change: WatchChange): void {
  try {
    watcher.listener(change)
  } catch (thrown) {
    queueMicrotask(() => {
      throw thrown
    })
  }
}

const keyOf = (event: WatchEvent): string => (event.kind === 'put' ? event.entry.key : event.key)

interface Page {
  readonly revisions: Map<number, WatchEvent[]>
  readonly nextRevision: number
}

/** Whole revisions from the history, at least one if there is one within `first..last`. */
function readPage(read: ReadTables, first: number, last: number): Page {
  const revisions = new Map<number, WatchEvent[]>()
  const end = layout.historyKeyOf(last + 1, 0)
  let found = read.range(layout.historyKeyOf(first, 0), end, PAGE_EVENTS)
  let nextRevision = last + 1
  if (found.length === PAGE_EVENTS) {
    // The last revision of a full page may be cut: it comes with the next page, or alone and whole.
    nextRevision = layout.revisionOfHistoryKey(found.at(-1)![0])
    const oldest = layout.revisionOfHistoryKey(found[0]![0])
    if (oldest === nextRevision) {
      nextRevision++
      const endOfOne = layout.historyKeyOf(nextRevision, 0)
      found = read.range(layout.historyKeyOf(oldest, 0), endOfOne, Number.MAX_SAFE_INTEGER)
    }
  }
  for (const [key, value] of found) {
    const revision = layout.revisionOfHistoryKey(key)
    if (revision >= nextRevision) break
    const events = revisions.get(revision) ?? []
    events.push(layout.decodeEvent(revision, value))
    revisions.set(revision, events)
  }
  return { revisions, nextRevision }
}
