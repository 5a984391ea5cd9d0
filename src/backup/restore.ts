/** What a backup holds, read and compared with what its objects are called. */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { BackupKeys, ObjectRef } from './objects.ts'
import { objectKey } from './objects.ts'
import { isIntact } from './objects.ts'
import { PAGE_BYTES, PIECE_BYTES } from './page.ts'
import type { Backup, Repository } from './repository.ts'
import { partsOf, type StreamData } from './stream-format.ts'

/** Read ahead. */
const READS = 8

/** Is the manifest of an encrypted volume as it was written? @throws StoreError Corrupt */
export function requireGenuine({ name, text, mac }: Backup, keys: BackupKeys | null): void {
  if (keys === null || mac === keys.manifestSum(text)) return
  const why = 'it was changed, or is of other keys'
  throw new StoreError(ErrorCode.Corrupt, `backup ${name} is not what was written: ${why}`)
}

/** Its data, in order. @throws StoreError Corrupt naming what is missing or damaged */
export async function* partsOfBackup(
  repository: Repository,
  backup: Backup,
  keys: BackupKeys | null
): AsyncIterable<StreamData> {
  requireGenuine(backup, keys)
  const { sizeBytes } = backup.manifest
  const room = Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES
  const ahead: { offset: number; content: Promise<Buffer> }[] = []
  const takeFirst = async function* (): AsyncIterable<StreamData> {
    const { offset, content } = ahead.shift()!
    const bytes = await content
    yield* partsOf(offset, bytes.subarray(0, Math.min(bytes.length, room - offset)))
  }
  try {
    for await (const { offset, ref } of piecesOf(repository, backup, keys)) {
      const content = repository.object(ref, keys)
      // It may fail before its turn comes, which is not the end of the process.
      content.catch(() => {})
      ahead.push({ offset, content })
      if (ahead.length >= READS) yield* takeFirst()
    }
    while (ahead.length > 0) yield* takeFirst()
  } finally {
    // Nobody waits for them any more.
    await Promise.allSettled(ahead.map(({ content }) => content))
  }
}

/** Pieces that are not all zeroes. */
export async function* piecesOf(
  repository: Repository,
  { manifest }: Pick<Backup, 'manifest'>,
  keys: BackupKeys | null
): AsyncIterable<{ readonly offset: number; readonly ref: ObjectRef }> {
  for (const [at, pageRef] of manifest.pages.entries()) {
    if (pageRef === null) continue
    const page = await repository.page(pageRef, keys)
    for (const { piece, ref } of page.refs()) {
      yield { offset: at * PAGE_BYTES + piece * PIECE_BYTES, ref }
    }
  }
}

export interface Damage {
  readonly object: string
  readonly why: string
  readonly backup: string
  /** Of the volume; null: a page, and with it a GiB from there on. */
  readonly offset: number
  readonly length: number
}

export interface Verified {
  readonly backups: number
  readonly objects: number
  readonly bytes: number
  readonly damage: readonly Damage[]
}

/**
 * Reads every object of the backups, once, and tells which are missing or damaged. Pages of
 * encrypted volumes need their keys; without them what they list is not looked at.
 */
export async function verifyBackups(
  repository: Repository,
  backups: readonly { readonly backup: Backup; readonly keys: BackupKeys | null }[],
  onProgress: (bytes: number) => void
): Promise<Verified> {
  const seen = new Map<ObjectRef, string | null>()
  const damage: Damage[] = []
  let bytes = 0
  const check = async (ref: ObjectRef, keys: BackupKeys | null, isSealed: boolean) => {
    const known = seen.get(ref)
    if (known !== undefined) return known
    const why = await problemOf(repository, ref, keys, isSealed)
    seen.set(ref, why)
    return why
  }
  for (const { backup, keys } of backups) {
    requireGenuine(backup, keys)
    const isSealed = backup.manifest.keys !== null
    for (const [at, pageRef] of backup.manifest.pages.entries()) {
      if (pageRef === null) continue
      const place = { backup: backup.name, offset: at * PAGE_BYTES }
      const why = await check(pageRef, keys, isSealed)
      if (why !== null) {
        damage.push({ ...place, object: objectKey(pageRef), why, length: PAGE_BYTES })
        continue
      }
      if (isSealed && keys === null) continue
      const page = await repository.page(pageRef, keys)
      const refs = [...page.refs()]
      for (let first = 0; first < refs.length; first += READS) {
        const some = refs.slice(first, first + READS)
        const found = await Promise.all(some.map(({ ref }) => check(ref, keys, isSealed)))
        for (const [i, problem] of found.entries()) {
          bytes += PIECE_BYTES
          if (problem === null) continue
          const { piece, ref } = some[i]!
          const offset = place.offset + piece * PIECE_BYTES
          damage.push({
            ...place,
            offset,
            object: objectKey(ref),
            why: problem,
            length: PIECE_BYTES
          })
        }
        onProgress(bytes)
      }
    }
  }
  return { backups: backups.length, objects: seen.size, bytes, damage }
}

async function problemOf(
  repository: Repository,
  ref: ObjectRef,
  keys: BackupKeys | null,
  isSealed: boolean
): Promise<string | null> {
  if (isSealed && keys === null) {
    const bytes = await repository.store.get(objectKey(ref))
    if (bytes === null) return 'missing'
    return isIntact(bytes) ? null : 'damaged'
  }
  try {
    await repository.object(ref, keys)
    return null
  } catch (thrown) {
    if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Corrupt) throw thrown
    return thrown.message.endsWith('is missing') ? 'missing' : 'damaged'
  }
}
