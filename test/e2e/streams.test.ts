/** What changed in a volume, as backup tools of others ask for it. */
import { deepStrictEqual, ok } from 'node:assert/strict'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { KiB, MiB } from '../helpers/images.ts'
import { libnbd, nbdInfo } from '../helpers/nbd-clients.ts'
import { runOk } from '../helpers/process.ts'
import { qemuIo } from '../helpers/qemu.ts'
import { TorusServer } from '../helpers/server.ts'

let server: TorusServer

test.before(async () => {
  server = await TorusServer.start({ args: ['--shards', '2'] })
})

test.after(async () => {
  await server?.dispose()
})

const clients = ['nbdinfo', 'python3-libnbd', 'qemu-io'] as const

testNeeding({ programs: clients }, 'backup tools see what changed over NBD', async () => {
  await server.createVolume('v', '64MiB')
  const uri = server.uri('v')
  await qemuIo(uri, 'write -P 1 0 2M')
  await server.torus(['snapshot', 'create', 'v@a'])
  await qemuIo(uri, 'write -P 2 1M 64k', 'discard 0 8k')
  await server.torus(['snapshot', 'create', 'v@b'])
  await qemuIo(uri, 'write -P 3 40M 64k')
  const contexts = (await nbdInfo(uri)).exports[0]!.contexts ?? []
  ok(contexts.includes('torus:layer:a') && contexts.includes('torus:layer:b'), contexts.join())
  const older = (await nbdInfo(server.uri('v@b'))).exports[0]!.contexts ?? []
  ok(older.includes('torus:layer:a') && !older.includes('torus:layer:b'), older.join())
  const changedOf = async (base: string, of: string): Promise<(number | undefined)[][]> => {
    const text = await runOk('nbdinfo', [`--map=torus:layer:${base}`, '--json', server.uri(of)])
    const all = JSON.parse(text) as { offset: number; length: number; type: number }[]
    return all.filter(({ type }) => type === 1).map(({ offset, length }) => [offset, length])
  }
  const [first, second] = [
    [0, 8 * KiB],
    [MiB, 64 * KiB]
  ]
  const third = [40 * MiB, 64 * KiB]
  deepStrictEqual(await changedOf('a', 'v@b'), [first, second])
  deepStrictEqual(await changedOf('a', 'v'), [first, second, third])
  deepStrictEqual(await changedOf('b', 'v'), [third])
  const program = `
import nbd, sys
h = nbd.NBD()
h.add_meta_context("torus:layer:b")
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
assert h.can_meta_context("torus:layer:b")
seen = {}
h.block_status(67108864, 0, lambda name, at, got, error: seen.setdefault(name, list(got)) and 0)
assert seen["torus:layer:b"][:6] == [41943040, 0, 65536, 1, 25100288, 0], seen
assert "base:allocation" in seen
h.shutdown()
`
  await libnbd(program, uri)
})

test.run()
