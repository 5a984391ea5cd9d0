/** Objects on their way into the store, some at a time, and those that are known to be there. */
import { contentId, type BackupKeys, encodeObject, type ObjectRef, objectKey } from './objects.ts'
import type { BackupStore } from './store.ts'

const UPLOADS = 8
/** Ids that are remembered: what is beyond is put once more. About 200 MB. */
const KNOWN_MAX = 1_000_000

export class Uploads {
  /** Bytes of objects that were put. */
  storedBytes = 0
  readonly #store: BackupStore
  readonly #run: string
  readonly #keys: BackupKeys | null
  readonly #known = new Map<string, ObjectRef>()
  readonly #underWay = new Set<Promise<void>>()
  #failure: { readonly thrown: unknown } | null = null

  constructor(store: BackupStore, run: string, keys: BackupKeys | null) {
    this.#store = store
    this.#run = run
    this.#keys = keys
  }

  /** A backup that this run stands on has it. */
  know(ref: ObjectRef): void {
    if (this.#known.size < KNOWN_MAX) this.#known.set(ref.slice(0, ref.indexOf('.')), ref)
  }

  /** The object that has the content, or will. The bytes must not change until `settled`. */
  async put(content: Buffer): Promise<ObjectRef> {
    const id = contentId(content, this.#keys)
    const text = id.toString('hex')
    const known = this.#known.get(text)
    if (known !== undefined) return known
    const ref = `${text}.${this.#run}`
    this.know(ref)
    while (this.#underWay.size >= UPLOADS) await Promise.race(this.#underWay)
    this.#check()
    const upload = this.#upload(id, ref, content)
    this.#underWay.add(upload)
    void upload.finally(() => this.#underWay.delete(upload))
    return ref
  }

  /** All are there. @throws what went wrong with one */
  async settled(): Promise<void> {
    await Promise.all(this.#underWay)
    this.#check()
  }

  async #upload(id: Buffer, ref: ObjectRef, content: Buffer): Promise<void> {
    try {
      const bytes = await encodeObject(id, content, this.#keys)
      await this.#store.put(objectKey(ref), bytes)
      this.storedBytes += bytes.length
    } catch (thrown) {
      this.#failure ??= { thrown }
    }
  }

  #check(): void {
    if (this.#failure !== null) throw this.#failure.thrown
  }
}
