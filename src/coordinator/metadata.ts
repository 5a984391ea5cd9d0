/** A peer's metadata: the store, the cluster seen through it, and the lease. */
import { hostname } from 'node:os'
import type { HealthProblem } from '../admin/schemas.ts'
import { startCounted } from '../cluster/boot-counter.ts'
import { Cluster } from '../cluster/cluster.ts'
import { Keys } from '../cluster/keys.ts'
import { requireNotBeforeFirst } from '../cluster/pools.ts'
import { requireKnownSecret } from '../cluster/secret-verifiers.ts'
import { Session } from '../cluster/session.ts'
import { systemClock, systemRandom } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { LogOutput } from '../core/log.ts'
import type { Config } from '../core/options.ts'
import { formatDuration } from '../core/units.ts'
import { EmbeddedStore } from '../metadata/embedded-store.ts'
import { LmdbTables } from '../metadata/lmdb-tables.ts'
import { MeasuredStore } from '../metadata/measured-store.ts'
import type { MetadataStore } from '../metadata/store.ts'
import type { DataDirectory } from './data-directory.ts'
import { etcdOptionsOf } from './etcd-options.ts'
import { MetadataCopies } from './metadata-copies.ts'
import { requirePlace, writePlace } from './metadata-place.ts'
import { ownSecrets } from './own-secrets.ts'
import { type PredecessorParts, requireNoPredecessor } from './predecessor.ts'
import { ownProcess } from '../core/own-process.ts'

/** Between attempts of a start to reach etcd; each takes some seconds itself. */
const RETRY_MS = 1000
/** Between two lines that say the same. */
const SAY_AGAIN_MS = 60_000

export interface PeerMetadata {
  readonly store: MeasuredStore
  readonly cluster: Cluster
  readonly session: Session
  readonly copies: MetadataCopies
  /** Reads the credentials for etcd again. @throws StoreError, and then the old ones stay */
  reload(): void
  /** What is wrong with it now. */
  problems(): HealthProblem[]
  /** Gives the lease back, and closes the store. Until then a copy of it is kept up to date. */
  close(): Promise<void>
}

interface Environment {
  readonly config: Config
  readonly directory: DataDirectory
  readonly bootId: string
  readonly output: LogOutput
  /** Ends the waiting for etcd. */
  readonly signal: AbortSignal
}

/** @throws StoreError */
export async function openMetadata(environment: Environment): Promise<PeerMetadata> {
  const { config, directory } = environment
  const place = requirePlace(config, directory.metadataPath)
  if (config.etcd.length === 0) {
    const store = await openEmbedded(directory)
    return openOn(store, environment, new Keys(), true)
  }
  const opened = await whenItAnswers(environment, async () => {
    const { EtcdStore } = await import('../metadata/etcd-store.ts')
    const store = await EtcdStore.open(etcdOptionsOf(config))
    // Only a directory that never had metadata may make a cluster.
    const create = place === null && !config.join
    const metadata = await openOn(store, environment, new Keys(config.etcdPrefix), create)
    return { ...metadata, reload: () => store.renew(etcdOptionsOf(config)) }
  })
  const { clusterId } = directory.superblock
  const endpoints = [...config.etcd]
  writePlace(directory.path, {
    v: 1,
    kind: 'etcd',
    endpoints,
    prefix: config.etcdPrefix,
    clusterId
  })
  return opened
}

async function openEmbedded(directory: DataDirectory): Promise<MetadataStore> {
  // Made by the first start, or by the next where that did not come so far. Later its absence
  // means lost metadata, not a new directory.
  const create = directory.bootCounter <= 1
  const tables = await LmdbTables.open(directory.metadataPath, { create })
  return EmbeddedStore.open(tables, { clock: systemClock, random: systemRandom })
}

async function openOn(
  inner: MetadataStore,
  environment: Environment,
  keys: Keys,
  create: boolean
): Promise<PeerMetadata> {
  const store = new MeasuredStore(inner)
  try {
    const { directory, bootId, output } = environment
    const { clusterId, peerId } = directory.superblock
    const { capacityBytes } = directory
    const labels = { host: hostname(), ...labelsOf(environment.config.labels) }
    const alone = environment.config.etcd.length === 0
    const self = { clusterId, peerId, bootId, capacityBytes, labels }
    const places = placesOf(environment)
    const outside = { clock: systemClock, random: systemRandom, keys, create, alone, places }
    await Cluster.check(store, self, outside)
    if (!alone) {
      await requireKnownSecret(store, keys, await ownSecrets(environment.config, self))
      await requireAlone(environment, { store, keys, self })
      await requireNotBeforeFirst(store, keys, peerId)
    }
    const cluster = await startCounted(directory, { store, keys, peerId }, (bootCounter) =>
      Cluster.open(store, { ...self, bootCounter }, outside)
    )
    keepLevel(environment, cluster)
    const notes = notesOf(cluster)
    for (const { message } of notes) output.log.warn(message)
    const trouble = new Trouble(output)
    const session = await Session.open(store, systemClock, {
      onTrouble: (error) => trouble.tell(error),
      onRecovered: () => trouble.end()
    })
    const copies = new MetadataCopies(cluster, directory.path, output)
    copies.start()
    return {
      store,
      cluster,
      session,
      copies,
      reload: () => {},
      problems: () => [...notes, ...trouble.problems()],
      close: async () => {
        await copies.stop()
        await session.close()
        await store.close()
      }
    }
  } catch (thrown) {
    await store.close()
    throw thrown
  }
}

function placesOf({ config, directory }: Environment): { directory: string; metadata: string } {
  const metadata = config.etcd.length === 0 ? directory.metadataPath : config.etcd.join(', ')
  return { directory: directory.path, metadata }
}

async function requireAlone(
  { output, signal }: Environment,
  parts: Pick<PredecessorParts, 'store' | 'keys' | 'self'>
): Promise<void> {
  const onWaiting = (since: string): void => {
    output.log.info({ since }, 'what ran as this peer may still run: waiting for its lease to end')
  }
  const pausing = (ms: number): Promise<void> => pause(ms, signal)
  const own = ownProcess()
  await requireNoPredecessor({ ...parts, clock: systemClock, pause: pausing, own, onWaiting })
}

/** A program that does not know the cluster's level must not read this directory any more. */
function keepLevel({ directory, output }: Environment, { features }: Cluster): void {
  directory.raiseFormat(features.level)
  features.onRaise((level) => {
    output.log.info({ level }, 'the cluster was finalised: older versions cannot start any more')
    directory.raiseFormat(level)
  })
}

/** `KEY=VALUE` each. */
const labelsOf = (texts: readonly string[]): Record<string, string> =>
  Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=')
      return [text.slice(0, at), text.slice(at + 1)]
    })
  )

function notesOf(cluster: Cluster): HealthProblem[] {
  if (cluster.bootCounterFollows) return []
  const message =
    'the superblock and the metadata disagree about the number of starts: one of them is from ' +
    'an older copy of the data directory. Check that the volumes are what you expect'
  return [{ level: 'warning', code: 'bootCounter', message }]
}

/** @throws StoreError Unavailable after `--etcd-wait`, and at once what does not pass by itself */
async function whenItAnswers<T>(environment: Environment, open: () => Promise<T>): Promise<T> {
  const { config, output, signal } = environment
  const startMs = systemClock.monotonicMs()
  const limit = formatDuration(config.etcdWaitMs)
  let saidMs = Number.NEGATIVE_INFINITY
  for (;;) {
    try {
      const opened = await open()
      if (saidMs > 0) output.log.info({ endpoints: config.etcd }, 'etcd answers')
      return opened
    } catch (thrown) {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Unavailable) throw thrown
      const nowMs = systemClock.monotonicMs()
      const passedMs = nowMs - startMs
      if (nowMs - saidMs >= SAY_AGAIN_MS) {
        saidMs = nowMs
        const fields = { endpoints: config.etcd, reason: thrown.message, limit }
        output.log.warn(fields, `waiting for etcd ${config.etcd.join(', ')}`)
      }
      if (passedMs >= config.etcdWaitMs) {
        const text = `${thrown.message}. Waited ${limit} (--etcd-wait)`
        throw new StoreError(ErrorCode.Unavailable, text, { cause: thrown })
      }
    }
    await pause(RETRY_MS, signal)
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const onAbort = (): void => {
      clearTimeout(timer)
      resolve()
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    signal.addEventListener('abort', onAbort, { once: true })
  })
  if (signal.aborted) throw new StoreError(ErrorCode.Closed, 'stopped while waiting for etcd')
}

/** Says once that the metadata is away, again from time to time, and when it is back. */
class Trouble {
  readonly #output: LogOutput
  #sinceMs = 0
  #saidMs = 0
  #error: StoreError | null = null

  constructor(output: LogOutput) {
    this.#output = output
  }

  tell(error: StoreError): void {
    const nowMs = systemClock.monotonicMs()
    if (this.#error === null) this.#sinceMs = nowMs
    if (this.#error === null || nowMs - this.#saidMs >= SAY_AGAIN_MS) {
      this.#saidMs = nowMs
      this.#output.log.error({ reason: error.message }, 'the metadata does not answer; I/O goes on')
    }
    this.#error = error
  }

  end(): void {
    if (this.#error === null) return
    const forMs = Math.round(systemClock.monotonicMs() - this.#sinceMs)
    this.#error = null
    this.#output.log.info({ forMs }, 'the metadata answers again')
  }

  problems(): HealthProblem[] {
    if (this.#error === null) return []
    const forMs = systemClock.monotonicMs() - this.#sinceMs
    const message =
      `the metadata has not answered for ${formatDuration(Math.round(forMs / 1000) * 1000)}: ` +
      `${this.#error.message}. Volumes that are open go on; nothing can be changed until it is back`
    return [{ level: 'error', code: 'metadataUnavailable', message }]
  }
}
