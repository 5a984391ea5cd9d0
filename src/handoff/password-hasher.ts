import { Piscina } from 'piscina'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { KEY_BYTES } from '../seal/key-mailbox.ts'
import type { PasswordHash } from '../seal/key-slots.ts'
import { takeSecret, wipe } from '../seal/secret.ts'

/** What goes to the thread. Both buffers are zeroed by whoever read them. */
export interface PasswordHashTask {
  readonly secret: SharedArrayBuffer
  readonly key: SharedArrayBuffer
  readonly salt: Uint8Array
  readonly opsLimit: number
  readonly memoryBytes: number
}

/** Hashes that wait their turn: one runs at a time, each may take hundreds of MiB. */
const WAITING_MAX = 16
/** The thread ends after so long without work, and gives its memory back. */
const IDLE_MS = 5_000

/** Argon2id in a Piscina thread, one password at a time: the main thread never stalls for it. */
export class PasswordHasher implements PasswordHash {
  readonly #worker: URL
  #pool: Piscina<PasswordHashTask, void> | null = null

  /** `worker` is workers/password-hash. */
  constructor(worker: URL) {
    this.#worker = worker
  }

  /** @throws StoreError LimitReached, Unavailable where the memory for it is not there */
  async argon2id(
    secret: Buffer,
    salt: Buffer,
    { opsLimit, memoryBytes }: { readonly opsLimit: number; readonly memoryBytes: number }
  ): Promise<Buffer> {
    const pool = this.#start()
    if (pool.queueSize >= WAITING_MAX) {
      const text = `${pool.queueSize} passphrases are being checked already: try again soon`
      throw new StoreError(ErrorCode.LimitReached, text)
    }
    const given = new SharedArrayBuffer(secret.length)
    const key = new SharedArrayBuffer(KEY_BYTES)
    const givenBytes = Buffer.from(given)
    givenBytes.set(secret)
    try {
      await pool.run({ secret: given, key, salt: Uint8Array.from(salt), opsLimit, memoryBytes })
      return takeSecret(Buffer.from(key))
    } catch (cause) {
      const text = `no passphrase can be checked: Argon2id over ${memoryBytes} bytes failed`
      throw new StoreError(ErrorCode.Unavailable, text, { cause })
    } finally {
      wipe(givenBytes)
      wipe(Buffer.from(key))
    }
  }

  async close(): Promise<void> {
    await this.#pool?.destroy()
    this.#pool = null
  }

  #start(): Piscina<PasswordHashTask, void> {
    this.#pool ??= new Piscina({
      filename: this.#worker.href,
      minThreads: 0,
      maxThreads: 1,
      idleTimeout: IDLE_MS,
      recordTiming: false
    })
    return this.#pool
  }
}
