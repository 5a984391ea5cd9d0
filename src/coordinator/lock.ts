/**
 * The lock that keeps a second process out of a data directory. It is an flock(2) on a file that
 * stays: the kernel drops the lock with the process, so a crash leaves nothing to clean up.
 */
import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { flockSync } from 'fs-ext'
import { ErrorCode, StoreError } from '../core/errors.ts'

export const LOCK_FILE = 'lock'

export class DirectoryLock {
  readonly #fd: number
  #held = true

  private constructor(fd: number) {
    this.#fd = fd
  }

  /**
   * Takes the lock of `directory`, which must exist, and writes our pid into it for people.
   * @throws StoreError Busy when another process holds it; the message names its pid
   */
  static acquire(directory: string): DirectoryLock {
    const path = join(directory, LOCK_FILE)
    const fd = openLockFile(path, 'a+')
    takeLock(fd, 'exnb', directory)
    const lock = new DirectoryLock(fd)
    try {
      ftruncateSync(fd, 0)
      writeSync(fd, `${process.pid}\n`, 0)
      fsyncSync(fd)
    } catch (cause) {
      lock.release()
      throw lockFailed(path, cause)
    }
    return lock
  }

  /**
   * Keeps owners out while somebody only reads. Writes nothing, so a read-only filesystem will do.
   * `directory` must have a lock file, which every data directory has.
   * @throws StoreError Busy when another process owns it
   */
  static acquireShared(directory: string): DirectoryLock {
    const fd = openLockFile(join(directory, LOCK_FILE), 'r')
    takeLock(fd, 'shnb', directory)
    return new DirectoryLock(fd)
  }

  release(): void {
    if (!this.#held) return
    this.#held = false
    closeSync(this.#fd)
  }
}

function takeLock(fd: number, kind: 'exnb' | 'shnb', directory: string): void {
  try {
    flockSync(fd, kind)
  } catch (cause) {
    closeSync(fd)
    const path = join(directory, LOCK_FILE)
    if (!isHeld(cause)) throw lockFailed(path, cause)
    throw new StoreError(
      ErrorCode.Busy,
      `data directory ${directory} is in use by another process${holderOf(path)}; stop it first`,
      { cause }
    )
  }
}

function openLockFile(path: string, flags: 'a+' | 'r'): number {
  try {
    return openSync(path, flags)
  } catch (cause) {
    throw lockFailed(path, cause)
  }
}

function isHeld(cause: unknown): boolean {
  const code = (cause as NodeJS.ErrnoException).code
  return code === 'EAGAIN' || code === 'EWOULDBLOCK'
}

function lockFailed(path: string, cause: unknown): StoreError {
  const message = cause instanceof Error ? cause.message : String(cause)
  return new StoreError(ErrorCode.DiskFailure, `lock file ${path}: ${message}`, { cause })
}

function holderOf(path: string): string {
  try {
    const pid = readFileSync(path, 'utf8').trim()
    return /^\d+$/.test(pid) ? ` (pid ${pid})` : ''
  } catch {
    return '' // only a help for people
  }
}
