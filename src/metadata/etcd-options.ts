/** How etcd is reached. Every time here is counted on the process's own clock. */
import type { Clock, Random } from '../core/clock.ts'
import {
  ETCD_ATTEMPT_MS,
  ETCD_CALL_MS,
  ETCD_WATCH_CHECK_MS,
  ETCD_WATCH_LIFE_MS
} from '../core/limits.ts'

export interface EtcdOptions {
  /** `http://HOST:PORT` or `https://HOST:PORT`, all of one etcd cluster and all of one kind. */
  readonly endpoints: readonly string[]
  readonly tls?: {
    readonly ca?: Buffer
    /** Ours, for an etcd that asks clients for one. */
    readonly cert?: Buffer
    readonly key?: Buffer
  }
  readonly auth?: { readonly user: string; readonly password: string }
  readonly clock: Clock
  readonly random: Random
  readonly times?: Partial<EtcdTimes>
}

export interface EtcdTimes {
  /** A call fails after this, whatever it met. */
  readonly callMs: number
  /** One endpoint may take this long to answer; then the next is asked. */
  readonly attemptMs: number
  /** A watch stream that said nothing for so long is asked for a sign of life. */
  readonly watchCheckMs: number
  /** A watch stream is opened anew after this: a member that forgot a watch is not believed. */
  readonly watchLifeMs: number
}

export const timesOf = (options: EtcdOptions): EtcdTimes => ({
  callMs: ETCD_CALL_MS,
  attemptMs: ETCD_ATTEMPT_MS,
  watchCheckMs: ETCD_WATCH_CHECK_MS,
  watchLifeMs: ETCD_WATCH_LIFE_MS,
  ...options.times
})
