import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync
} from 'node:fs'
import { dirname } from 'node:path'

/**
 * Makes `path` and what is missing above it, for the owner alone; one that is there is fine.
 * Step by step, because Node's recursive form tries for ever below /proc.
 * @throws the system's error
 */
export function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' && statSync(path).isDirectory()) return
    const parent = dirname(path)
    if (code !== 'ENOENT' || parent === path || existsSync(parent)) throw error
    makeDirectory(parent)
    makeDirectory(path)
  }
}

/**
 * The file has all of `parts` or is as it was, whatever happens, and that is durable.
 * @throws the system's error
 */
export function replaceFile(path: string, parts: Iterable<Uint8Array>): void {
  const draft = `${path}.new`
  const handle = openSync(draft, 'w', 0o600)
  try {
    for (const part of parts) {
      for (let at = 0; at < part.length; ) at += writeSync(handle, part, at)
    }
    fsyncSync(handle)
  } catch (error) {
    // A disk that is full has room for what is written next.
    unlinkSync(draft)
    throw error
  } finally {
    closeSync(handle)
  }
  renameSync(draft, path)
  syncDirectory(dirname(path))
}

/** What was renamed, made or removed in it stays so. */
export function syncDirectory(path: string): void {
  const handle = openSync(path, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}
