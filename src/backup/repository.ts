/** What a backup store holds: backups, those that were forgotten, locks, and objects. */
import { createHash, randomBytes } from 'node:crypto'
import { z } from 'zod'
import { ErrorCode, StoreError, storeErrorOf } from '../core/errors.ts'
import { secretKinds } from '../seal/key-slots.ts'
import {
  type BackupKeys,
  decodeObject,
  OBJECTS,
  type ObjectRef,
  objectKey,
  refOf
} from './objects.ts'
import { Page } from './page.ts'
import type { BackupStore, StoredObject } from './store.ts'

const HEADER_KEY = 'torus-backup.json'
const FORMAT = 1
const BACKUPS = 'backups/'
const FORGOTTEN = 'forgotten/'
const LOCKS = 'locks/'
const DEAD = 'dead/'

const hex = (bytes: number) => z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`))
const ref = z.string().refine((text) => refOf(objectKey(text)) !== null)

const headerSchema = z.object({ torusBackup: z.literal(FORMAT), id: hex(8) })

/** As `volume key export` has them. */
const slotSchema = z.object({
  id: z.number().int(),
  kind: z.enum(secretKinds),
  label: z.string(),
  createdAt: z.string(),
  kdf: z.discriminatedUnion('name', [
    z.object({
      name: z.literal('argon2id'),
      salt: z.string(),
      opsLimit: z.number(),
      memoryBytes: z.number()
    }),
    z.object({ name: z.literal('hkdf-sha256'), salt: z.string() })
  ]),
  sealed: z.string()
})

const manifestSchema = z.object({
  torusBackup: z.literal(FORMAT),
  run: hex(8),
  volume: z.string(),
  snapshot: z.object({ id: hex(8), name: z.string() }),
  createdAt: z.string(),
  sizeBytes: z.number().int().nonnegative(),
  /** Of this backup alone: what was read of the volume, and what was put into the store. */
  readBytes: z.number(),
  storedBytes: z.number(),
  /** Name of the backup on which it stands; it needs it no more once it is there. */
  base: z.string().nullable(),
  pages: z.array(ref.nullable()),
  /** Of an encrypted volume. */
  keys: z.object({ family: hex(8), slots: z.array(slotSchema) }).nullable()
})
export type Manifest = z.infer<typeof manifestSchema>

const lockSchema = z.object({ run: hex(8), what: z.string(), host: z.string() })
const forgottenSchema = z.object({
  manifest: z.string(),
  /** Runs that may have seen it as a backup; null: nobody looked yet. */
  waitsFor: z.array(z.string()).nullable()
})

export interface Backup {
  /** `<volume>/<time>-<run>`. */
  readonly name: string
  readonly manifest: Manifest
  /** The manifest as it is stored, and of an encrypted volume its HMAC. */
  readonly text: string
  readonly mac: string | null
}

export interface Forgotten {
  readonly key: string
  readonly manifest: Manifest
  readonly waitsFor: readonly string[] | null
}

export interface Lock {
  readonly key: string
  readonly run: string
  readonly what: string
  readonly host: string
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
      const header = { torusBackup: FORMAT, id: randomBytes(8).toString('hex') }
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
    if (damaged.length > 0) throw damagedError(damaged[0]!)
    return backups
  }

  /** The same, and keys of the manifests that are damaged: the others are as good as before. */
  async readable(volume?: string): Promise<{ backups: Backup[]; damaged: string[] }> {
    const prefix = volume === undefined ? BACKUPS : `${BACKUPS}${volume}/`
    const keys = (await this.#keys(prefix)).filter((key) => key.endsWith('.json'))
    const backups: Backup[] = []
    const damaged: string[] = []
    for (const key of keys.sort()) {
      const bytes = await this.store.get(key)
      if (bytes === null) continue // forgotten meanwhile
      try {
        backups.push(backupOf(key, bytes))
      } catch (thrown) {
        if (storeErrorOf(thrown).code !== ErrorCode.Corrupt) throw thrown
        damaged.push(key)
      }
    }
    backups.sort((a, b) => (a.manifest.createdAt < b.manifest.createdAt ? -1 : 1))
    return { backups, damaged }
  }

  async addBackup(manifest: Manifest, keys: BackupKeys | null): Promise<string> {
    const text = JSON.stringify(manifest)
    const time = manifest.createdAt.replaceAll(/[-:]|\..*/g, '')
    const name = `${manifest.volume}/${time}-${manifest.run}`
    const mac = keys === null ? null : keys.manifestSum(text)
    await this.store.put(`${BACKUPS}${name}.json`, jsonOf({ text, sum: sumOf(text), mac }))
    return name
  }

  /** It is no backup any more; what it needs stays until no run can have seen it. */
  async forget({ name, text }: Pick<Backup, 'name' | 'text'>): Promise<void> {
    const key = `${FORGOTTEN}${name.replace('/', '.')}.json`
    await this.store.put(key, jsonOf({ manifest: text, waitsFor: null }))
    await this.store.delete(`${BACKUPS}${name}.json`)
  }

  /** What a run may stand on, newest first; on nothing that is damaged. */
  async bases(volume: string): Promise<Backup[]> {
    const { backups } = await this.readable(volume)
    const isDead = await Promise.all(backups.map(({ manifest }) => this.isDead(manifest.run)))
    return backups.filter((_, at) => !isDead[at]).reverse()
  }

  async forgotten(): Promise<Forgotten[]> {
    const all: Forgotten[] = []
    for (const key of await this.#keys(FORGOTTEN)) {
      const bytes = await this.store.get(key)
      if (bytes === null) continue
      const { manifest, waitsFor } = parsed(forgottenSchema, key, bytes.toString())
      all.push({ key, manifest: parsed(manifestSchema, key, manifest), waitsFor })
    }
    return all
  }

  async waitFor({ key, manifest }: Forgotten, waitsFor: readonly string[]): Promise<void> {
    await this.store.put(key, jsonOf({ manifest: JSON.stringify(manifest), waitsFor }))
  }

  // ---- locks

  /** Puts it, or shows that it goes on. */
  async putLock(lock: Pick<Lock, 'run' | 'what' | 'host'>): Promise<string> {
    const { run, what, host } = lock
    const key = `${LOCKS}${run}.json`
    await this.store.put(key, jsonOf({ run, what, host }))
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
  markDead(run: string): Promise<void> {
    return this.store.put(`${DEAD}${run}.json`, jsonOf({ run }))
  }

  async isDead(run: string): Promise<boolean> {
    return (await this.store.get(`${DEAD}${run}.json`)) !== null
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

/** What stands around a manifest. */
const signedSchema = z.object({ text: z.string(), sum: hex(32), mac: hex(32).nullable() })

const sumOf = (text: string): string => createHash('sha256').update(text).digest('hex')

const jsonOf = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value, null, 1)}\n`)

/** @throws StoreError Corrupt */
function backupOf(key: string, bytes: Buffer): Backup {
  const { text, sum, mac } = parsed(signedSchema, key, bytes.toString())
  if (sum !== sumOf(text)) throw damagedError(key)
  const manifest = parsed(manifestSchema, key, text)
  return { name: key.slice(BACKUPS.length, -'.json'.length), manifest, text, mac }
}

function parsed<T>(schema: z.ZodType<T>, key: string, text: string): T {
  try {
    return schema.parse(JSON.parse(text))
  } catch {
    throw damagedError(key)
  }
}

function damagedError(key: string): StoreError {
  const text = `${key} of the backup store is damaged, or of a newer version`
  const advice = key.startsWith(BACKUPS) ? ': delete it to forget that backup' : ''
  return new StoreError(ErrorCode.Corrupt, `${text}${advice}`)
}
