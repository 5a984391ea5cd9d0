/**
 * All watches of a process on one stream to one etcd member.
 *
 * Each watch knows the revision that it needs next, so that a stream may end at any time and
 * another one, of any member, goes on without a gap or a repetition. A stream is not believed for
 * ever: when it was silent for a while it is asked for a sign of life, which also tells whether
 * its member is cut off from the others; and after `watchLifeMs` it is opened anew anyway, so that
 * a watch that a member forgot misses something for so long at most.
 */
import type { Etcd3, IWatchResponse } from 'etcd3'
import { StoreError } from '../core/errors.ts'
import type { EtcdClient } from './etcd-client.ts'
import { eventOf, rangeOf } from './etcd-convert.ts'
import type { Watch, WatchChange, WatchEvent } from './store.ts'

type Stream = Awaited<ReturnType<Etcd3['watchClient']['watch']>>

const BACKOFF_MS_MIN = 100
const BACKOFF_MS_MAX = 2000

class Subscription {
  readonly prefix: string
  readonly listener: (change: WatchChange) => void
  nextRevision: number
  ended = false
  /** Events of an answer that comes in several parts. */
  parts: WatchEvent[] = []

  constructor(prefix: string, listener: (change: WatchChange) => void, fromRevision: number) {
    this.prefix = prefix
    this.listener = listener
    this.nextRevision = fromRevision
  }
}

export class EtcdWatches {
  readonly #client: EtcdClient
  /** By watch id, which we choose: unique for the life of the process. */
  readonly #subscriptions = new Map<string, Subscription>()
  #nextId = 1
  #stream: Stream | null = null
  #url = ''
  #opening = false
  #timer: NodeJS.Timeout | null = null
  #openedMs = 0
  #heard = false
  #asked = false
  /** Revision known when the stream was asked for a sign of life. */
  #askedRevision = 0
  #failures = 0
  #closed = false
  /** Streams opened, for metrics. */
  opened = 0

  constructor(client: EtcdClient) {
    this.#client = client
  }

  get count(): number {
    return this.#subscriptions.size
  }

  add(prefix: string, listener: (change: WatchChange) => void, fromRevision: number): Watch {
    const id = String(this.#nextId++)
    const subscription = new Subscription(prefix, listener, fromRevision)
    this.#subscriptions.set(id, subscription)
    if (this.#stream !== null) this.#create(this.#stream, id, subscription)
    else this.#open()
    return {
      cancel: () => {
        subscription.ended = true
        if (!this.#subscriptions.delete(id)) return
        if (this.#subscriptions.size === 0) this.#drop()
        else this.#stream?.write({ cancel_request: { watch_id: id } })
      }
    }
  }

  close(): void {
    this.#closed = true
    this.#drop()
    for (const [id, subscription] of [...this.#subscriptions]) {
      this.#end(id, subscription, { kind: 'closed' })
    }
  }

  #open(): void {
    if (this.#opening || this.#closed || this.#subscriptions.size === 0) return
    this.#opening = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    this.#client
      .stream((etcd) => etcd.watchClient.watch())
      .then(
        ({ url, stream }) => this.#start(url, stream),
        (thrown: unknown) => {
          if (!(thrown instanceof StoreError)) throw thrown
          this.#failures++
          this.#later(() => this.#open(), this.#backoffMs())
        }
      )
      .finally(() => {
        this.#opening = false
      })
  }

  #start(url: string, stream: Stream): void {
    const lost = (): void => this.#lost(stream)
    stream.on('error', lost)
    stream.on('end', lost)
    if (this.#closed || this.#subscriptions.size === 0) {
      stream.cancel()
      return
    }
    this.opened++
    this.#stream = stream
    this.#url = url
    this.#openedMs = performance.now()
    // What was created must be answered within one attempt.
    this.#heard = false
    this.#asked = true
    this.#askedRevision = 0
    stream.on('data', (answer: IWatchResponse) => {
      if (this.#stream === stream) this.#onAnswer(answer)
    })
    for (const [id, subscription] of this.#subscriptions) this.#create(stream, id, subscription)
    this.#later(() => this.#check(stream), this.#client.times.attemptMs)
  }

  #create(stream: Stream, id: string, subscription: Subscription): void {
    subscription.parts = []
    stream.write({
      create_request: {
        ...rangeOf(subscription.prefix),
        watch_id: id,
        start_revision: subscription.nextRevision,
        progress_notify: true,
        fragment: true
      }
    })
  }

  #check(stream: Stream): void {
    if (this.#stream !== stream) return
    const { watchCheckMs, watchLifeMs, attemptMs } = this.#client.times
    if (this.#asked && !this.#heard) {
      this.#lost(stream)
    } else if (performance.now() - this.#openedMs >= watchLifeMs) {
      this.#drop()
      this.#open()
    } else if (this.#heard) {
      this.#heard = false
      this.#asked = false
      this.#later(() => this.#check(stream), watchCheckMs)
    } else {
      this.#asked = true
      this.#askedRevision = this.#client.revision
      stream.write({ progress_request: {} })
      this.#later(() => this.#check(stream), attemptMs)
    }
  }

  #onAnswer(answer: IWatchResponse): void {
    const revision = this.#client.note(answer.header)
    this.#failures = 0
    // A member that is behind what others answered long ago is cut off from them.
    const isProgress = answer.events.length === 0 && !answer.created && !answer.canceled
    if (isProgress && this.#asked && revision < this.#askedRevision) return
    this.#heard = true
    const id = answer.watch_id
    const subscription = this.#subscriptions.get(id)
    if (subscription === undefined) return
    if (answer.canceled) {
      this.#onCanceled(id, subscription, answer)
      return
    }
    for (const event of answer.events) subscription.parts.push(eventOf(event))
    if (answer.fragment) return
    const events = subscription.parts
    subscription.parts = []
    if (events.length > 0) deliver(subscription, events)
    // A notification of progress of this watch: it has heard all up to there.
    else if (!answer.created && revision >= subscription.nextRevision) {
      subscription.nextRevision = revision + 1
    }
  }

  #onCanceled(id: string, subscription: Subscription, answer: IWatchResponse): void {
    const compactRevision = Number(answer.compact_revision)
    // Without a reason of its own it is the member's trouble: another stream tries again.
    if (compactRevision === 0) this.#lost(this.#stream)
    else this.#end(id, subscription, { kind: 'compacted', compactRevision })
  }

  #end(id: string, subscription: Subscription, change: WatchChange): void {
    this.#subscriptions.delete(id)
    subscription.ended = true
    call(subscription, change)
    if (this.#subscriptions.size === 0) this.#drop()
  }

  /** The stream ended, or is not believed: another one is opened, of another member. */
  #lost(stream: Stream | null): void {
    if (stream === null || this.#stream !== stream) return
    this.#client.moveFrom(this.#url)
    this.#failures++
    this.#drop()
    this.#later(() => this.#open(), this.#backoffMs())
  }

  #drop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    const stream = this.#stream
    this.#stream = null
    stream?.cancel()
  }

  #backoffMs(): number {
    return Math.min(BACKOFF_MS_MIN * 2 ** Math.min(this.#failures, 8), BACKOFF_MS_MAX)
  }

  #later(work: () => void, ms: number): void {
    if (this.#closed) return
    this.#timer = setTimeout(work, ms)
    this.#timer.unref()
  }
}

/** Whole revisions, in order; what was heard before is left out. */
function deliver(subscription: Subscription, events: readonly WatchEvent[]): void {
  const byRevision = new Map<number, WatchEvent[]>()
  for (const event of events) {
    const revision = event.kind === 'put' ? event.entry.modRevision : event.modRevision
    if (revision < subscription.nextRevision) continue
    const same = byRevision.get(revision) ?? []
    same.push(event)
    byRevision.set(revision, same)
  }
  for (const [revision, same] of byRevision) {
    if (subscription.ended) return
    subscription.nextRevision = revision + 1
    call(subscription, { kind: 'events', revision, events: same })
  }
}

/** A listener that throws is a bug of its owner, and must not break the stream of others. */
function call(subscription: Subscription, change: WatchChange): void {
  try {
    subscription.listener(change)
  } catch (thrown) {
    queueMicrotask(() => {
      throw thrown
    })
  }
}
