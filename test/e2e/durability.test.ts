/** What stays after restarts, kills and full disks, with real processes. */
import { match, notStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { nbdCopy } from '../helpers/nbd-clients.ts'
import { gather, waitForEnd } from '../helpers/process.ts'
import { qemuIo, qemuIoAny } from '../helpers/qemu.ts'
import { TorusServer } from '../helpers/server.ts'

let scratch: Scratch

test.before(async () => {
  scratch = await Scratch.create()
})

test.after(async () => {
  await scratch?.remove()
})

async function withServer(
  args: readonly string[],
  use: (server: TorusServer) => Promise<void>
): Promise<void> {
  const server = await TorusServer.start({ args })
  try {
    await use(server)
  } finally {
    await server.dispose()
  }
}

const IMAGE_BYTES = 48 * MiB
const args = ['--shards', '2', '--volume', 'disk=48MiB']

testNeeding({ programs: ['nbdcopy'] }, 'data is intact after an orderly restart', async () => {
  await withServer(args, async (server) => {
    makeImage(scratch.path('in'), IMAGE_BYTES, [[512, 30 * MiB]])
    await nbdCopy(scratch.path('in'), server.uri('disk'))
    strictEqual(await server.stop(), 0)
    await server.start()
    await nbdCopy(server.uri('disk'), scratch.path('out'))
    strictEqual(await sha256Of(scratch.path('out')), await sha256Of(scratch.path('in')))
  })
})

testNeeding({ programs: ['nbdcopy'] }, 'flushed data is intact after kill -9', async () => {
  await withServer(args, async (server) => {
    for (let round = 0; round < 3; round++) {
      makeImage(scratch.path('in'), IMAGE_BYTES, [[round * 7 * MiB + 4096, 20 * MiB]])
      await nbdCopy(scratch.path('in'), server.uri('disk'))
      await server.kill()
      await server.start()
      await nbdCopy(server.uri('disk'), scratch.path('out'))
      strictEqual(await sha256Of(scratch.path('out')), await sha256Of(scratch.path('in')))
    }
  })
})

testNeeding({ programs: ['qemu-io'] }, 'a write with FUA is intact after kill -9', async () => {
  await withServer(args, async (server) => {
    await qemuIo(server.uri('disk'), 'write -f -P 77 5M 100k')
    await server.kill()
    await server.start()
    await qemuIo(server.uri('disk'), 'read -P 77 5M 100k')
  })
})

testNeeding(
  { programs: ['qemu-io'] },
  'a full disk says so, and a trim makes room again',
  async () => {
    const small = ['--shards', '1', '--capacity', '256MiB', '--segment-size', '4MiB']
    await withServer([...small, '--volume', 'big=4GiB'], async (server) => {
      const uri = server.uri('big')
      const writes = Array.from({ length: 40 }, (_, at) => `write -P ${at + 1} ${at * 16}M 16M`)
      const output = await qemuIoAny(uri, ...writes)
      match(output, /No space left on device/)
      const failed = output.split('\n').findIndex((line) => /No space left/.test(line))
      ok(failed >= 0)
      // What was acknowledged is readable; room comes back by trims, and writes go on.
      await qemuIo(uri, 'read -P 1 0 16M', 'read -P 2 16M 16M')
      await qemuIo(uri, 'discard 0 640M', 'flush')
      for (let tries = 0; ; tries++) {
        const again = await qemuIoAny(uri, 'write -P 99 0 64M')
        if (!/failed|error/i.test(again)) break
        ok(tries < 100, `no room 10 s after a trim of everything: ${again}`)
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
      await qemuIo(uri, 'read -P 99 0 64M', 'read -P 0 64M 16M')
    })
  }
)

test('a data directory that another process holds is refused', async () => {
  await withServer(args, async (server) => {
    const second = await TorusServer.prepare({ dataDir: server.dataDir, args })
    try {
      const child = second.spawn()
      const output = gather(child)
      ok(await waitForEnd(child, 15_000), 'it ends')
      strictEqual(child.exitCode, 1)
      match(output.all(), /in use|held|lock|another process/i)
      ok(server.running)
    } finally {
      await second.dispose()
    }
  })
})

test('another number of shards is refused in words that name reshard', async () => {
  await withServer(args, async (server) => {
    await server.stop()
    const other = await TorusServer.prepare({ dataDir: server.dataDir, args: ['--shards', '3'] })
    try {
      const child = other.spawn()
      const output = gather(child)
      ok(await waitForEnd(child, 15_000), 'it ends')
      strictEqual(child.exitCode, 1)
      match(output.all(), /reshard/)
    } finally {
      await other.dispose()
    }
  })
})

testNeeding(
  { programs: ['qemu-io'] },
  'SIGTERM answers what is in flight and ends with 0',
  async () => {
    await withServer(args, async (server) => {
      const load = qemuIoAny(server.uri('disk'), ...Array(50).fill('write -P 3 0 4M'))
      await new Promise((resolve) => setTimeout(resolve, 150))
      strictEqual(await server.stop(), 0)
      notStrictEqual(await load, '')
    })
  }
)

test.run()
