import { type FileHandle, open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { decodeFences, encodeFences, type FenceEntry } from '../format/fences.ts'
import type { FenceStore } from './fences.ts'

const FENCES_NAME = 'fences'

/** The file `fences` in the data directory. */
export class FenceFile implements FenceStore {
  readonly #directory: string
  readonly #identity: { readonly clusterId: string; readonly peerId: string }

  constructor(directory: string, identity: { clusterId: string; peerId: string }) {
    this.#directory = directory
    this.#identity = identity
  }

  async load(): Promise<readonly FenceEntry[]> {
    const path = join(this.#directory, FENCES_NAME)
    let bytes: Buffer
    try {
      bytes = await readFile(path)
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw failureOf(thrown, `read ${path}`)
    }
    const file = decodeFences(bytes, path)
    const { clusterId, peerId } = this.#identity
    if (file.clusterId === clusterId && file.peerId === peerId) return file.entries
    throw new StoreError(ErrorCode.Corrupt, `${path} is of peer ${file.peerId}, not of ${peerId}`)
  }

  async save(entries: readonly FenceEntry[]): Promise<void> {
    const path = join(this.#directory, FENCES_NAME)
    try {
      await withHandle(await open(`${path}.tmp`, 'w', 0o600), async (file) => {
        await file.writeFile(encodeFences({ ...this.#identity, entries }))
        await file.sync()
      })
      await rename(`${path}.tmp`, path)
      await withHandle(await open(this.#directory, 'r'), (directory) => directory.sync())
    } catch (thrown) {
      throw failureOf(thrown, `write ${path}`)
    }
  }
}

async function withHandle(handle: FileHandle, use: (handle: FileHandle) => Promise<void>) {
  try {
    await use(handle)
  } finally {
    await handle.close()
  }
}

function failureOf(thrown: unknown, what: string): StoreError {
  const { code = 'unknown' } = thrown as NodeJS.ErrnoException
  const isFull = code === 'ENOSPC' || code === 'EDQUOT'
  const error = isFull ? ErrorCode.OutOfSpace : ErrorCode.DiskFailure
  return new StoreError(error, `${what}: ${code}`, { cause: thrown })
}
