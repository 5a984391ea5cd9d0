/**
 * Forgets backups and deletes the objects that nothing needs, while other backups run.
 *
 * Why no object that is in use can be deleted:
 *
 *   1. The name of an object has the run that put it, and runs are random: no name comes twice. So
 *      a manifest refers to objects that its own run put, or to objects of a backup that its run
 *      saw in the store after it had put its lock (BackupRun, whose only source is its base).
 *   2. A prune looks in this order: forget -> objects O -> locks S -> backups B and forgotten F.
 *      It deletes of O what neither B nor F refers to, and what no run in S put.
 *   3. An object of O that was put by a run r. If r is in S it stays. If r is not, it had ended
 *      before S was looked at (it had put the object before, so its lock was there before): its
 *      manifest, if it made one, is in B or F, which were listed later, and keeps the object.
 *   4. An object that a run q, which did not put it, refers to: q saw a backup m that has it, after
 *      it had put its lock. If m is in B the object stays. Else m was forgotten, and that puts it
 *      to `forgotten/` before it goes from `backups/`; there it waits for all runs whose locks were
 *      there *after* it had gone, q among them unless q had ended. While q runs F has m. When q has
 *      ended its own manifest is in B, if it made one: locks are looked at before backups.
 *   5. One prune at a time. Each puts its lock and then looks for others; of two that overlap at
 *      least one sees the other, and who sees another leaves.
 *   6. A run whose lock was not refreshed for STALE_MS, by the clock of the store, is marked as
 *      dead for good, and its lock goes. If it was only slow, it looks for that mark after it has
 *      put its manifest: either it finds it, and forgets the manifest as in 4, or the prune that
 *      put the mark lists backups later and sees the manifest. Nobody stands on such a backup.
 *
 * It needs a store in which what was put or deleted is so for every later list and get.
 */
import { randomBytes } from 'node:crypto'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { RunLock } from './backup-run.ts'
import { type BackupKeys, type ObjectRef, objectKey, refOf, runOf } from './objects.ts'
import type { Backup, Lock, Manifest, Repository } from './repository.ts'
import { piecesOf } from './restore.ts'

const STALE_MS = 60 * 60_000
const PRUNE = 'prune'

export interface Pruned {
  readonly forgotten: readonly string[]
  readonly objects: number
  readonly bytes: number
  /** Runs that go on: what they may need stays for the next prune. */
  readonly waitsFor: readonly string[]
}

/** How many are kept: the last `last`, and the last one of each of the last `days`. */
export interface Retention {
  readonly last: number
  readonly days: number
}

/** Those that may go, of the backups of one volume, oldest first. */
export function notKept(backups: readonly Backup[], { last, days }: Retention): Backup[] {
  const byDay = new Map<string, Backup>()
  for (const backup of backups) byDay.set(backup.manifest.createdAt.slice(0, 10), backup)
  const daily = days === 0 ? [] : [...byDay.values()].slice(-days)
  const latest = last === 0 ? [] : backups.slice(-last)
  const kept = new Set([...latest, ...daily])
  return backups.filter((backup) => !kept.has(backup))
}

/**
 * `keysOf` gives what opens the pages of an encrypted volume.
 * @throws StoreError Busy when another prune runs, Corrupt when it cannot be told what is needed
 */
export async function prune(
  repository: Repository,
  unwanted: readonly Backup[],
  keysOf: (manifest: Manifest) => Promise<BackupKeys | null>
): Promise<Pruned> {
  const run = randomBytes(8).toString('hex')
  const lock = await RunLock.put(repository, run, PRUNE)
  try {
    await requireAlone(repository, run)
    for (const backup of unwanted) await repository.forget(backup)
    const objects: { readonly ref: ObjectRef; readonly bytes: number }[] = []
    for await (const { key, bytes } of repository.objects()) {
      const ref = refOf(key)
      if (ref !== null) objects.push({ ref, bytes })
    }
    const running = await runsGoingOn(repository, run)
    const needed = await neededBy(repository, running, keysOf)
    let deleted = 0
    let bytes = 0
    for (const each of objects) {
      if (needed.has(each.ref) || running.includes(runOf(each.ref))) continue
      await repository.store.delete(objectKey(each.ref))
      deleted++
      bytes += each.bytes
    }
    const forgotten = unwanted.map(({ name }) => name)
    return { forgotten, objects: deleted, bytes, waitsFor: running }
  } finally {
    await lock.release()
  }
}

/** @throws StoreError Busy */
async function requireAlone(repository: Repository, run: string): Promise<void> {
  const locks = await repository.locks()
  const own = locks.find((lock) => lock.run === run)
  const others = locks.filter((lock) => lock.what === PRUNE && lock.run !== run)
  const alive = others.filter((lock) => !isStale(lock, own))
  for (const lock of others) {
    if (!alive.includes(lock)) await repository.store.delete(lock.key)
  }
  const [other] = alive
  if (other === undefined) return
  const text = `another prune of ${repository.store.name} runs on ${other.host}`
  throw new StoreError(ErrorCode.Busy, `${text}: try again when it is over`)
}

/** The store's clock is that of our own lock, which was put just now. */
const isStale = (lock: Lock, own: Lock | undefined): boolean =>
  own !== undefined && own.modifiedMs - lock.modifiedMs > STALE_MS

async function runsGoingOn(repository: Repository, run: string): Promise<string[]> {
  const locks = await repository.locks()
  const own = locks.find((lock) => lock.run === run)
  const running: string[] = []
  for (const lock of locks) {
    if (lock.what === PRUNE) continue
    if (!isStale(lock, own)) running.push(lock.run)
    else {
      await repository.markDead(lock.run)
      await repository.store.delete(lock.key)
    }
  }
  return running
}

/** All objects of backups, and of forgotten ones that a run may have seen. */
async function neededBy(
  repository: Repository,
  running: readonly string[],
  keysOf: (manifest: Manifest) => Promise<BackupKeys | null>
): Promise<Set<ObjectRef>> {
  const manifests = (await repository.backups()).map(({ manifest }) => manifest)
  for (const each of await repository.forgotten()) {
    const waitsFor = (each.waitsFor ?? running).filter((run) => running.includes(run))
    if (waitsFor.length === 0) await repository.store.delete(each.key)
    else {
      await repository.waitFor(each, waitsFor)
      manifests.push(each.manifest)
    }
  }
  const needed = new Set<ObjectRef>()
  for (const manifest of manifests) {
    const pages = manifest.pages.filter((ref) => ref !== null && !needed.has(ref))
    for (const ref of pages) needed.add(ref!)
    const keys = await keysOf(manifest)
    for await (const { ref } of piecesOf(repository, { manifest: { ...manifest, pages } }, keys)) {
      needed.add(ref)
    }
  }
  return needed
}
