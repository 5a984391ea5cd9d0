/**
 * Tokens of the admin API. The text of a token is shown once and kept nowhere: the metadata has its
 * hash. Every peer keeps all records in memory and follows their changes, so that a metadata store
 * that is away locks nobody out, and a revoked token is refused everywhere as soon as the watch
 * tells (a peer that is cut off from the metadata takes it until it comes back, or it expires).
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { Random } from '../core/clock.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { TOKENS_MAX } from '../core/limits.ts'
import { type Following, follow } from '../metadata/follow.ts'
import type { Entry } from '../metadata/store.ts'
import type { Cluster } from './cluster.ts'
import { randomId64 } from './ids.ts'
import { decodeRecord, encodeRecord, type TokenRecord } from './records.ts'

/** What may be told of a token. */
export type TokenInfo = Readonly<
  Pick<TokenRecord, 'id' | 'role' | 'volume' | 'readOnly' | 'label' | 'createdAt' | 'expiresAt'>
>

export interface NewToken {
  readonly role: TokenRecord['role']
  /** Null for roles other than `volume`. */
  readonly volume: string | null
  readonly readOnly: boolean
  readonly label: string
  readonly expiresInMs: number | null
}

/** `torus_<id>_<32 random bytes, base64url>`. */
const TOKEN_TEXT = /^torus_([0-9a-f]{16})_[A-Za-z0-9_-]{43}$/
const SECRET_BYTES = 32

/** Compared with where there is no such token, so that both take the same time. */
const NO_HASH = Buffer.alloc(32)

export class Tokens {
  readonly #cluster: Cluster
  readonly #following: Following
  readonly #records = new Map<string, TokenRecord>()
  readonly #onTrouble: (what: string, error: unknown) => void
  #required = false
  #known = false

  constructor(cluster: Cluster, onTrouble: (what: string, error: unknown) => void = () => {}) {
    this.#cluster = cluster
    this.#onTrouble = onTrouble
    const { store, keys, timers } = cluster
    const follower = {
      onPut: (entry: Entry) => this.#put(entry),
      onDelete: (key: string) => this.#delete(key)
    }
    this.#following = follow(store, keys.tokens, follower, timers)
    void this.#following.ready.then(() => {
      this.#known = true
    })
  }

  /** Resolves when the tokens that were there are known. */
  get ready(): Promise<void> {
    return this.#following.ready
  }

  /**
   * Must everybody show a token, where nothing else tells who is there? From the first token on,
   * for good: revoking the last one opens no door. Until it is known: yes.
   */
  get areRequired(): boolean {
    return this.#required || !this.#known
  }

  get count(): number {
    return this.#records.size
  }

  list(): TokenInfo[] {
    const all = [...this.#records.values()].map(infoOf)
    return all.sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1))
  }

  /** Null for a text that is no valid token; why is nobody's business. */
  verify(text: string): TokenInfo | null {
    const id = TOKEN_TEXT.exec(text)?.[1]
    const record = id === undefined ? undefined : this.#records.get(id)
    const wanted = record === undefined ? NO_HASH : Buffer.from(record.hash, 'base64')
    const isEqual = timingSafeEqual(hashOf(text), wanted)
    return isEqual && record !== undefined && this.isValid(record.id) ? infoOf(record) : null
  }

  /** It was neither revoked nor is it over. */
  isValid(id: string): boolean {
    const record = this.#records.get(id)
    if (record === undefined) return false
    const { expiresAt } = record
    return expiresAt === null || Date.parse(expiresAt) > this.#cluster.clock.wallMs()
  }

  /** `text` is the token itself, told this once. @throws StoreError LimitReached, Unavailable */
  async create(given: NewToken): Promise<{ readonly token: TokenInfo; readonly text: string }> {
    if (this.#records.size >= TOKENS_MAX) {
      const text = `there are ${TOKENS_MAX} tokens already: revoke some`
      throw new StoreError(ErrorCode.LimitReached, text)
    }
    const { store, keys, clock, random } = this.#cluster
    const { expiresInMs, ...rest } = given
    const id = randomId64(random)
    const text = `torus_${id}_${randomBytes(random, SECRET_BYTES).toString('base64url')}`
    const nowMs = clock.wallMs()
    const expiresAt = expiresInMs === null ? null : new Date(nowMs + expiresInMs).toISOString()
    const createdAt = new Date(nowMs).toISOString()
    const hash = hashOf(text).toString('base64')
    const record: TokenRecord = { v: 1, id, hash, ...rest, createdAt, expiresAt }
    const required = encodeRecord('tokensRequired', { v: 1, since: createdAt })
    const { succeeded } = await store.transact({
      compare: [{ key: keys.token(id), is: 'absent' }],
      success: [
        { put: keys.token(id), value: encodeRecord('token', record) },
        { put: keys.tokensRequired, value: required }
      ]
    })
    if (!succeeded) throw new StoreError(ErrorCode.Conflict, 'the id is taken: try again')
    // What was answered holds here at once; elsewhere when the watch tells.
    this.#records.set(id, record)
    this.#required = true
    return { token: infoOf(record), text }
  }

  /** @throws StoreError NotFound, Unavailable */
  async revoke(id: string): Promise<TokenInfo> {
    const { store, keys } = this.#cluster
    const key = keys.token(id)
    const { succeeded, entries } = await store.transact({
      compare: [{ key, is: 'present' }],
      success: [{ get: key }, { delete: key }]
    })
    const entry = entries[0]
    if (!succeeded || entry === undefined || entry === null) {
      throw new StoreError(ErrorCode.NotFound, `there is no token ${id}`)
    }
    this.#records.delete(id)
    return infoOf(decodeRecord('token', key, entry.value))
  }

  close(): void {
    this.#following.stop()
  }

  #put(entry: Entry): void {
    // Even one that cannot be read says that somebody wants tokens.
    this.#required = true
    if (entry.key === this.#cluster.keys.tokensRequired) return
    try {
      this.#records.set(this.#idOf(entry.key), decodeRecord('token', entry.key, entry.value))
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown
      this.#records.delete(this.#idOf(entry.key))
      this.#onTrouble('a token cannot be read and is refused', thrown)
    }
  }

  #delete(key: string): void {
    this.#records.delete(this.#idOf(key))
  }

  #idOf(key: string): string {
    return key.slice(this.#cluster.keys.tokens.length)
  }
}

const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest()

const infoOf = (record: TokenRecord): TokenInfo => {
  const { id, role, volume, readOnly, label, createdAt, expiresAt } = record
  return { id, role, volume, readOnly, label, createdAt, expiresAt }
}

function randomBytes(random: Random, count: number): Buffer {
  const bytes = Buffer.alloc(count)
  for (let at = 0; at < count; at += 4) bytes.writeUInt32BE(random.u32(), at)
  return bytes
}
