/** What users point at a volume: the tools of libnbd and of qemu, over TCP and unix sockets. */
import { deepStrictEqual, match, ok, strictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { KiB, MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { nbdCopy, nbdInfo, nbdMap } from '../helpers/nbd-clients.ts'
import { run, runOk } from '../helpers/process.ts'
import { qemuImg, qemuIo, qemuIoAny, qemuMap } from '../helpers/qemu.ts'
import { TorusServer } from '../helpers/server.ts'

let server: TorusServer
let scratch: Scratch

test.before(async () => {
  scratch = await Scratch.create()
  server = await TorusServer.start({ args: ['--shards', '2'], socket: true })
})

test.after(async () => {
  await server?.dispose()
  await scratch?.remove()
})

const IMAGE_BYTES = 64 * MiB
/** Data at the start, across a chunk's border, odd in place and length, and at the very end. */
const islands = [
  [0, MiB],
  [4 * MiB - 8 * KiB, 16 * KiB],
  [20 * MiB + 512, 3 * MiB + 1536],
  [IMAGE_BYTES - 4 * KiB, 4 * KiB]
] as const

/** A volume of its own for a test; names are never used twice. */
async function newVolume(name: string, size = '64MiB'): Promise<string> {
  await server.createVolume(name, size)
  return server.uri(name)
}

testNeeding({ programs: ['nbdinfo'] }, 'nbdinfo sees size, flags and contexts', async () => {
  const uri = await newVolume('info')
  const { exports, structured, protocol } = await nbdInfo(uri)
  strictEqual(protocol, 'newstyle-fixed')
  ok(structured)
  const found = exports[0]!
  strictEqual(found['export-size'], IMAGE_BYTES)
  strictEqual(found.is_read_only, false)
  const abilities = [
    'cache',
    'df',
    'fast_zero',
    'flush',
    'fua',
    'multi_conn',
    'trim',
    'zero'
  ] as const
  for (const ability of abilities) ok(found[`can_${ability}`], ability)
  ok(found.contexts?.includes('base:allocation'))
  strictEqual(found.block_size_minimum, 1)
  strictEqual(found.block_size_preferred, 4 * KiB)
})

testNeeding({ programs: ['nbdinfo'] }, 'nbdinfo --list names every volume', async () => {
  await newVolume('listed-a')
  await newVolume('listed-b')
  const { exports } = await nbdInfo('--list', `nbd://127.0.0.1:${server.nbdPort}`)
  const names = exports.map((each) => each['export-name'])
  ok(names.includes('listed-a') && names.includes('listed-b'), names.join())
})

testNeeding({ programs: ['nbdinfo'] }, 'an export that is not there is an error', async () => {
  const { code, stderr } = await run('nbdinfo', [server.uri('nobody')])
  strictEqual(code, 1)
  match(stderr, /nobody|unknown|ENOENT|No such/i)
  ok(server.running)
})

testNeeding({ programs: ['nbdcopy'] }, 'nbdcopy brings an image in and out unchanged', async () => {
  const uri = await newVolume('copy')
  makeImage(scratch.path('copy.img'), IMAGE_BYTES, islands)
  await nbdCopy('--connections=4', scratch.path('copy.img'), uri)
  await nbdCopy('--connections=4', uri, scratch.path('copy.out'))
  strictEqual(await sha256Of(scratch.path('copy.out')), await sha256Of(scratch.path('copy.img')))
})

testNeeding(
  { programs: ['nbdcopy', 'nbdinfo'] },
  'holes of a copied image stay holes',
  async () => {
    const uri = await newVolume('holes')
    makeImage(scratch.path('holes.img'), IMAGE_BYTES, [[8 * MiB, MiB]])
    await nbdCopy(scratch.path('holes.img'), uri)
    const data = (await nbdMap(uri)).filter(({ type }) => type === 0)
    deepStrictEqual(
      data.map(({ offset, length }) => [offset, length]),
      [[8 * MiB, MiB]]
    )
  }
)

testNeeding({ programs: ['qemu-img'] }, 'qemu-img converts a raw image in and back', async () => {
  const uri = await newVolume('raw')
  const image = scratch.path('raw.img')
  makeImage(image, IMAGE_BYTES, islands)
  await qemuImg('convert', '-n', '-f', 'raw', '-O', 'raw', image, uri)
  match(await qemuImg('compare', '-f', 'raw', '-F', 'raw', image, uri), /identical/)
  await qemuImg('convert', '-f', 'raw', '-O', 'qcow2', uri, scratch.path('back.qcow2'))
  match(
    await qemuImg('compare', '-f', 'raw', '-F', 'qcow2', image, scratch.path('back.qcow2')),
    /identical/
  )
})

testNeeding({ programs: ['qemu-img', 'qemu-io'] }, 'qemu-img converts a qcow2 image', async () => {
  const uri = await newVolume('qcow')
  const image = scratch.path('disk.qcow2')
  await qemuImg('create', '-f', 'qcow2', image, '64M')
  const writes = ['write -P 1 0 128k', 'write -P 2 33M 70k', 'write -z 40M 1M', 'write -P 3 50M 5k']
  await runOk('qemu-io', ['-f', 'qcow2', ...writes.flatMap((each) => ['-c', each]), image])
  await qemuImg('convert', '-n', '-f', 'qcow2', '-O', 'raw', image, uri)
  match(await qemuImg('compare', '-f', 'qcow2', '-F', 'raw', image, uri), /identical/)
})

testNeeding(
  { programs: ['qemu-img', 'qemu-io'] },
  'qemu-img map shows data and holes',
  async () => {
    const uri = await newVolume('map', '16MiB')
    await qemuIo(uri, 'write -P 7 4M 1M', 'write -P 7 10M 64k', 'discard 10M 32k')
    const data = (await qemuMap(uri)).filter((entry) => entry.data)
    deepStrictEqual(
      data.map(({ start, length }) => [start, length]),
      [
        [4 * MiB, MiB],
        [10 * MiB + 32 * KiB, 32 * KiB]
      ]
    )
  }
)

testNeeding({ programs: ['qemu-io'] }, 'unaligned writes change only their own bytes', async () => {
  const uri = await newVolume('unaligned', '16MiB')
  await qemuIo(
    uri,
    'write -P 1 0 64k',
    'write -P 2 1 1',
    'write -P 3 4095 2',
    'write -P 4 10000 9000',
    'flush',
    'read -P 1 0 1',
    'read -P 2 1 1',
    'read -P 1 2 4093',
    'read -P 3 4095 2',
    'read -P 1 4097 5903',
    'read -P 4 10000 9000',
    'read -P 1 19000 46536',
    // Across the border of two chunks, which stand in different shards.
    'write -P 5 4194000 700',
    'read -P 0 4193000 1000',
    'read -P 5 4194000 700',
    'read -P 0 4194700 1000'
  )
})

testNeeding({ programs: ['qemu-io'] }, 'zeroes and discards read as zeroes', async () => {
  const uri = await newVolume('zeroes', '16MiB')
  await qemuIo(
    uri,
    'write -P 9 0 8M',
    'write -z 1M 1M',
    'write -z -u 3M 1M',
    'write -z 100 300',
    'discard 5M 2M',
    'read -P 9 0 100',
    'read -P 0 100 300',
    'read -P 9 400 4k',
    'read -P 0 1M 1M',
    'read -P 9 2M 1M',
    'read -P 0 3M 1M',
    'read -P 9 4M 1M',
    'read -P 0 5M 2M',
    'read -P 9 7M 1M',
    'write -f -P 8 5M 4k',
    'read -P 8 5M 4k',
    'read -P 0 5246976 4k'
  )
})

testNeeding({ programs: ['qemu-io'] }, 'a write past the end is refused', async () => {
  const uri = await newVolume('end', '1MiB')
  match(await qemuIoAny(uri, 'write 1M 4k'), /failed|error/i)
  await qemuIo(uri, 'write -P 1 1044480 4k', 'read -P 1 1044480 4k')
})

testNeeding({ programs: ['nbdcopy', 'qemu-img'] }, 'the unix socket serves the same', async () => {
  const uri = await newVolume('socket')
  makeImage(scratch.path('socket.img'), IMAGE_BYTES, islands)
  await nbdCopy(scratch.path('socket.img'), server.socketUri('socket'))
  const image = scratch.path('socket.img')
  match(await qemuImg('compare', '-f', 'raw', '-F', 'raw', image, uri), /identical/)
})

testNeeding({ programs: ['qemu-img'] }, 'a real client leaves nothing open behind it', async () => {
  const uri = await newVolume('left')
  await qemuImg('info', uri)
  strictEqual((await server.json<unknown[]>('client', 'list')).length, 0)
})

test.run()
