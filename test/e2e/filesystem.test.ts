/** What a volume is for: filesystems of the real kernel on it, whole after every unmount. */
import { strictEqual } from 'node:assert/strict'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { VolumeMount } from '../helpers/mounts.ts'
import { runOk } from '../helpers/process.ts'
import { TorusServer } from '../helpers/server.ts'

let server: TorusServer
let scratch: Scratch

test.before(async () => {
  scratch = await Scratch.create()
  server = await TorusServer.start({ args: ['--shards', '2'] })
})

test.after(async () => {
  await server?.dispose()
  await scratch?.remove()
})

interface Filesystem {
  readonly name: string
  readonly make: readonly string[]
  readonly check: readonly string[]
}

const filesystems: readonly Filesystem[] = [
  { name: 'ext4', make: ['mkfs.ext4', '-q'], check: ['e2fsck', '-f', '-n'] },
  { name: 'xfs', make: ['mkfs.xfs', '-q'], check: ['xfs_repair', '-n'] }
]

/** Makes the filesystem, fills it, and checks it as a disk that was taken out and put in again. */
async function useFilesystem({ name, make, check }: Filesystem): Promise<void> {
  await server.createVolume(name, '320MiB') // xfs takes no smaller one
  const big = scratch.path(`${name}.big`)
  makeImage(big, 24 * MiB, [[0, 24 * MiB]])
  let mount = await VolumeMount.attach(server.uri(name), scratch.path(name))
  const inside = (file: string): string => join(mount.directory, file)
  try {
    await runOk(make[0]!, [...make.slice(1), mount.device])
    await mount.mount()
    await copyFile(big, inside('big'))
    for (let file = 0; file < 200; file++) await writeFile(inside(`small-${file}`), `file ${file}`)
    await mount.unmount()
    await runOk(check[0]!, [...check.slice(1), mount.device])
    await mount.detach()

    await server.stop()
    await server.start()
    mount = await VolumeMount.attach(server.uri(name), scratch.path(name))
    await runOk(check[0]!, [...check.slice(1), mount.device])
    await mount.mount()
    strictEqual(await sha256Of(inside('big')), await sha256Of(big))
    for (let file = 0; file < 200; file++) {
      strictEqual(await readFile(inside(`small-${file}`), 'utf8'), `file ${file}`)
    }
    await runOk('fstrim', [mount.directory])
    await mount.unmount()
    await runOk(check[0]!, [...check.slice(1), mount.device])
  } finally {
    await mount.detach()
  }
}

for (const filesystem of filesystems) {
  const programs = ['nbdfuse', 'fusermount3', 'losetup', filesystem.make[0]!, filesystem.check[0]!]
  testNeeding(
    { programs, kernel: ['root', 'fuse', 'loop'] },
    `${filesystem.name} on a volume keeps its files over a restart and checks clean`,
    () => useFilesystem(filesystem)
  )
}

test.run()
