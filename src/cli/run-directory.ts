/**
 * What this user's `attach` and `mount` started, one small JSON file each, so that `detach` and
 * `unmount` can find the process and the volume again. In a folder that a reboot empties, as it
 * ends the processes.
 */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { makeDirectory } from '../core/directories.ts'
import { CommandError } from './errors.ts'

export interface RunRecord {
  readonly kind: 'attach' | 'mount'
  readonly volume: string
  /** The block device or the directory. */
  readonly target: string
  /** Of nbdfuse; 0 where the kernel does the work. */
  readonly pid: number
  /** Of the process between that and the gateways, if there is one. */
  readonly relayPid?: number
  /** `mount` made the directory, so `unmount` removes it. */
  readonly madeDirectory: boolean
}

function defaultDirectory(): string {
  const given = process.env['TORUS_RUN_DIR'] ?? ''
  if (given !== '') return given
  // Not root's XDG_RUNTIME_DIR: it is emptied when root logs out, and attached devices stay.
  if (process.getuid?.() === 0) return '/run/torus'
  const runtime = process.env['XDG_RUNTIME_DIR'] ?? ''
  return runtime === '' ? join(tmpdir(), `torus-${userInfo().uid}`) : join(runtime, 'torus')
}

export class RunDirectory {
  readonly path: string

  constructor(path: string = defaultDirectory()) {
    this.path = path
  }

  /** A path in the directory, for logs and pid files of a target. */
  fileFor(target: string, suffix: string): string {
    this.#make()
    return join(this.path, `${target.replaceAll(/[^\w.-]+/g, '_').slice(-100)}${suffix}`)
  }

  save(record: RunRecord): void {
    writeFileSync(this.fileFor(record.target, '.json'), JSON.stringify(record), { mode: 0o600 })
  }

  remove(record: RunRecord): void {
    for (const suffix of ['.json', '.pid', '.log', '.relay.log']) {
      rmSync(this.fileFor(record.target, suffix), { force: true })
    }
  }

  list(): RunRecord[] {
    let names: string[]
    try {
      names = readdirSync(this.path)
    } catch {
      return []
    }
    return names.filter((name) => name.endsWith('.json')).flatMap((name) => this.#read(name))
  }

  #read(name: string): RunRecord[] {
    try {
      const record = JSON.parse(readFileSync(join(this.path, name), 'utf8')) as RunRecord
      return typeof record.target === 'string' ? [record] : []
    } catch {
      return [] // Half written when the machine stopped: it tells nothing.
    }
  }

  #make(): void {
    try {
      makeDirectory(this.path)
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      throw new CommandError('Unavailable', `${this.path} cannot be made: ${code}`, { cause })
    }
  }
}
