/**
 * Forgets backups and deletes the objects that nothing needs, while other backups run.
 *
 * Why no object that is in use can be deleted:
 *
 *   1. The name of an object has the run that put it, and runs are random: no name comes twice. So
 *      a manifest refers to objects that its own run put, or to objects of a backup that its run
 *      saw in the store after it had put its lock (BackupRun, whose only source is its base).
 *   2. A prune looks in this order: forget -> forgotten F' -> objects O -> locks S -> backups B and
 *      forgotten F. It deletes of O what neither B nor F refers to, and what no run in S put.
 *   3. An object of O that was put by a run r. If r is in S it stays. If r is not, it had ended
 *      before S was looked at (it had put the object before, so its lock was there before): its
 *      manifest, if it made one, is in B or F, which were listed later, and keeps the object.
 *   4. An object that a run q, which did not put it, refers to: q saw a backup m that has it, after
 *      it had put its lock. If m is in B the object stays. Else m was forgotten, and that puts it
 *      to `forgotten/` before it goes from `backups/`; there it waits for all runs whose locks were
 *      there *after* it had gone (it is in F', or else it stays), q among them unless q had ended.
 *      While q runs F has m. When q has ended its own manifest is in B, if it made one: locks are
 *      looked at before backups.
 *   5. One prune at a time (`RunLock.takeTurn`). One that was only slow and was taken for dead sees
 *      that before it deletes anything: what it saw it saw before the other one began.
 *   6. A run that died (RunLock) is marked as dead for good, and its lock goes. If it was only
 *      slow, it looks for that mark after it has put its manifest: either it finds it, and forgets
 *      the manifest as in 4, or the prune that put the mark lists backups later and sees the
 *      manifest. Nobody stands on such a backup.
 *   7. What a run put down as unfinished counts as a backup above: B has it, others may stand on
 *      it, and it is forgotten as in 4. A run puts it again as it goes on, and what it has then
 *      refers to all that the one before did, but for lists of pages that were not full. One that
 *      was not put before its run was marked as dead counts for nothing: prune may have gone by it.
 *
 * It needs a store in which what was put or deleted is so for every later list and get.
 */
import { randomBytes } from 'node:crypto'
import { ErrorCode, StoreError } from '../core/errors.ts'
import type { Manifest } from './manifest.ts'
import { type BackupKeys, type ObjectRef, objectKey, refOf, runOf } from './objects.ts'
import type { Backup, Lock, Repository } from './repository.ts'
import { piecesOf } from './restore.ts'
import { isOver, RunLock, type TurnOptions } from './run-lock.ts'

const PRUNE = 'prune'
/** What nobody went on with for so long goes. */
const UNFINISHED_KEPT_MS = 14 * 24 * 3_600_000

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
  keysOf: (manifest: Manifest) => Promise<BackupKeys | null>,
  turn: TurnOptions = {}
): Promise<Pruned> {
  const run = randomBytes(8).toString('hex')
  const lock = await RunLock.put(repository, run, PRUNE)
  try {
    await lock.takeTurn(turn)
    for (const backup of unwanted) await repository.forget(backup)
    await forgetUnfinished(repository, run)
    const known = await goneFromView(repository)
    const objects: { readonly ref: ObjectRef; readonly bytes: number }[] = []
    for await (const { key, bytes } of repository.objects()) {
      const ref = refOf(key)
      if (ref !== null) objects.push({ ref, bytes })
    }
    const running = await runsGoingOn(repository, run)
    const needed = await neededBy(repository, { running, known }, keysOf)
    await lock.check()
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

/** @throws StoreError Closed */
async function ownLock(repository: Repository, run: string): Promise<{ own: Lock; locks: Lock[] }> {
  const locks = await repository.locks()
  const own = locks.find((each) => each.run === run)
  if (own !== undefined) return { own, locks }
  const text = `another took this prune of ${repository.store.name} for dead: run it again`
  throw new StoreError(ErrorCode.Closed, text)
}

async function runsGoingOn(repository: Repository, run: string): Promise<string[]> {
  const { own, locks } = await ownLock(repository, run)
  const running: string[] = []
  for (const lock of locks) {
    if (lock.what === PRUNE) continue
    if (isOver(lock, own)) await repository.takeForDead(lock)
    else running.push(lock.run)
  }
  return running
}

/** Those that nobody goes on with: they are old, or a later backup is there. */
async function forgetUnfinished(repository: Repository, run: string): Promise<void> {
  const { good, bad } = await repository.unfinished()
  for (const key of bad) await repository.store.delete(key)
  if (good.length === 0) return
  const { own } = await ownLock(repository, run)
  const { backups } = await repository.readable()
  for (const each of good) {
    const { volume, createdAt } = each.manifest
    const isOld = own.modifiedMs - each.modifiedMs > UNFINISHED_KEPT_MS
    const isPassed = backups.some(
      ({ manifest }) => manifest.volume === volume && manifest.createdAt >= createdAt
    )
    if (isOld || isPassed) await repository.forget(each)
  }
}

/** Keys of what was forgotten and is seen by nobody any more. */
async function goneFromView(repository: Repository): Promise<ReadonlySet<string>> {
  const gone = new Set<string>()
  for (const { key, from } of await repository.forgotten()) {
    if (from === null || (await repository.store.get(from)) === null) gone.add(key)
  }
  return gone
}

/** All objects of backups, and of forgotten ones that a run may have seen. */
async function neededBy(
  repository: Repository,
  { running, known }: { running: readonly string[]; known: ReadonlySet<string> },
  keysOf: (manifest: Manifest) => Promise<BackupKeys | null>
): Promise<Set<ObjectRef>> {
  const backups = await repository.backups()
  const { good } = await repository.unfinished()
  const manifests: Manifest[] = [...backups, ...good].map(({ manifest }) => manifest)
  for (const each of await repository.forgotten()) {
    const waitsFor = (each.waitsFor ?? running).filter((run) => running.includes(run))
    if (!known.has(each.key)) manifests.push(each.manifest)
    else if (waitsFor.length === 0) await repository.store.delete(each.key)
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
