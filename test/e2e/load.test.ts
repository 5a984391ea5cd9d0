/** Many requests at once that check what they read: fio, and libnbd against a model. */
import { strictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { libnbd } from '../helpers/nbd-clients.ts'
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

/** Runs fio with its nbd engine; a block that is not what was written ends it. */
async function fio(volume: string, ...args: string[]): Promise<string> {
  const place = ['--name=check', '--ioengine=nbd', `--uri=${server.uri(volume)}`, '--thread']
  // fio leaves the state of its checks in the working directory.
  const options = { timeoutMs: 100_000, cwd: scratch.directory }
  return await runOk('fio', [...place, '--verify_fatal=1', ...args], options)
}

testNeeding({ programs: ['fio'] }, 'fio reads back what it wrote in mixed sizes', async () => {
  await server.createVolume('mixed', '128MiB')
  await fio(
    'mixed',
    '--rw=randrw',
    '--rwmixread=40',
    '--bsrange=4k-256k',
    '--iodepth=32',
    '--size=128M',
    '--verify=crc32c',
    '--verify_backlog=512'
  )
})

testNeeding({ programs: ['fio'] }, 'fio reads back unaligned blocks', async () => {
  await server.createVolume('odd', '32MiB')
  // The last written wins: depth 1 keeps fio from having two writes of one block in flight.
  const shape = ['--rw=randwrite', '--bsrange=512-20k', '--bs_unaligned', '--iodepth=1']
  await fio('odd', ...shape, '--size=16M', '--verify=crc32c', '--fsync=64')
})

testNeeding({ programs: ['fio'] }, 'four connections of one client see each other', async () => {
  await server.createVolume('multi', '256MiB')
  const jobs = ['--numjobs=4', '--size=32M', '--offset_increment=32M']
  await fio('multi', ...jobs, '--rw=randwrite', '--bs=8k', '--iodepth=16', '--verify=crc32c')
  // Another process reads, over other connections, what those four wrote.
  const check = ['--verify=crc32c', '--verify_only', '--rw=randwrite', '--bs=8k', '--iodepth=16']
  await fio('multi', ...jobs, ...check)
})

testNeeding({ programs: ['fio'] }, '64 connections are served at once', async () => {
  await server.createVolume('crowd', '256MiB')
  const jobs = ['--numjobs=64', '--size=2M', '--offset_increment=4M', '--group_reporting']
  await fio('crowd', ...jobs, '--rw=randwrite', '--bs=4k', '--iodepth=4', '--verify=crc32c')
})

/** Random writes, trims, zeroes and reads, many in flight on ranges apart, against a bytearray. */
const MODEL_PROGRAM = `
import nbd, random, sys
uri, seed = sys.argv[1], int(sys.argv[2])
random.seed(seed)
handles = []
for _ in range(2):
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    handles.append(h)
size = handles[0].get_size()
model = bytearray(size)
SLOTS = 32
span = size // SLOTS
def step(h, slot):
    first = slot * span + random.randrange(span)
    length = random.choice([1, 511, 512, 4096, 4097, 8192, 65536, 300000])
    length = min(length, (slot + 1) * span - first)
    if random.random() < 0.5:
        first -= first % 4096
        length = max(4096, length - length % 4096)
        length = min(length, (slot + 1) * span - first)
    kind = random.choice(['write', 'write', 'write', 'zero', 'hole', 'trim', 'read', 'read'])
    fua = nbd.CMD_FLAG_FUA if random.random() < 0.02 else 0
    if kind == 'write':
        data = random.randbytes(length)
        model[first:first + length] = data
        return h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), first, flags=fua), None
    if kind == 'zero':
        model[first:first + length] = bytes(length)
        return h.aio_zero(length, first, flags=nbd.CMD_FLAG_NO_HOLE | fua), None
    if kind == 'hole':
        model[first:first + length] = bytes(length)
        return h.aio_zero(length, first, flags=fua), None
    if kind == 'trim':
        # What a trim leaves of blocks it covers only in part is up to the server: whole blocks.
        first += -first % 4096
        length = (min(first + length, (slot + 1) * span) - first) // 4096 * 4096
        if length > 0:
            model[first:first + length] = bytes(length)
            return h.aio_trim(length, first, flags=fua), None
        first, length = slot * span, 4096
    buffer = nbd.Buffer(length)
    expected = bytes(model[first:first + length])
    return h.aio_pread(buffer, first), (buffer, expected, first)
total = 0
for round in range(60):
    out = []
    for slot in range(SLOTS):
        h = handles[slot % 2]
        cookie, check = step(h, slot)
        out.append((h, cookie, check))
    for h, cookie, check in out:
        while not h.aio_command_completed(cookie):
            h.poll(-1)
        if check is not None:
            buffer, expected, first = check
            if bytes(buffer.to_bytearray()) != expected:
                raise SystemExit(f'other bytes at {first}, round {round}, seed {seed}')
        total += 1
    if round % 10 == 0:
        handles[0].flush()
at = 0
while at < size:
    length = min(1 << 20, size - at)
    if bytes(handles[1].pread(length, at)) != bytes(model[at:at + length]):
        raise SystemExit(f'other bytes in the megabyte at {at}, seed {seed}')
    at += length
for h in handles:
    h.shutdown()
print(total)
`

for (const seed of [1, 2, 3]) {
  testNeeding(
    { programs: ['python3-libnbd'] },
    `a volume answers libnbd as an array of bytes does (SEED=${seed})`,
    async () => {
      await server.createVolume(`model-${seed}`, '32MiB')
      const total = await libnbd(MODEL_PROGRAM, server.uri(`model-${seed}`), String(seed))
      strictEqual(Number(total), 60 * 32)
    }
  )
}

test.run()
