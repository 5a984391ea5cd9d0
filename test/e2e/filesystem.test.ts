/** What a volume is for: filesystems of the real kernel on it, whole after every unmount. */
import { ok, strictEqual } from 'node:assert/strict'
import { copyFile, open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { VolumeMount } from '../helpers/mounts.ts'
import { runOk, until } from '../helpers/process.ts'
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

/** A snapshot is taken, copied, mounted and checked while files are written. */
async function useSnapshots(): Promise<void> {
  await server.createVolume('live', '64MiB')
  const head = await VolumeMount.attach(server.uri('live'), scratch.path('live'))
  const shown = join(head.directory, 'before')
  let snapshot: VolumeMount | null = null
  try {
    await runOk('mkfs.ext4', ['-q', head.device])
    await head.mount()
    await writeFile(shown, 'written before')
    await head.unmount()
    await head.mount()
    let [stopped, files] = [false, 0]
    const writing = (async () => {
      for (; !stopped; files++) {
        const file = await open(join(head.directory, `file-${files % 20}`), 'w')
        await file.writeFile(Buffer.alloc(200_000, files))
        await file.sync()
        await file.close()
      }
    })()
    await until(() => files > 5, 'files are written')
    await server.torus(['snapshot', 'create', 'live@then'])
    const begun = files
    await until(() => files > begun + 5, 'more files are written')
    const copies = [scratch.path('copy-1'), scratch.path('copy-2')]
    for (const copy of copies) await runOk('nbdcopy', [server.uri('live@then'), copy])
    ok(files > begun + 5)
    strictEqual(await sha256Of(copies[0]!), await sha256Of(copies[1]!))
    snapshot = await VolumeMount.attach(server.uri('live@then'), scratch.path('then'))
    strictEqual((await runOk('blockdev', ['--getro', snapshot.device])).trim(), '1')
    await snapshot.mount('ro', 'noload')
    strictEqual(await readFile(join(snapshot.directory, 'before'), 'utf8'), 'written before')
    await snapshot.unmount()
    stopped = true
    await writing
    // As after a power cut: the journal is played, and nothing else is to mend.
    await runOk('e2fsck', ['-E', 'journal_only', '-p', copies[0]!])
    await runOk('e2fsck', ['-f', '-n', copies[0]!])
  } finally {
    await snapshot?.detach()
    await head.detach()
  }
}

testNeeding(
  {
    programs: ['nbdfuse', 'fusermount3', 'losetup', 'mkfs.ext4', 'e2fsck', 'nbdcopy'],
    kernel: ['root', 'fuse', 'loop']
  },
  'a snapshot of ext4, taken while files are written, mounts read-only and checks clean',
  useSnapshots
)

test.run()
