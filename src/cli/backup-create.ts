/** `backup create`: a snapshot, and what changed since the one of the last backup. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BackupRun, RunLock } from '../backup/backup-run.ts'
import type { BackupKeys } from '../backup/objects.ts'
import { originOf } from '../backup/origins.ts'
import { PIECE_BYTES } from '../backup/page.ts'
import type { Backup, Manifest, Repository } from '../backup/repository.ts'
import { requireGenuine } from '../backup/restore.ts'
import { type StreamHeader, type StreamPart, VolumeDigest } from '../backup/stream-format.ts'
import { errorCodeName, StoreError } from '../core/errors.ts'
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

export interface MadeBackup {
  readonly name: string
  readonly manifest: Manifest
}

/** @throws CommandError, StoreError */
export async function createBackup(
  context: Context,
  repository: Repository,
  { volume, full }: { readonly volume: string; readonly full: boolean }
): Promise<MadeBackup> {
  const run = randomBytes(8).toString('hex')
  const what = `backup of ${volume}`
  const lock = await RunLock.put(repository, run, what)
  const keyring = new BackupKeyring(context, repository, {})
  try {
    const others = await repository.locks()
    const other = others.find((each) => each.what === what && each.run !== run)
    if (other !== undefined) {
      const text = `another backup of ${volume} goes on, from ${other.host}`
      throw new CommandError('Busy', `${text}; if it died, "backup prune" says so in an hour`)
    }
    const { encryption } = await context.api.volume(volume)
    const none = { keys: null, keySlots: null }
    const { keys, keySlots } = encryption === null ? none : await keyring.ofVolume(volume)
    const base = full ? null : await baseFor(context, repository, volume, keys)
    const snapshot = await takeSnapshot(context, repository, { volume, run })
    const made = await upload(context, repository, {
      run,
      volume,
      keySlots,
      keys,
      base,
      snapshot,
      lock
    })
    await dropOlder(context, repository, snapshot)
    return made
  } finally {
    keyring.close()
    await lock.release()
  }
}

interface Base {
  readonly backup: Backup
  readonly snapshot: Snapshot
}

/** The last backup whose snapshot is there still. */
async function baseFor(
  { api }: Context,
  repository: Repository,
  volume: string,
  keys: BackupKeys | null
): Promise<Base | null> {
  const snapshots = await api.life.snapshots(volume)
  for (const backup of await repository.bases(volume)) {
    const { id } = backup.manifest.snapshot
    const snapshot = snapshots.find((each) => originOf(each) === id)
    if (snapshot === undefined) continue
    requireGenuine(backup, keys)
    return { backup, snapshot }
  }
  return null
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

interface Given {
  readonly run: string
  readonly volume: string
  readonly keySlots: Manifest['keys']
  readonly keys: BackupKeys | null
  readonly base: Base | null
  readonly snapshot: Snapshot
  readonly lock: RunLock
}

async function upload(context: Context, repository: Repository, given: Given): Promise<MadeBackup> {
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
      return upload(context, repository, { ...given, base: null })
    }
    // Without a manifest nobody needs it.
    await removeSnapshot(context, snapshot).catch(() => {})
    throw thrown
  }
}

class BackupSink implements Sink {
  readonly startBytes = 0
  readonly digest: VolumeDigest = new VolumeDigest()
  made: MadeBackup | null = null
  readonly #repository: Repository
  readonly #given: Given
  #run: BackupRun | null = null

  constructor(repository: Repository, given: Given) {
    this.#repository = repository
    this.#given = given
  }

  async begin({ sizeBytes }: StreamHeader): Promise<void> {
    const { run, volume, snapshot, keySlots, keys, base } = this.#given
    const of = { id: originOf(snapshot), name: snapshot.name }
    const about = { run, volume, snapshot: of, createdAt: snapshot.createdAt, sizeBytes, keySlots }
    this.#run = new BackupRun(this.#repository, about, { keys, base: base?.backup ?? null })
  }

  async part(part: StreamPart): Promise<void> {
    await this.#run!.take(part).catch(ofStore)
  }

  async end(): Promise<void> {
    this.made = await this.#run!.end(this.#given.lock).catch(ofStore)
  }

  async abort(): Promise<void> {}
}

/** What the store fails is not what the connection to the peer fails, which goes on. */
function ofStore(thrown: unknown): never {
  if (!(thrown instanceof StoreError)) throw thrown
  throw new CommandError(errorCodeName(thrown.code), thrown.message, { cause: thrown })
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
