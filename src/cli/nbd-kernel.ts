/** The kernel's NBD devices as sysfs shows them. Paths are given, so that tests bring their own. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { CommandError } from './errors.ts'
import { programName } from './programs.ts'

export interface KernelPaths {
  readonly dev: string
  readonly sys: string
  readonly proc: string
}

const realPaths: KernelPaths = { dev: '/dev', sys: '/sys', proc: '/proc' }

export class NbdKernel {
  readonly #paths: KernelPaths

  constructor(paths: KernelPaths = realPaths) {
    this.#paths = paths
  }

  /** @throws CommandError that says how to get the driver */
  needDriver(): void {
    if (this.devices().length > 0) return
    const release = this.#read(join(this.#paths.proc, 'sys/kernel/osrelease'))
    throw new CommandError(
      'Unavailable',
      `this kernel (${release}) has no nbd driver loaded: try "sudo modprobe nbd"; in a ` +
        `container load it on the host; where there is none, "${programName()} mount" needs ` +
        'only FUSE'
    )
  }

  /** 'nbd0', 'nbd1', … */
  devices(): string[] {
    const block = join(this.#paths.sys, 'block')
    if (!existsSync(block)) return []
    return readdirSync(block)
      .filter((name) => /^nbd\d+$/.test(name))
      .sort((a, b) => Number(a.slice(3)) - Number(b.slice(3)))
  }

  /** The kernel shows a pid while a device is connected. */
  isFree(device: string): boolean {
    const folder = join(this.#paths.sys, 'block', device)
    return !existsSync(join(folder, 'pid')) && this.#read(join(folder, 'size')) === '0'
  }

  /** @throws CommandError when all are in use */
  freeDevice(): string {
    const devices = this.devices()
    const free = devices.find((device) => this.isFree(device))
    if (free !== undefined) return join(this.#paths.dev, free)
    const message = `all ${devices.length} nbd devices are in use: detach one, or load the driver`
    throw new CommandError('Busy', `${message} with more (modprobe nbd nbds_max=64)`)
  }

  /** @throws CommandError when `path` is no nbd device, or in use */
  needFree(path: string): void {
    const device = this.nameOf(path)
    if (this.isFree(device)) return
    throw new CommandError('Busy', `${path} is in use: see "${programName()} detach"`)
  }

  /** '/dev/nbd3' or 'nbd3' -> 'nbd3'. @throws CommandError */
  nameOf(path: string): string {
    const device = path.startsWith(`${this.#paths.dev}/`)
      ? path.slice(this.#paths.dev.length + 1)
      : path
    if (this.devices().includes(device)) return device
    throw new CommandError('NotFound', `${path} is no nbd device of this machine`)
  }

  pathOf = (device: string): string => join(this.#paths.dev, device)

  /** Where the device or a partition of it is mounted. */
  mountsOf(path: string): string[] {
    return this.#read(join(this.#paths.proc, 'mounts'))
      .split('\n')
      .map((line) => line.split(' '))
      .filter(([source = '']) => source === path || source.startsWith(`${path}p`))
      .map(([, target = '']) => target)
  }

  #read(path: string): string {
    try {
      return readFileSync(path, 'utf8').trim()
    } catch {
      return ''
    }
  }
}
