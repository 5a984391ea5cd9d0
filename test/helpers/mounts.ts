/**
 * A volume as a mounted filesystem without the kernel's nbd module: nbdfuse shows the volume as a
 * file, a loop device makes a disk of it. Everything that was set up is taken down again in
 * reverse, whatever happened in between.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { end, gather, hasEnded, run, runOk, until } from './process.ts'

export class VolumeMount {
  /** The volume as a disk of the kernel. */
  device = ''
  readonly directory: string
  readonly #fuseDirectory: string
  #fuse: ChildProcess | null = null
  #mounted = false
  private constructor(base: string) {
    this.directory = join(base, 'mnt')
    this.#fuseDirectory = join(base, 'fuse')
  }

  /** Attaches the volume; `base` is an empty directory for its mount points. */
  static async attach(uri: string, base: string): Promise<VolumeMount> {
    const mount = new VolumeMount(base)
    try {
      await mount.#attach(uri)
      return mount
    } catch (error) {
      await mount.detach()
      throw error
    }
  }

  async #attach(uri: string): Promise<void> {
    await mkdir(this.directory, { recursive: true })
    await mkdir(this.#fuseDirectory, { recursive: true })
    const file = join(this.#fuseDirectory, 'nbd')
    const child = spawn('nbdfuse', [this.#fuseDirectory, uri], {
      stdio: ['ignore', 'pipe', 'pipe']
    })
    const output = gather(child)
    this.#fuse = child
    await until(() => {
      if (hasEnded(child)) throw new Error(`nbdfuse ended: ${output.all()}`)
      return existsSync(file)
    }, 'nbdfuse shows the volume')
    this.device = (await runOk('losetup', ['--find', '--show', file])).trim()
  }

  async mount(...options: string[]): Promise<void> {
    const flags = options.length === 0 ? [] : ['-o', options.join(',')]
    await runOk('mount', [...flags, this.device, this.directory])
    this.#mounted = true
  }

  async unmount(): Promise<void> {
    await runOk('umount', [this.directory])
    this.#mounted = false
  }

  /** Gives everything up; never throws, so that it can end any test. */
  async detach(): Promise<void> {
    if (this.#mounted) await run('umount', ['--lazy', this.directory])
    if (this.device !== '') {
      await run('blockdev', ['--flushbufs', this.device])
      await run('losetup', ['--detach', this.device])
    }
    await run('fusermount3', ['-u', this.#fuseDirectory])
    if (this.#fuse !== null) await end(this.#fuse, 'SIGTERM', 5_000)
    this.#mounted = false
    this.device = ''
  }
}
