/** The first thing a user types in a new checkout. */
import { match, ok, strictEqual } from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { cp, mkdir, symlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../../scripts/repository.ts'
import { testNeeding } from '../helpers/environment.ts'
import { GiB, Scratch } from '../helpers/images.ts'
import { nbdInfo } from '../helpers/nbd-clients.ts'
import {
  end,
  freePort,
  gather,
  hasEnded,
  run,
  runOk,
  until,
  waitForEnd
} from '../helpers/process.ts'
import { qemuIo } from '../helpers/qemu.ts'
import { accepts, httpStatus } from '../helpers/server.ts'

/** Copies what belongs to the repository; packages are those that are here. */
async function copyCheckout(to: string): Promise<void> {
  const files = ['ls-files', '--cached', '--others', '--exclude-standard', '-z']
  const names = (await runOk('git', files, { cwd: repositoryRoot })).split('\0').filter(Boolean)
  for (const name of names) {
    await mkdir(dirname(join(to, name)), { recursive: true })
    // A file that was deleted and not committed is still listed.
    await cp(join(repositoryRoot, name), join(to, name)).catch(() => {})
  }
  await symlink(join(repositoryRoot, 'node_modules'), join(to, 'node_modules'))
}

testNeeding(
  { programs: ['git', 'nbdinfo', 'qemu-io'] },
  'npm start in a fresh checkout serves volume demo, tells what to type, and stops when told',
  async () => {
    const scratch = await Scratch.create()
    const checkout = scratch.path('torus')
    await copyCheckout(checkout)
    const [nbdPort, adminPort] = [await freePort(), await freePort()]
    const listen = ['--nbd-listen', `127.0.0.1:${nbdPort}`, '--admin-listen', `${adminPort}`]
    // A group of its own, so that whatever npm started can be ended with it.
    const npm = spawn('npm', ['start', '--', ...listen], {
      cwd: checkout,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe']
    })
    const output = gather(npm)
    try {
      await until(
        async () => {
          ok(!hasEnded(npm), output.all())
          return (await httpStatus(adminPort, '/readyz')) === 200
        },
        'npm start serves',
        90_000
      )
      const uri = `nbd://127.0.0.1:${nbdPort}/demo`
      strictEqual((await nbdInfo(uri)).exports[0]?.['export-size'], GiB)
      // The default export is the only volume there is.
      strictEqual((await nbdInfo(`nbd://127.0.0.1:${nbdPort}`)).exports[0]?.['export-size'], GiB)
      await qemuIo(uri, 'write -P 5 0 1M', 'flush', 'read -P 5 0 1M')
      await until(() => /qemu-img convert/.test(output.all()), 'what to type next is printed')
      match(output.all(), new RegExp(`nbd://127\\.0\\.0\\.1:${nbdPort}`))
      const env = { TORUS_ADMIN: `http://127.0.0.1:${adminPort}` }
      const status = await run(join(checkout, 'scripts/torus'), ['status'], { env })
      strictEqual(status.code, 0, status.stderr)
      npm.kill('SIGTERM')
      ok(await waitForEnd(npm, 30_000), 'npm ends')
      await until(async () => !(await accepts(nbdPort)), 'nobody listens any more')
    } finally {
      await end(npm)
      await scratch.remove()
    }
  }
)

test.run()
