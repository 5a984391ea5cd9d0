/** What changed in a volume, as backup tools of others ask for it. */
import { deepStrictEqual, match, ok, strictEqual } from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { type FakeS3, s3Credentials, startFakeS3 } from '../helpers/fake-s3.ts'
import { KiB, MiB, Scratch } from '../helpers/images.ts'
import { libnbd, nbdInfo } from '../helpers/nbd-clients.ts'
import { runOk } from '../helpers/process.ts'
import { qemuImg, qemuIo } from '../helpers/qemu.ts'
import { TorusServer, torusProgram } from '../helpers/server.ts'

let server: TorusServer
let scratch: Scratch
let s3: FakeS3

test.before(async () => {
  scratch = await Scratch.create()
  s3 = await startFakeS3()
  server = await TorusServer.start({ args: ['--shards', '2'] })
})

test.after(async () => {
  await server?.dispose()
  await s3?.close()
  await scratch?.remove()
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

const backupTools = ['qemu-io', 'qemu-img'] as const

testNeeding(
  { programs: backupTools },
  'an encrypted volume comes back from S3 without a peer',
  async () => {
    const { accessKeyId, secretAccessKey } = s3Credentials
    const aws = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey }
    const env = { ...aws, AWS_ENDPOINT_URL: s3.endpoint, AWS_REGION: 'here' }
    const secret = scratch.path('secret')
    await writeFile(secret, Buffer.alloc(32, 9))
    const must = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await server.torus(args, { env })
      strictEqual(code, 0, `${args.join(' ')}: ${stderr}`)
      return stdout
    }
    const to = ['--to', 's3://bucket/torus'] as const
    await must('volume', 'create', 'e', '64MiB', '--encrypt', '--key-file', secret)
    const uri = server.uri('e')
    await qemuIo(uri, 'write -P 77 0 3M')
    match(await must('backup', 'create', 'e', ...to), /backed up everything as e\//)
    await qemuIo(uri, 'write -P 78 1M 64k', 'discard 2M 256k')
    match(await must('backup', 'create', 'e', ...to), /backed up what changed as e\/.*256 KiB read/)
    ok(![...s3.objects.values()].some((bytes) => bytes.includes(Buffer.alloc(256, 77))), 'sealed')
    const image = scratch.path('e.raw')
    const away = { ...env, TORUS_ADMIN: '127.0.0.1:1' }
    const restore = ['backup', 'restore', 'e', ...to, '--to-file', image]
    const locked = await server.torus(restore, { env: away })
    match(locked.stderr, /is encrypted, and no peer here has its key/)
    const back = await server.torus([...restore, '--key-file', secret], { env: away })
    strictEqual(back.code, 0, back.stderr)
    await must('volume', 'export', 'e', `${image}.now`)
    match(await qemuImg('compare', '-f', 'raw', '-F', 'raw', image, `${image}.now`), /identical/)
    const [lost] = [...s3.objects.keys()].filter((key) => key.includes('/objects/'))
    s3.objects.delete(lost!)
    const verified = await server.torus(['backup', 'verify', ...to], { env })
    strictEqual(verified.code, 1)
    ok(verified.stdout.includes(`${lost!.replace('torus/', '')} is missing`), verified.stdout)
    await s3.close()
  }
)

const cutOff = 'what was cut off is not imported, nor with a size that is not its own'

testNeeding({ programs: backupTools }, cutOff, async () => {
  await server.createVolume('whole', '64MiB')
  await qemuIo(server.uri('whole'), 'write -P 5 0 8M', 'write -P 6 20M 4M')
  const refused = async (says: RegExp, ...args: string[]): Promise<void> => {
    const { code, stderr } = await server.torus(['volume', 'import', ...args])
    strictEqual(code, 1, `${args.join(' ')} ${stderr}`)
    match(stderr, says)
  }
  const exported = async (format: string): Promise<string> => {
    const path = scratch.path(`whole.${format}`)
    const args = ['volume', 'export', 'whole', path, '--format', format]
    strictEqual((await server.torus(args)).code, 0)
    const bytes = await readFile(path)
    await writeFile(`${path}.half`, bytes.subarray(0, bytes.length / 2))
    return path
  }
  const qcow2 = await exported('qcow2')
  // What is missing would read as zeroes.
  await refused(
    /half is not imported: it was cut off.*98 errors were found/,
    `${qcow2}.half`,
    'half'
  )
  await writeFile(`${qcow2}.none`, '')
  await refused(/none is not imported: it is no/, `${qcow2}.none`, 'half', '--format', 'qcow2')
  await refused(/whole\.qcow2 has 64 MiB, more than --size 32/, qcow2, 'half', '--size', '32MiB')
  const stream = await exported('torus')
  await refused(/it was cut off/, `${stream}.half`, 'half')
  for (const size of ['32MiB', '128MiB']) {
    await refused(/of 64 MiB, as it was.*: leave --size away/, stream, 'half', '--size', size)
  }
  const volumes = await server.json<{ volumes: { name: string }[] }>('volume', 'list')
  ok(!JSON.stringify(volumes).includes('"half"'), 'nothing half made')
  strictEqual((await server.torus(['volume', 'import', qcow2, 'half'])).code, 0)
  strictEqual(
    (await server.torus(['volume', 'import', stream, 'half2', '--size', '64MiB'])).code,
    0
  )
})

const leftovers = 'an export goes on with what an earlier run left, and with nothing of another'

testNeeding({ programs: backupTools }, leftovers, async () => {
  for (const [name, byte] of Object.entries({ one: 1, two: 2 })) {
    await server.createVolume(name, '32MiB')
    await qemuIo(server.uri(name), `write -P ${byte} 0 8M`, `write -P ${byte + 2} 20M 1M`)
    await server.torus(['snapshot', 'create', `${name}@a`])
  }
  const exported = (of: string, path: string, format: string) =>
    server.torus(['volume', 'export', `${of}@a`, path, '--format', format, '--yes'])
  for (const format of ['raw', 'torus']) {
    const [one, two] = [scratch.path(`one.${format}`), scratch.path(`two.${format}`)]
    strictEqual((await exported('one', one, format)).code, 0)
    strictEqual((await exported('two', two, format)).code, 0)
    const [whole, other] = [await readFile(one), await readFile(two)]
    const path = scratch.path(`again.${format}`)
    for (const cut of [5_000, 5_000_000, whole.length - 3, whole.length]) {
      await writeFile(`${path}.part`, whole.subarray(0, cut))
      const { code, stderr } = await exported('one', path, format)
      strictEqual(code, 0, `${format} from ${cut}: ${stderr}`)
      ok((await readFile(path)).equals(whole), `${format} from ${cut}`)
      await rm(path)
    }
    await writeFile(`${path}.part`, other.subarray(0, 5_000_000))
    const { code, stderr } = await exported('one', path, format)
    strictEqual(code, 1)
    match(stderr, /something else.*: remove/)
  }
  const larger = scratch.path('larger.raw')
  await writeFile(`${larger}.part`, Buffer.alloc(40 * MiB, 1))
  match((await exported('one', larger, 'raw')).stderr, /larger than one@a: remove it/)
  await writeFile(`${larger}.qcow2.raw`, 'of somebody')
  const unasked = ['volume', 'export', 'one@a', `${larger}.qcow2`, '--format', 'qcow2']
  match((await server.torus(unasked)).stderr, /qcow2.raw is there/)
  strictEqual(await readFile(`${larger}.qcow2.raw`, 'utf8'), 'of somebody')
})

const noRoom = 'an export to a disk that is full says so, keeps what it has, and goes on with it'

testNeeding({ programs: backupTools, kernel: ['root', 'netns'] }, noRoom, async () => {
  await server.createVolume('large', '64MiB')
  await qemuIo(server.uri('large'), 'write -P 5 0 10M', 'write -P 6 30M 10M')
  for (const format of ['raw', 'torus']) {
    const path = scratch.path(`full/large.${format}`)
    const torus = `"${process.execPath}" "${torusProgram}"`
    const command = `${torus} volume export large "$0" --format ${format}`
    // A filesystem that nobody else sees, and that goes with the shell.
    const script = `
      mkdir -p "$1" && mount -t tmpfs -o size=8m none "$1" || exit 9
      ${command} 2> "$1.said"; echo "$?"; ls "$1"
      mount -o remount,size=64m "$1" && ${command} > /dev/null && cp "$0" "$1.${format}"`
    const shell = ['--mount', '/bin/sh', '-c', script, path, scratch.path('full')]
    const env = { ...process.env, TORUS_ADMIN: server.adminUrl }
    const said = await runOk('unshare', shell, { env })
    deepStrictEqual(said.trim().split('\n'), ['1', `large.${format}.part`])
    const why = await readFile(scratch.path('full.said'), 'utf8')
    match(why, /the disk of .*large.* is full; .*part is kept: make room and run the command again/)
    const made = scratch.path(`full.${format}`)
    if (format === 'torus') {
      strictEqual((await server.torus(['volume', 'import', made, 'made'])).code, 0)
    }
    const [of, as] = format === 'torus' ? [server.uri('made'), 'raw'] : [made, format]
    const same = ['compare', '-f', as, '-F', 'raw', of, server.uri('large')]
    match(await qemuImg(...same), /identical/)
  }
})

const noStore = 'a backup to a disk that is full, or out of it, leaves nothing half made'

testNeeding({ programs: backupTools, kernel: ['root', 'netns'] }, noStore, async () => {
  await server.createVolume('dense', '16MiB')
  const dense = scratch.path('dense')
  await writeFile(dense, randomBytes(6 * MiB))
  await qemuIo(server.uri('dense'), `write -s ${dense} 4M 6M`)
  const backup = `"${process.execPath}" "${torusProgram}" backup`
  const script = `
    mkdir "$0" && mount -t tmpfs -o size=3m none "$0" || exit 9
    ${backup} create dense --to "$0/store" 2>&1; ${backup} list dense --to "$0/store"
    mount -o remount,size=10m "$0"
    ${backup} create dense --to "$0/store" > /dev/null || exit 8
    ${backup} verify dense --to "$0/store"
    ${backup} restore dense --to "$0/store" --to-file "$0/image" 2>&1; ls "$0"
    mount -o remount,size=64m "$0"
    ${backup} restore dense --to "$0/store" --to-file "$0/image" > /dev/null && cp "$0/image" "$1"`
  const image = scratch.path('dense.raw')
  const shell = ['--mount', '/bin/sh', '-c', script, scratch.path('store'), image]
  const env = { ...process.env, TORUS_ADMIN: server.adminUrl }
  const said = (await runOk('unshare', shell, { env })).trim().split('\n')
  const wanted = [
    /^torus: backup store .* the disk is full$/,
    /^no backups$/,
    /^1 backup, .* all is there$/,
    /^torus: the disk of .*image is full: nothing stays; make room and run the command again$/,
    /^store$/
  ]
  strictEqual(said.length, wanted.length, said.join('\n'))
  for (const [at, words] of wanted.entries()) match(said[at]!, words)
  match(await qemuImg('compare', '-f', 'raw', '-F', 'raw', image, server.uri('dense')), /identical/)
})

test.run()
