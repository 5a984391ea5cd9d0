/** Disk images on the local filesystem, to copy into volumes and to compare with. */
import { createHash, randomFillSync } from 'node:crypto'
import { closeSync, createReadStream, ftruncateSync, openSync, writeSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const KiB = 1024
export const MiB = 1024 * KiB
export const GiB = 1024 * MiB

/** A directory of its own for one test file. */
export class Scratch {
  readonly directory: string
  private constructor(directory: string) {
    this.directory = directory
  }

  static async create(): Promise<Scratch> {
    return new Scratch(await mkdtemp(join(tmpdir(), 'torus-scratch-')))
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true })
  }
}

/** Writes a sparse file: random bytes in each `[offset, length]`, holes elsewhere. */
export function makeImage(
  path: string,
  sizeBytes: number,
  data: readonly (readonly [offset: number, length: number])[]
): void {
  const file = openSync(path, 'w')
  try {
    ftruncateSync(file, sizeBytes)
    for (const [offset, length] of data) {
      writeSync(file, randomFillSync(Buffer.allocUnsafe(length)), 0, length, offset)
    }
  } finally {
    closeSync(file)
  }
}

export async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer)
  return hash.digest('hex')
}
