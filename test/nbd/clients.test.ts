/** The clients people use, against a volume in memory. */
import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import { readFile } from 'node:fs/promises'
import { test } from 'uvu'
import { makeCertificates } from '../helpers/certificates.ts'
import { testNeeding } from '../helpers/environment.ts'
import { KiB, MiB, makeImage, Scratch } from '../helpers/images.ts'
import { BlockState } from '../helpers/memory-devices.ts'
import { libnbd, nbdCopy, nbdInfo, nbdMap } from '../helpers/nbd-clients.ts'
import { pattern, type Serving, serving } from '../helpers/nbd-serving.ts'
import { run, runOk } from '../helpers/process.ts'

async function withScratch(body: (scratch: Scratch) => Promise<void>): Promise<void> {
  const scratch = await Scratch.create()
  try {
    await body(scratch)
  } finally {
    await scratch.remove()
  }
}

const uriOf = ({ port }: Serving, name = 'demo'): string => `nbd://127.0.0.1:${port}/${name}`

testNeeding({ programs: ['nbdinfo'] }, 'nbdinfo reads sizes, flags and the list of exports', () =>
  serving(async (all) => {
    all.source.add('fixed', MiB, { readOnly: true, description: 'may not be written' })
    const [demo] = (await nbdInfo(uriOf(all))).exports
    strictEqual(demo!['export-size'], 64 * MiB)
    deepStrictEqual(demo!.contexts, ['base:allocation'])
    for (const can of ['cache', 'df', 'fast_zero', 'flush', 'fua', 'multi_conn', 'trim', 'zero']) {
      strictEqual(demo![`can_${can}` as 'can_df'], true, can)
    }
    const { exports } = await nbdInfo('--list', `nbd://127.0.0.1:${all.port}`)
    deepStrictEqual(
      exports.map((each) => [each['export-name'], each.is_read_only, each.block_size_maximum]),
      [
        ['demo', false, 32 * MiB],
        ['fixed', true, 32 * MiB]
      ]
    )
  })
)

testNeeding({ programs: ['nbdinfo'] }, 'nbdinfo --map shows data, zeroes and holes', () =>
  serving(async (all) => {
    all.demo.states.fill(BlockState.Data, 2, 5)
    all.demo.states.fill(BlockState.Zero, 5, 6)
    deepStrictEqual(
      (await nbdMap(uriOf(all))).map(({ offset, length, type }) => [offset, length, type]),
      [
        [0, 8192, 3],
        [8192, 12_288, 0],
        [20_480, 4096, 2],
        [24_576, 64 * MiB - 24_576, 3]
      ]
    )
  })
)

testNeeding({ programs: ['nbdcopy'] }, 'nbdcopy in and out gives the same image', () =>
  serving((all) =>
    withScratch(async (scratch) => {
      const image = scratch.path('in.img')
      makeImage(image, 48 * MiB, [
        [0, 9 * MiB],
        [20 * MiB + 512, 3000]
      ])
      await nbdCopy('--connections=8', '--requests=32', image, uriOf(all))
      await nbdCopy('--request-size=33554432', uriOf(all), scratch.path('out.img'))
      const bytes = await readFile(image)
      ok(all.demo.bytes.subarray(0, bytes.length).equals(bytes))
      ok((await readFile(scratch.path('out.img'))).subarray(0, bytes.length).equals(bytes))
      // What the image does not hold was not written.
      strictEqual(all.demo.states[5000], BlockState.Hole)
    })
  )
)

testNeeding({ programs: ['qemu-img'] }, 'qemu-img converts, compares and maps', () =>
  serving((all) =>
    withScratch(async (scratch) => {
      const image = scratch.path('in.img')
      const uri = uriOf(all)
      makeImage(image, 64 * MiB, [
        [MiB, 5 * MiB],
        [40 * MiB, 64 * KiB]
      ])
      await runOk('qemu-img', ['convert', '-n', '-m', '16', '-W', '-f', 'raw', image, uri])
      await runOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri])
      const map = JSON.parse(await runOk('qemu-img', ['map', '--output=json', uri])) as {
        start: number
        length: number
        zero: boolean
      }[]
      const data = map.filter((each) => !each.zero)
      strictEqual(data[0]!.start, MiB)
      strictEqual(
        data.reduce((sum, { length }) => sum + length, 0),
        5 * MiB + 64 * KiB
      )
      const copy = scratch.path('out.qcow2')
      await runOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, copy])
      await runOk('qemu-img', ['compare', image, copy])
    })
  )
)

testNeeding({ programs: ['qemu-io'] }, 'qemu-io writes, zeroes, discards and reads back', () =>
  serving(async (all) => {
    const commands = [
      'write -P 0x11 0 1M',
      'write -f -P 0x22 1000 3000',
      'aio_write -P 0x33 2M 9M',
      'aio_write -z -u 3M 1M',
      'aio_flush',
      'discard 5M 1M',
      'write -z 512 512',
      'flush',
      'read -P 0x22 1024 2976',
      'read -P 0 512 488',
      'read -P 0x11 4000 4096',
      'read -P 0 3M 1M',
      'read -P 0 5M 1M',
      'read -P 0x33 6M 5M'
    ]
    const args = commands.flatMap((command) => ['-c', command])
    const output = await runOk('qemu-io', ['-f', 'raw', ...args, uriOf(all)])
    ok(!/failed/.test(output), output)
  })
)

testNeeding({ programs: ['fio'] }, 'fio verifies what it wrote at random', () =>
  serving(async (all) => {
    const common = ['--ioengine=nbd', `--uri=${uriOf(all)}`, '--size=16M', '--verify=crc32c']
    const job = ['--iodepth=32', '--verify_fatal=1', '--randrepeat=0', '--verify_state_save=0']
    for (const [bs, rw] of [
      ['4k', 'randwrite'],
      ['512-96k', 'randwrite'],
      ['2m', 'write']
    ] as const) {
      const name = `--name=${rw}-${bs}`
      const blocks = bs === '512-96k' ? ['--bsrange=512-96k'] : [`--bs=${bs}`]
      await runOk('fio', [name, `--rw=${rw}`, ...blocks, ...common, ...job])
    }
  })
)

testNeeding({ programs: ['python3-libnbd'] }, 'libnbd: flags, contexts, structured reads', () =>
  serving(async (all) => {
    pattern(70_000).copy(all.demo.bytes, 4096)
    all.demo.states.fill(BlockState.Data, 1, 20)
    const program = `
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
assert h.get_structured_replies_negotiated()
assert h.can_df() and h.can_fast_zero() and h.can_cache() and h.can_multi_conn()
chunks = []
def chunk(data, offset, status, error):
    chunks.append((offset, len(data), status))
h.pread_structured(262144, 0, chunk)
assert sorted(chunks) == [(0, 131072, 1), (131072, 131072, 2)], chunks
chunks.clear()
h.pread_structured(262144, 0, chunk, nbd.CMD_FLAG_DF)
assert chunks == [(0, 262144, 1)], chunks
entries = []
def extent(context, offset, got, error):
    assert context == "base:allocation"
    entries.extend(got)
h.block_status(1048576, 0, extent)
assert entries == [4096, 3, 77824, 0, 966656, 3], entries
entries.clear()
h.block_status(1048576, 4096, extent, nbd.CMD_FLAG_REQ_ONE)
assert entries == [77824, 0], entries
h.pwrite(b"x" * 100, 77, nbd.CMD_FLAG_FUA)
assert h.pread(100, 77) == b"x" * 100
h.zero(8192, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
h.cache(1048576, 0)
h.flush()
h.set_strict_mode(0)
for offset, expected in ((67108864, "EINVAL"), (67108863, "EINVAL")):
    try:
        h.pread(2, offset)
        assert False
    except nbd.Error as error:
        assert error.errno == expected, error.errno
try:
    h.pwrite(b"xx", 67108863)
    assert False
except nbd.Error as error:
    assert error.errno == "ENOSPC", error.errno
h.shutdown()
print("done")
`
    match(await libnbd(program, uriOf(all)), /done/)
  })
)

testNeeding({ programs: ['python3-libnbd'] }, 'libnbd: options one by one', () =>
  serving(async (all) => {
    all.source.add('other', MiB)
    const program = `
import nbd, sys
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
names = []
h.opt_list(lambda name, description: names.append((name, description)) and 0)
assert names == [("demo", "a test"), ("other", "")], names
h.set_export_name("nothing")
try:
    h.opt_info()
    assert False
except nbd.Error as error:
    assert error.errno == "ENOENT", error.errno
h.set_export_name("other")
h.set_full_info(True)
h.opt_info()
assert h.get_size() == 1048576
assert h.get_canonical_export_name() == "other"
h.add_meta_context("base:")
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name) and 0)
assert contexts == ["base:allocation"], contexts
h.clear_meta_contexts()
h.add_meta_context("base:allocation")
h.opt_go()
assert h.can_meta_context("base:allocation")
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 33554432
h.shutdown()
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
h.opt_abort()
h = nbd.NBD()
h.set_handshake_flags(0)
h.connect_uri(sys.argv[1])
assert h.get_size() == 67108864
h.pwrite(b"old", 0)
h.shutdown()
print("done")
`
    match(await libnbd(program, uriOf(all)), /done/)
  })
)

testNeeding({ programs: ['nbdinfo', 'nbdcopy', 'openssl'] }, 'libnbd over TLS', () =>
  withScratch(async (scratch) => {
    const certificates = await makeCertificates(scratch)
    const tls = {
      mode: 'require',
      certFile: certificates.serverCert,
      keyFile: certificates.serverKey,
      clientCaFile: certificates.ca
    } as const
    await serving(
      async (all) => {
        const query = `?tls-certificates=${certificates.directory}`
        const uri = `nbds://localhost:${all.port}/demo${query}`
        const info = await nbdInfo(uri)
        strictEqual(info.TLS, true)
        const image = scratch.path('in.img')
        makeImage(image, 16 * MiB, [[0, 12 * MiB]])
        await nbdCopy(image, uri)
        await nbdCopy(uri, scratch.path('out.img'))
        const bytes = await readFile(image)
        ok((await readFile(scratch.path('out.img'))).subarray(0, bytes.length).equals(bytes))
        const plain = await run('nbdinfo', [uriOf(all)])
        ok(plain.code !== 0)
      },
      { options: { tls } }
    )
  })
)

testNeeding({ programs: ['qemu-img', 'openssl'] }, 'qemu-img over TLS', () =>
  withScratch(async (scratch) => {
    const certificates = await makeCertificates(scratch)
    const tls = {
      mode: 'allow',
      certFile: certificates.serverCert,
      keyFile: certificates.serverKey
    } as const
    await serving(
      async (all) => {
        const image = scratch.path('in.img')
        makeImage(image, 64 * MiB, [[3 * MiB, 12 * MiB]])
        const creds = `tls-creds-x509,id=tls0,dir=${certificates.directory},endpoint=client`
        const target = `driver=nbd,host=localhost,port=${all.port},export=demo,tls-creds=tls0`
        const raw = `driver=raw,file.driver=file,file.filename=${image}`
        const options = ['--object', creds, '--image-opts', '--target-image-opts', '-n']
        await runOk('qemu-img', ['convert', ...options, raw, `driver=raw,file.${nested(target)}`])
        ok(all.demo.bytes.equals(await readFile(image)))
        strictEqual(all.server.snapshot().connectionsTls, 1)
      },
      { options: { tls } }
    )
  })
)

/** `a=1,b=2` as options of the node below. */
const nested = (options: string): string => options.replaceAll(',', ',file.')

testNeeding({ programs: ['nbd-client'] }, 'nbd-client lists exports', () =>
  serving(async (all) => {
    const args = ['-l', '127.0.0.1', '-N', '', String(all.port)]
    const { stdout } = await run('nbd-client', args)
    match(stdout, /demo/)
  })
)

test.run()
