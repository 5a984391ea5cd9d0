/** What is done to a data directory while no peer holds it: check and reshard. */
import { match, ok, strictEqual } from 'node:assert/strict'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { nbdCopy } from '../helpers/nbd-clients.ts'
import { qemuIo, qemuIoAny } from '../helpers/qemu.ts'
import { TorusServer, torus } from '../helpers/server.ts'

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

testNeeding({ programs: ['nbdcopy'] }, 'resharding offline keeps every byte', async () => {
  await withServer(args, async (server) => {
    makeImage(scratch.path('in'), IMAGE_BYTES, [
      [0, 9 * MiB],
      [20 * MiB, 11 * MiB]
    ])
    await nbdCopy(scratch.path('in'), server.uri('disk'))
    await server.stop()
    const data = ['--data-dir', server.dataDir]
    const check = async (): Promise<void> => {
      const { code, stdout, stderr } = await torus(['check', ...data, '--json'])
      strictEqual(code, 0, stdout + stderr)
    }
    await check()
    const { code, stdout, stderr } = await torus(['reshard', ...data, '--shards', '3', '--yes'])
    strictEqual(code, 0, stdout + stderr)
    await check()
    const other = await TorusServer.start({ dataDir: server.dataDir, args: ['--shards', '3'] })
    try {
      await nbdCopy(other.uri('disk'), scratch.path('out'))
      strictEqual(await sha256Of(scratch.path('out')), await sha256Of(scratch.path('in')))
    } finally {
      await other.dispose()
    }
  })
})

testNeeding(
  { programs: ['qemu-io'] },
  'check names a flipped bit and changes nothing',
  async () => {
    await withServer(['--shards', '1', '--volume', 'disk=48MiB'], async (server) => {
      await qemuIo(server.uri('disk'), 'write -P 171 0 1M', 'flush')
      await server.stop()
      const directory = join(server.dataDir, 'shard-0')
      const segment = (await readdir(directory))
        .filter((name) => name.startsWith('seg-'))
        .sort()[0]!
      const file = await open(join(directory, segment), 'r+')
      const bytes = await file.read(Buffer.alloc(4 * MiB), 0, 4 * MiB, 0)
      const at = bytes.buffer.indexOf(Buffer.alloc(4096, 171))
      ok(at > 0, 'the payload is in the first segment')
      await file.write(Buffer.from([170]), 0, 1, at + 100)
      await file.close()
      const checked = await torus(['check', '--data-dir', server.dataDir, '--json'])
      strictEqual(checked.code, 1)
      await server.start()
      // The damaged block is an error, never other bytes; its neighbours are served.
      match(await qemuIoAny(server.uri('disk'), 'read 0 1M'), /Input\/output error/)
      await qemuIo(server.uri('disk'), 'read -P 171 512k 512k')
    })
  }
)

test.run()
