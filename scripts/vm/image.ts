/** The test machine's kernel and initramfs, made of Debian's kernel package and this machine. */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { basename, join } from 'node:path'
import { repositoryRoot } from '../repository.ts'

/** The flavour for virtual machines: the smallest one that has nbd.ko. */
const KERNEL_PACKAGE = 'linux-image-cloud-amd64'

/** Modules that are needed, what they depend on included, in loading order. */
const wantedModules = ['virtio_pci', 'virtio_net', 'nbd']

const programs = ['nbd-client', 'mkfs.ext4', 'e2fsck', 'fstrim']

/** Native packages that only the server loads, and that are too large to copy for nothing. */
const serverOnly = /\/(sodium-native|@lmdb|@grpc|@node-rs\/.*)(\/|$)/

export interface Image {
  readonly kernel: string
  readonly initramfs: string
}

export function command(program: string, args: readonly string[], input?: string, cwd?: string) {
  const result = spawnSync(program, args, {
    encoding: 'latin1',
    maxBuffer: 1024 * 1024 * 1024,
    ...(input === undefined ? {} : { input }),
    ...(cwd === undefined ? {} : { cwd })
  })
  if (result.status === 0) return result.stdout
  throw new Error(`${program} ${args.join(' ')}: ${result.error ?? result.stderr}`)
}

/** Downloads and unpacks the kernel package, unless that was done; nothing gets installed. */
function fetchKernel(folder: string): string {
  const unpacked = join(folder, 'kernel')
  if (existsSync(join(unpacked, 'boot'))) return unpacked
  const depends = command('apt-cache', ['depends', KERNEL_PACKAGE])
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1]
  if (name === undefined) throw new Error(`apt knows no ${KERNEL_PACKAGE}: run apt-get update`)
  mkdirSync(folder, { recursive: true })
  command('apt-get', ['download', '-q', name], undefined, folder)
  const file = readdirSync(folder).find((each) => each.startsWith(`${name}_`))
  command('dpkg-deb', ['-x', join(folder, file ?? name), unpacked])
  return unpacked
}

/** Paths of the wanted modules and all that they depend on, dependencies first. */
function moduleFiles(modules: string): string[] {
  const all = readdirSync(modules, { recursive: true, encoding: 'utf8' })
  const pathOf = (name: string): string | undefined =>
    all.find((path) => basename(path).replaceAll('-', '_') === `${name}.ko`)
  const ordered: string[] = []
  const add = (name: string): void => {
    const path = pathOf(name)
    if (path === undefined || ordered.includes(path)) return // Not there: built in.
    const bytes = readFileSync(join(modules, path), 'latin1')
    const depends = /\0depends=([^\0]*)\0/.exec(bytes)?.[1] ?? ''
    for (const each of depends.split(',')) if (each !== '') add(each.replaceAll('-', '_'))
    ordered.push(path)
  }
  for (const name of wantedModules) add(name)
  return ordered
}

function copyModules(kernel: string, root: string): void {
  const versions = join(kernel, 'lib/modules')
  const modules = join(versions, readdirSync(versions)[0] ?? '')
  const files = moduleFiles(modules)
  mkdirSync(join(root, 'modules'))
  for (const file of files) cpSync(join(modules, file), join(root, 'modules', basename(file)))
  writeFileSync(join(root, 'modules/order'), files.map((file) => basename(file)).join('\n'))
}

/** A program under its own path, with the shared libraries that ldd names. */
function copyProgram(path: string, root: string, target: string = path): void {
  cpSync(realpathSync(path), join(root, target))
  const linked = spawnSync('ldd', [path], { encoding: 'utf8' }).stdout
  for (const match of linked.matchAll(/(?:=> |^\s*)(\/\S+) \(/gm)) {
    const library = match[1] ?? ''
    if (!existsSync(join(root, library))) cpSync(realpathSync(library), join(root, library))
  }
}

function findProgram(name: string): string {
  const folders = ['/usr/sbin', '/sbin', '/usr/bin', '/bin']
  const found = folders.map((folder) => join(folder, name)).find((path) => existsSync(path))
  if (found === undefined) throw new Error(`${name} is not installed`)
  return found
}

/** The command line program with what it imports. */
function copyTorus(root: string): void {
  const target = join(root, 'torus')
  cpSync(join(repositoryRoot, 'dist/src'), join(target, 'dist/src'), { recursive: true })
  cpSync(join(repositoryRoot, 'package.json'), join(target, 'package.json'))
  const lock = JSON.parse(readFileSync(join(repositoryRoot, 'package-lock.json'), 'utf8'))
  for (const [path, entry] of Object.entries<{ dev?: boolean }>(lock.packages)) {
    const from = join(repositoryRoot, path)
    // Nested ones come along with the package that they are in.
    const isWanted = /^node_modules\/(@[^/]+\/)?[^/]+$/.test(path) && entry.dev !== true
    if (!isWanted || serverOnly.test(path) || !existsSync(from)) continue
    cpSync(from, join(target, path), { recursive: true })
  }
}

export function makeImage(folder: string): Image {
  const kernel = fetchKernel(folder)
  const root = join(folder, 'root')
  rmSync(root, { recursive: true, force: true })
  for (const each of ['bin', 'dev', 'proc', 'sys', 'etc']) {
    mkdirSync(join(root, each), { recursive: true })
  }
  copyProgram(findProgram('busybox'), root, '/bin/busybox')
  copyProgram(process.execPath, root, '/bin/node')
  for (const program of programs) copyProgram(findProgram(program), root, `/bin/${program}`)
  copyModules(kernel, root)
  copyTorus(root)
  cpSync(join(repositoryRoot, 'scripts/vm/guest.sh'), join(root, 'init'))
  chmodSync(join(root, 'init'), 0o755)
  const initramfs = join(folder, 'initramfs')
  const script = 'find . -print0 | cpio --null --create --format=newc --quiet > "$0"'
  command('sh', ['-c', script, initramfs], '', root)
  const boot = readdirSync(join(kernel, 'boot')).find((name) => name.startsWith('vmlinuz'))
  return { kernel: join(kernel, 'boot', boot ?? ''), initramfs }
}
