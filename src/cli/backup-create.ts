/** `backup create`: a snapshot, and what changed since the one of the last backup. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BackupRun, type RunPlan } from '../backup/backup-run.ts'
import type { Manifest } from '../backup/manifest.ts'
import type { BackupKeys } from '../backup/objects.ts'
import { originOf } from '../backup/origins.ts'
import { PIECE_BYTES } from '../backup/page.ts'
import type { Backup, Repository, Unfinished } from '../backup/repository.ts'
import { requireGenuine } from '../backup/restore.ts'
import { RunLock } from '../backup/run-lock.ts'
import { type StreamHeader, type StreamPart, VolumeDigest } from '../backup/stream-format.ts'
import { formatSize } from '../core/units.ts'
import { BackupKeyring } from './backup-keys.ts'
import type { Context } from './context.ts'
import { download } from './downloads.ts'
import { CommandError } from './errors.ts'
import type { Sink } from './export-sinks.ts'
import type { Snapshot } from './life-api.ts'

/** On snapshots that backups keep: id of the store. */
const BACKUP_LABEL = 'torus.backup'

const ATTEMPTS = 15
const RETRY_MS = 200

export interface BackupWanted {
  readonly volume: string
  readonly full: boolean
  readonly breakLock?: boolean
  readonly checkpointMs?: number
}

/**
 * One that was interrupted is finished first, as of its own snapshot.
 * @throws CommandError, StoreError
 */
export async function createBackup(
  context: Context,
  repository: Repository,
  wanted: BackupWanted
): Promise<Backup> {
  const { made, wasLeft } = await createOne(context, repository, wanted)
  if (!wasLeft) return made
  context.output.note(`finished ${made.name}, which was interrupted`)
  return (await createOne(context, repository, { ...wanted, full: false })).made
}

async function createOne(
  context: Context,
  repository: Repository,
  wanted: BackupWanted
): Promise<{ made: Backup; wasLeft: boolean }> {
  const { volume, breakLock = false } = wanted
  const { output } = context
  const run = randomBytes(8).toString('hex')
  const lock = await RunLock.put(repository, run, `backup of ${volume}`)
  const keyring = new BackupKeyring(context, repository, {})
  try {
    const onWaiting = ({ what, host }: { what: string; host: string }): void =>
      output.note(`waiting to see whether the ${what} on ${host} goes on`)
    await lock.takeTurn({ breakLock, onWaiting })
    const { encryption } = await context.api.volume(volume)
    const none = { keys: null, keySlots: null }
    const { keys, keySlots } = encryption === null ? none : await keyring.ofVolume(volume)
    const sources = await sourcesOf(context, repository, wanted, keys)
    if (sources.left !== null) {
      const { manifest } = sources.left.unfinished
      const { progress, sizeBytes } = manifest
      const at = `at ${formatSize(progress.doneBytes)} of ${formatSize(sizeBytes)}`
      output.note(`going on with the backup of ${manifest.createdAt}, ${at}`)
    }
    const snapshot =
      sources.left?.snapshot ?? (await takeSnapshot(context, repository, { volume, run }))
    const given = { ...sources, ...wanted, run, keySlots, keys, snapshot, lock }
    const made = await upload(context, repository, given)
    await dropOlder(context, repository, snapshot)
    return { made, wasLeft: sources.left !== null }
  } finally {
    keyring.close()
    await lock.release()
  }
}

interface Base {
  readonly backup: Backup
  readonly snapshot: Snapshot
}

/** What a new backup may stand on. */
interface Sources {
  /** The last backup whose snapshot is there still. */
  readonly base: Base | null
  /** One that was interrupted, and whose snapshot is there still. */
  readonly left: { readonly unfinished: Unfinished; readonly snapshot: Snapshot } | null
  /** Without a base: a backup that probably has much of it. */
  readonly like: RunPlan['like']
}

/** @throws StoreError Corrupt when one was changed */
async function sourcesOf(
  context: Context,
  repository: Repository,
  { volume, full }: BackupWanted,
  keys: BackupKeys | null
): Promise<Sources> {
  const snapshots = await context.api.life.snapshots(volume)
  const snapshotOf = (id: string): Snapshot | null =>
    snapshots.find((each) => originOf(each) === id) ?? null
  let newest: Backup | null = null
  let base: Base | null = null
  for await (const backup of repository.bases(volume)) {
    newest ??= backup
    const snapshot = snapshotOf(backup.manifest.snapshot.id)
    if (snapshot === null) continue
    requireGenuine(backup, keys)
    base = { backup, snapshot }
    break
  }
  const { good } = await repository.unfinished(volume)
  for (const unfinished of good) {
    const { progress, snapshot: of, createdAt } = unfinished.manifest
    if (progress.isFull !== full || !isGenuine(unfinished, keys)) continue
    const snapshot = snapshotOf(of.id)
    const since = base?.backup.manifest.snapshot.id ?? null
    const isNewer = newest === null || createdAt > newest.manifest.createdAt
    if (snapshot === null || !isNewer) continue
    if (progress.since === null) return { base: null, left: { unfinished, snapshot }, like: null }
    if (progress.since === since) return { base, left: { unfinished, snapshot }, like: null }
  }
  if (full) return { base: null, left: null, like: null }
  const similar =
    base !== null ? null : (good[0] ?? newest ?? (await ofOrigin(context, repository, volume)))
  const like = similar !== null && isGenuine(similar, keys) ? similar : null
  return { base, left: null, like }
}

function isGenuine(
  { mac, text, manifest }: Pick<Backup, 'mac' | 'text'> & { manifest: Manifest },
  keys: BackupKeys | null
): boolean {
  if ((manifest.keys === null) !== (keys === null)) return false
  return keys === null || mac === keys.manifestSum(text)
}

/** A clone begins with what the volume has that it was made of. */
async function ofOrigin(
  { api }: Context,
  repository: Repository,
  volume: string
): Promise<Backup | null> {
  const { base } = await api.life.base(volume)
  if (base === null) return null
  for await (const backup of repository.bases(base.volume)) return backup
  return ofOrigin({ api } as Context, repository, base.volume)
}

async function takeSnapshot(
  { api }: Context,
  { id }: Repository,
  { volume, run }: { readonly volume: string; readonly run: string }
): Promise<Snapshot> {
  const time = new Date().toISOString().replaceAll(/[-:]|\..*/g, '')
  const name = `backup-${id.slice(0, 6)}-${time}-${run.slice(0, 4)}`
  const labels = { [BACKUP_LABEL]: id }
  const description = 'kept for the next backup, which needs what changed since'
  const made = await api.life.createSnapshot(volume, { name, description, labels })
  return api.life.changeSnapshot(volume, made.name, { protected: true })
}

interface Given extends BackupWanted, Sources {
  readonly run: string
  readonly keySlots: Manifest['keys']
  readonly keys: BackupKeys | null
  readonly snapshot: Snapshot
  readonly lock: RunLock
}

async function upload(context: Context, repository: Repository, given: Given): Promise<Backup> {
  const { volume, base, snapshot } = given
  const sink = new BackupSink(repository, given)
  const name = `${volume}@${snapshot.name}`
  const since = base === null ? {} : { from: base.snapshot.name, align: PIECE_BYTES }
  try {
    await download(context, { name, volume, what: { snapshot: snapshot.name, ...since }, sink })
    return sink.made!
  } catch (thrown) {
    const isOther = thrown instanceof CommandError && thrown.code === 'InvalidArgument'
    if (base !== null && isOther) {
      context.output.note(`${volume} was restored since its last backup: everything is read`)
      const like = base.backup
      return upload(context, repository, { ...given, base: null, left: null, like })
    }
    // Without a backup nobody needs it, but for who goes on.
    if (!sink.isKept) await removeSnapshot(context, snapshot).catch(() => {})
    else context.output.note('what was stored is kept: the next "backup create" goes on with it')
    throw thrown
  }
}

class BackupSink implements Sink {
  readonly startBytes: number
  /** It is of the same snapshot. */
  readonly isTrusted = true
  readonly digest: VolumeDigest = new VolumeDigest()
  made: Backup | null = null
  /** It broke off, and what came is there for the next one. */
  isKept = false
  readonly #repository: Repository
  readonly #given: Given
  #run: BackupRun | null = null

  constructor(repository: Repository, given: Given) {
    this.#repository = repository
    this.#given = given
    this.startBytes = given.left?.unfinished.manifest.progress.doneBytes ?? 0
  }

  async begin({ sizeBytes }: StreamHeader): Promise<void> {
    const { run, volume, snapshot, keySlots, keys, base, left, like = null, lock } = this.#given
    const of = { id: originOf(snapshot), name: snapshot.name }
    const about = { run, volume, snapshot: of, createdAt: snapshot.createdAt, sizeBytes, keySlots }
    this.#run = new BackupRun(this.#repository, about, {
      ...{ lock, keys, like, base: base?.backup ?? null },
      ...{ unfinished: left?.unfinished ?? null, isFull: this.#given.full },
      ...(this.#given.checkpointMs === undefined ? {} : { checkpointMs: this.#given.checkpointMs })
    })
  }

  part(part: StreamPart): Promise<void> {
    return this.#run!.take(part)
  }

  async end(): Promise<void> {
    this.made = await this.#run!.end()
  }

  async abort(): Promise<void> {
    this.isKept = (await this.#run?.suspend()) ?? this.#given.left !== null
  }
}

/** Snapshots of earlier backups in this store: the newest alone is needed. */
async function dropOlder(context: Context, { id }: Repository, newest: Snapshot): Promise<void> {
  const all = await context.api.life.snapshots(newest.volume)
  for (const each of all) {
    if (each.labels[BACKUP_LABEL] !== id || each.createdAt >= newest.createdAt) continue
    await removeSnapshot(context, each).catch((thrown: unknown) => {
      const why = thrown instanceof Error ? thrown.message : String(thrown)
      context.output.note(`${each.volume}@${each.name} of an earlier backup stays: ${why}`)
    })
  }
}

async function removeSnapshot({ api }: Context, { volume, name }: Snapshot): Promise<void> {
  await api.life.changeSnapshot(volume, name, { protected: false })
  for (let attempt = 1; ; attempt++) {
    try {
      await api.life.deleteSnapshot(volume, name)
      return
    } catch (thrown) {
      // The peer may not have heard yet that nobody reads it any more.
      const isBusy = thrown instanceof CommandError && thrown.code === 'Busy'
      if (!isBusy || attempt === ATTEMPTS) throw thrown
    }
    await sleep(RETRY_MS)
  }
}
