/**
 * What a backup store holds: backups, those that are not finished, those that were forgotten,
 * locks, and objects.
 */
import { randomBytes } from 'node:crypto'
import { z } from 'zod'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import type { ProcessId } from '../core/own-process.ts'
import * as manifests from './manifest.ts'
import type { Manifest, Signed, UnfinishedManifest } from './manifest.ts'
import { type BackupKeys, decodeObject, OBJECTS, type ObjectRef, objectKey } from './objects.ts'
import { Page } from './page.ts'
import type { BackupStore, StoredObject } from './store.ts'

const HEADER_KEY = 'torus-backup.json'
const BACKUPS = 'backups/'
const UNFINISHED = 'unfinished/'
const FORGOTTEN = 'forgotten/'
const LOCKS = 'locks/'
const DEAD = 'dead/'

const { hex, jsonOf, parsed } = manifests

const headerSchema = z.object({ torusBackup: z.literal(manifests.FORMAT), id: hex(8) })

const lockSchema = z.object({
  run: hex(8),
  what: z.string(),
  host: z.string(),
  process: z.object({ machine: z.string(), pid: z.number().int().positive() }).nullish(),
  isBegun: z.boolean().default(true)
})

const forgottenSchema = z.object({
  /** Where it was. */
  from: z.string().optional(),
  manifest: z.string(),
  /** Runs that may have seen it as a backup; null: nobody looked yet. */
  waitsFor: z.array(z.string()).nullable()
})

/** A manifest where it is. */
interface Stored<T> extends Signed<T> {
  readonly key: string
  /** `<volume>/<time>-<run>`. */
  readonly name: string
}

export type Backup = Stored<Manifest>

/** What a run stored before it ended without a backup. */
export interface Unfinished extends Stored<UnfinishedManifest> {
  readonly modifiedMs: number
}

export interface Forgotten {
  readonly key: string
  readonly from: string | null
  readonly manifest: Manifest
  readonly waitsFor: readonly string[] | null
}

export interface NewLock {
  readonly run: string
  readonly what: string
  readonly host: string
  /** Who holds it; null where that cannot be told. */
  readonly process?: ProcessId | null | undefined
  /** It had its turn; else it waits for it. */
  readonly isBegun: boolean
}

export interface Lock extends NewLock {
  readonly key: string
  readonly modifiedMs: number
}

/** Pages that were read: many backups share them. */
const PAGES_KEPT = 64

export class Repository {
  readonly store: BackupStore
  /** Salt of keys; in names of snapshots. */
  readonly id: string
  /** Used longest ago first. */
  readonly #pages = new Map<ObjectRef, Page>()

  private constructor(store: BackupStore, id: string) {
    this.store = store
    this.id = id
  }

  /** With `create` an empty store becomes one. @throws StoreError NotFound, Corrupt, … */
  static async open(store: BackupStore, create: boolean): Promise<Repository> {
    let bytes = await store.get(HEADER_KEY)
    if (bytes === null && create) {
      await store.prepare?.()
      const header = { torusBackup: manifests.FORMAT, id: randomBytes(8).toString('hex') }
      await store.putIfAbsent(HEADER_KEY, jsonOf(header))
      bytes = await store.get(HEADER_KEY)
    }
    if (bytes === null) {
      throw new StoreError(ErrorCode.NotFound, `there are no backups in ${store.name}`)
    }
    const { id } = parsed(headerSchema, HEADER_KEY, bytes.toString())
    return new Repository(store, id)
  }

  // ---- backups

  /** Oldest first; of all volumes without a name. @throws StoreError Corrupt naming the damaged */
  async backups(volume?: string): Promise<Backup[]> {
    const { backups, damaged } = await this.readable(volume)
    if (damaged.length > 0) throw manifests.damagedError(damaged[0]!)
    return backups
  }

  /** The same, and keys of the manifests that are damaged: the others are as good as before. */
  async readable(volume?: string): Promise<{ backups: Backup[]; damaged: string[] }> {
    const backups: Backup[] = []
    const damaged: string[] = []
    for (const key of await this.#manifestKeys(BACKUPS, volume)) {
      const backup = await this.#backup(key)
      if (backup === 'damaged') damaged.push(key)
      else if (backup !== null) backups.push(backup)
    }
    backups.sort((a, b) => (a.manifest.createdAt < b.manifest.createdAt ? -1 : 1))
    return { backups, damaged }
  }

  /**
   * The one that is named, with or without its volume, or the last one.
   * @throws StoreError NotFound, Corrupt when it, or one that may be later, is damaged
   */
  async find(volume: string, wanted: string | undefined): Promise<Backup> {
    const name = wanted?.startsWith(`${volume}/`) ? wanted : `${volume}/${wanted}`
    const keys = await this.#manifestKeys(BACKUPS, volume)
    // Names begin with times, of whole seconds.
    const time = (key: string): string => nameOf(key).replace(/-[^-]*$/, '')
    const isMeant = (key: string): boolean =>
      wanted === undefined ? time(key) === time(keys.at(-1)!) : nameOf(key) === name
    let last: Backup | null = null
    for (const key of keys.filter(isMeant)) {
      const found = await this.#backup(key)
      if (found === 'damaged') {
        const text = `${key} of ${this.store.name} is damaged, or of a newer version`
        throw new StoreError(ErrorCode.Corrupt, `${text}: choose another backup with --backup`)
      }
      const isLater = (found?.manifest.createdAt ?? '') > (last?.manifest.createdAt ?? '')
      if (isLater) last = found
    }
    if (last !== null) return last
    const which = wanted === undefined ? `no backup of volume ${volume}` : `no backup ${name}`
    throw new StoreError(ErrorCode.NotFound, `there is ${which} in ${this.store.name}`)
  }

  async addBackup(manifest: Manifest, keys: BackupKeys | null): Promise<Backup> {
    const key = keyOf(BACKUPS, manifest)
    const bytes = manifests.signed(manifest, keys)
    await this.store.put(key, bytes)
    return this.#read(manifests.manifestSchema, key, bytes)!
  }

  /** What a run may stand on, newest first; on nothing that is damaged. */
  async *bases(volume: string): AsyncIterable<Backup> {
    for (const key of (await this.#manifestKeys(BACKUPS, volume)).reverse()) {
      const backup = await this.#backup(key)
      if (backup === null || backup === 'damaged') continue
      if (!(await this.isDead(backup.manifest.run))) yield backup
    }
  }

  async #backup(key: string): Promise<Backup | 'damaged' | null> {
    const bytes = await this.store.get(key)
    if (bytes === null) return null // forgotten meanwhile
    return this.#read(manifests.manifestSchema, key, bytes) ?? 'damaged'
  }

  /** Null: it is damaged. */
  #read<T>(schema: z.ZodType<T>, key: string, bytes: Buffer): Stored<T> | null {
    try {
      return { key, name: nameOf(key), ...manifests.unsigned(schema, key, bytes) }
    } catch (thrown) {
      if (storeErrorOf(thrown).code !== ErrorCode.Corrupt) throw thrown
      return null
    }
  }

  /** Sorted. */
  async #manifestKeys(folder: string, volume?: string): Promise<string[]> {
    const keys = await this.#keys(volume === undefined ? folder : `${folder}${volume}/`)
    return keys.filter((key) => key.endsWith('.json')).sort()
  }

  // ---- unfinished and forgotten

  async putUnfinished(manifest: UnfinishedManifest, keys: BackupKeys | null): Promise<void> {
    await this.store.put(keyOf(UNFINISHED, manifest), manifests.signed(manifest, keys))
  }

  /** Newest first, and keys of those that nobody may stand on: see prune.ts. */
  async unfinished(volume?: string): Promise<{ good: Unfinished[]; bad: string[] }> {
    const good: Unfinished[] = []
    const bad: string[] = []
    const prefix = volume === undefined ? UNFINISHED : `${UNFINISHED}${volume}/`
    for await (const { key, modifiedMs } of this.store.list(prefix)) {
      const bytes = await this.store.get(key)
      if (bytes === null) continue
      const found = this.#read(manifests.unfinishedSchema, key, bytes)
      const deadMs = found === null ? 0 : await this.#deadSinceMs(found.manifest.run)
      const isGood = deadMs === null || modifiedMs < deadMs
      if (found !== null && isGood) good.push({ modifiedMs, ...found })
      else bad.push(key)
    }
    good.sort((a, b) => (a.manifest.createdAt < b.manifest.createdAt ? 1 : -1))
    return { good, bad }
  }

  /** It is no backup any more; what it needs stays until no run can have seen it. */
  async forget({ key, text }: Pick<Backup, 'key' | 'text'>): Promise<void> {
    const name = key
      .replace(/\.json$/, '')
      .replace(BACKUPS, '')
      .replaceAll('/', '.')
    const entry = { from: key, manifest: text, waitsFor: null }
    await this.store.put(`${FORGOTTEN}${name}.json`, jsonOf(entry))
    await this.store.delete(key)
  }

  async forgotten(): Promise<Forgotten[]> {
    const all: Forgotten[] = []
    for (const key of await this.#keys(FORGOTTEN)) {
      const bytes = await this.store.get(key)
      if (bytes === null) continue
      const { from = null, ...entry } = parsed(forgottenSchema, key, bytes.toString())
      const manifest = parsed(manifests.manifestSchema, key, entry.manifest)
      all.push({ key, from, manifest, waitsFor: entry.waitsFor })
    }
    return all
  }

  async waitFor({ key, from, manifest }: Forgotten, waitsFor: readonly string[]): Promise<void> {
    const where = from === null ? {} : { from }
    await this.store.put(key, jsonOf({ ...where, manifest: JSON.stringify(manifest), waitsFor }))
  }

  // ---- locks

  /** Puts it, or shows that it goes on. */
  async putLock(lock: NewLock): Promise<string> {
    const { run, what, host, process = null, isBegun } = lock
    const key = `${LOCKS}${run}.json`
    await this.store.put(key, jsonOf({ run, what, host, process, isBegun }))
    return key
  }

  async locks(): Promise<Lock[]> {
    const all: Lock[] = []
    for await (const { key, modifiedMs } of this.store.list(LOCKS)) {
      const bytes = await this.store.get(key)
      if (bytes === null) continue
      all.push({ key, modifiedMs, ...parsed(lockSchema, key, bytes.toString()) })
    }
    return all
  }

  /** For good: what the run put is not kept for it, and what it makes is no backup. */
  async takeForDead({ run, key }: Pick<Lock, 'run' | 'key'>): Promise<void> {
    await this.store.put(deadKey(run), jsonOf({ run }))
    await this.store.delete(key)
  }

  async isDead(run: string): Promise<boolean> {
    return (await this.store.get(deadKey(run))) !== null
  }

  async #deadSinceMs(run: string): Promise<number | null> {
    for await (const { modifiedMs } of this.store.list(deadKey(run))) return modifiedMs
    return null
  }

  // ---- objects

  /** @throws StoreError Corrupt when it is damaged or not there */
  async object(wanted: ObjectRef, keys: BackupKeys | null): Promise<Buffer> {
    const bytes = await this.store.get(objectKey(wanted))
    if (bytes !== null) return decodeObject(wanted, bytes, keys)
    const text = `object ${objectKey(wanted)} of the backup store ${this.store.name} is missing`
    throw new StoreError(ErrorCode.Corrupt, text)
  }

  async page(wanted: ObjectRef, keys: BackupKeys | null): Promise<Page> {
    const known = this.#pages.get(wanted)
    const page = known ?? new Page(await this.object(wanted, keys))
    this.#pages.delete(wanted)
    this.#pages.set(wanted, page)
    for (const oldest of this.#pages.keys()) {
      if (this.#pages.size <= PAGES_KEPT) break
      this.#pages.delete(oldest)
    }
    return page
  }

  objects(): AsyncIterable<StoredObject> {
    return this.store.list(OBJECTS)
  }

  async #keys(prefix: string): Promise<string[]> {
    const keys: string[] = []
    for await (const { key } of this.store.list(prefix)) keys.push(key)
    return keys
  }
}

const deadKey = (run: string): string => `${DEAD}${run}.json`

/** `<volume>/<time>-<run>`. */
const nameOf = (key: string): string => key.replace(/^[a-z]+\//, '').replace(/\.json$/, '')

function keyOf(folder: string, { volume, run, createdAt }: Manifest): string {
  const time = createdAt.replaceAll(/[-:]|\..*/g, '')
  return `${folder}${volume}/${time}-${run}.json`
}
