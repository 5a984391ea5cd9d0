import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { nbdErrorOf } from '../../src/nbd/errors.ts'
import * as p from '../../src/nbd/protocol.ts'
import { RequestFlag, RequestKind } from '../../src/volume/request.ts'
import { BlockState } from '../helpers/memory-devices.ts'
import { MIB, pattern, serving, until } from '../helpers/nbd-serving.ts'
import type { NbdWireClient } from '../helpers/nbd-wire-client.ts'

const test = suite('nbd transmission')
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')

/** Modes a client can negotiate. */
const modes = [
  ['simple', {}],
  ['structured', { structured: true, contexts: ['base:allocation'] }],
  ['extended', { extended: true, contexts: ['base:allocation'] }]
] as const

test('simple replies have these bytes', () =>
  serving(async ({ connect, demo }) => {
    Buffer.from('torus').copy(demo.bytes, 4095)
    const client = await connect()
    await client.attach('demo')
    client.command({ type: p.NBD_CMD_READ, offset: 4095, length: 5, cookie: 0x1122334455667788n })
    const read = hex('67446698 00000000 1122334455667788 746f727573')
    deepStrictEqual(await client.read(read.length), read)
    client.command({ type: p.NBD_CMD_FLUSH, cookie: 0xfedcba9876543210n })
    const flush = hex('67446698 00000000 fedcba9876543210')
    deepStrictEqual(await client.read(flush.length), flush)
    client.command({ type: p.NBD_CMD_READ, offset: 64 * MIB, length: 1, cookie: 2n })
    const error = hex('67446698 00000016 0000000000000002')
    deepStrictEqual(await client.read(error.length), error)
  }))

test('structured replies have these bytes', () =>
  serving(async ({ connect, demo }) => {
    Buffer.from('torus').copy(demo.bytes, 4095)
    demo.states.fill(BlockState.Data, 0, 2)
    const client = await connect()
    await client.attach('demo', { structured: true, contexts: ['base:allocation'] })
    const golden = async (command: object, bytes: string) => {
      client.command({ type: p.NBD_CMD_READ, cookie: 7n, ...command })
      const expected = hex(bytes)
      deepStrictEqual(await client.read(expected.length), expected)
    }
    // OFFSET_DATA
    await golden(
      { offset: 4095, length: 5 },
      '668e33ef 0001 0001 0000000000000007 0000000d 0000000000000fff 746f727573'
    )
    // OFFSET_HOLE
    await golden(
      { offset: 8192, length: 4096 },
      '668e33ef 0001 0002 0000000000000007 0000000c 0000000000002000 00001000'
    )
    // BLOCK_STATUS
    await golden(
      { type: p.NBD_CMD_BLOCK_STATUS, offset: 0, length: 16384 },
      `668e33ef 0001 0005 0000000000000007 00000014 00000001
       00002000 00000000 00002000 00000003`
    )
    // ERROR
    await golden(
      { type: p.NBD_CMD_TRIM, length: 0 },
      '668e33ef 0001 8001 0000000000000007 00000014 00000016 000e 6c656e677468206973207a65726f'
    )
    // ERROR_OFFSET
    demo.fail = () => ErrorCode.ChecksumMismatch
    await golden(
      { offset: 4096, length: 8192 },
      `668e33ef 0001 8002 0000000000000007 0000001e 00000005 0010
       436865636b73756d4d69736d61746368 0000000000001000`
    )
  }))

test('extended replies have these bytes', () =>
  serving(async ({ connect, demo }) => {
    Buffer.from('torus').copy(demo.bytes, 4095)
    demo.states.fill(BlockState.Data, 0, 2)
    demo.states.fill(BlockState.Zero, 2, 3)
    const client = await connect()
    await client.attach('demo', { extended: true, contexts: ['base:allocation'] })
    const golden = async (command: object, bytes: string) => {
      client.command({ type: p.NBD_CMD_READ, cookie: 7n, ...command })
      const expected = hex(bytes)
      deepStrictEqual(await client.read(expected.length), expected)
    }
    // OFFSET_DATA: the header repeats the offset of the request
    await golden(
      { offset: 4095, length: 5 },
      `6e8a278c 0001 0001 0000000000000007 0000000000000fff 000000000000000d
       0000000000000fff 746f727573`
    )
    // OFFSET_HOLE
    await golden(
      { offset: 8192, length: 4096 },
      `6e8a278c 0001 0002 0000000000000007 0000000000002000 000000000000000c
       0000000000002000 00001000`
    )
    // BLOCK_STATUS_EXT
    await golden(
      { type: p.NBD_CMD_BLOCK_STATUS, offset: 4096, length: 16384 },
      `6e8a278c 0001 0006 0000000000000007 0000000000001000 0000000000000038
       00000001 00000003
       0000000000001000 0000000000000000
       0000000000001000 0000000000000002
       0000000000002000 0000000000000003`
    )
    // NONE
    await golden(
      { type: p.NBD_CMD_TRIM, offset: 4096, length: 4096 },
      '6e8a278c 0001 0000 0000000000000007 0000000000001000 0000000000000000'
    )
    // ERROR
    await golden(
      { type: 99 },
      `6e8a278c 0001 8001 0000000000000007 0000000000000000 0000000000000015
       00000016 000f 756e6b6e6f776e20636f6d6d616e64`
    )
  }))

for (const [mode, options] of modes) {
  test(`${mode}: what is written at any offset and length is read back`, () =>
    serving(async ({ connect }) => {
      const client = await connect()
      await client.attach('demo', options)
      const lengths = [1, 511, 4096, 16_384, 16_385, 32_768, 32_769, 65_536, MIB, MIB + 1]
      for (const [index, length] of [...lengths, 5 * MIB + 77, 32 * MIB].entries()) {
        const payload = pattern(length, index)
        await client.writeRange(index * 12_345, payload)
        ok(payload.equals(await client.readRange(index * 12_345, length)), `${length} bytes`)
      }
      strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    }))

  test(`${mode}: commands that break the rules get the error the specification names`, () =>
    serving(async ({ connect, source }) => {
      const size = 64 * MIB
      source.add('fixed', MIB, { readOnly: true })
      const client = await connect()
      await client.attach('demo', options)
      const check = async (command: object, error: number, to: NbdWireClient = client) =>
        strictEqual(await to.errorOf({ type: 0, ...command }), error, JSON.stringify(command))
      const { NBD_CMD_READ: read, NBD_CMD_TRIM: trim, NBD_CMD_CACHE: cache } = p
      const { NBD_CMD_WRITE_ZEROES: zeroes, NBD_CMD_FLUSH: flush, NBD_EINVAL: invalid } = p
      // Past the end: ENOSPC for what writes, EINVAL for what reads or trims.
      for (const type of [read, trim, cache]) {
        await check({ type, offset: size, length: 1 }, invalid)
        await check({ type, offset: size - 4096, length: 4097 }, invalid)
        await check({ type, offset: 0x8000_0000, length: 0xffff_ffff }, invalid)
      }
      await check({ type: zeroes, offset: size, length: 1 }, p.NBD_ENOSPC)
      await check({ type: p.NBD_CMD_WRITE, offset: size, payload: pattern(10) }, p.NBD_ENOSPC)
      const large = pattern(70_000)
      await check({ type: p.NBD_CMD_WRITE, offset: size - 1, payload: large }, p.NBD_ENOSPC)
      // Zero lengths
      for (const type of [read, trim, cache, zeroes]) await check({ type, length: 0 }, invalid)
      // Unknown commands and flags
      for (const type of [8, 9, 0xffff]) await check({ type, length: 1 }, invalid)
      const { NBD_CMD_FLAG_NO_HOLE: noHole, NBD_CMD_FLAG_REQ_ONE: one } = p
      for (const flags of [noHole, one, 1 << 5, 1 << 15]) {
        if (mode === 'extended' && flags === 1 << 5) continue
        await check({ type: read, length: 1, flags }, invalid)
        await check({ type: flush, flags }, invalid)
        await check({ type: p.NBD_CMD_WRITE, payload: large, flags: (flags & ~32) | one }, invalid)
      }
      const df = mode === 'simple' ? invalid : 0
      await check({ type: read, length: 1, flags: p.NBD_CMD_FLAG_DF }, df)
      // FUA goes with every command.
      for (const type of [read, trim, cache, zeroes]) await check({ type, length: 1, flags: 1 }, 0)
      await check({ type: flush, flags: 1 }, 0)
      await check({ type: flush, length: 1 }, invalid)
      await check({ type: flush, offset: 1 }, invalid)
      // Read-only
      const fixed = await connect()
      await fixed.attach('fixed', options)
      for (const type of [trim, zeroes]) await check({ type, length: 1 }, p.NBD_EPERM, fixed)
      await check({ type: p.NBD_CMD_WRITE, payload: large }, p.NBD_EPERM, fixed)
      await check({ type: read, length: 1 }, 0, fixed)
    }))

  test(`${mode}: every error of the store reads as its table says`, () =>
    serving(async ({ connect, demo }) => {
      const client = await connect()
      await client.attach('demo', options)
      // Closed has no answer: see "cut off" in server.test.ts.
      const codes = Object.values(ErrorCode).filter((code) => code !== ErrorCode.Closed)
      for (const code of codes) {
        demo.fail = () => code
        const expected = nbdErrorOf[code]
        for (const type of [p.NBD_CMD_READ, p.NBD_CMD_TRIM, p.NBD_CMD_CACHE]) {
          strictEqual(await client.errorOf({ type, length: 4096 }), expected)
        }
        strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), expected)
        for (const length of [512, 40_000, 3 * MIB]) {
          const write = { type: p.NBD_CMD_WRITE, payload: pattern(length), flags: 1 }
          strictEqual(await client.errorOf(write), expected)
        }
      }
    }))
}

test('flags reach the volume: FUA, NO_HOLE', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.attach('demo')
    demo.record = true
    const { NBD_CMD_FLAG_FUA: fua, NBD_CMD_FLAG_NO_HOLE: noHole } = p
    const { NBD_CMD_FLAG_FAST_ZERO: fast, NBD_CMD_WRITE_ZEROES: type } = p
    await client.writeRange(0, pattern(4096), fua)
    await client.errorOf({ type: p.NBD_CMD_TRIM, length: 4096, flags: fua })
    await client.errorOf({ type, length: 8192, flags: fua | noHole | fast })
    await client.errorOf({ type, length: 8192 })
    await client.errorOf({ type: p.NBD_CMD_CACHE, length: 64 * MIB })
    deepStrictEqual(
      demo.seen.map(({ kind, flags }) => [kind, flags]),
      [
        [RequestKind.Write, RequestFlag.Fua],
        [RequestKind.Trim, RequestFlag.Fua],
        [RequestKind.WriteZeroes, RequestFlag.Fua | RequestFlag.NoHole],
        [RequestKind.WriteZeroes, 0],
        [RequestKind.Cache, 0]
      ]
    )
  }))

test('a write of many pieces with FUA is flushed once, after all of them', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.attach('demo')
    demo.record = true
    await client.writeRange(4096, pattern(5 * MIB), p.NBD_CMD_FLAG_FUA)
    const kinds = demo.seen.map(({ kind }) => kind)
    strictEqual(kinds.filter((kind) => kind === RequestKind.Flush).length, 1)
    strictEqual(kinds.at(-1), RequestKind.Flush)
    // The first piece ends at a multiple of the transfer size.
    strictEqual(demo.seen[0]!.length, MIB - 4096)
  }))

test('FAST_ZERO fails where zeroing is as slow as writing', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.attach('demo')
    const flags = p.NBD_CMD_FLAG_FAST_ZERO
    const type = p.NBD_CMD_WRITE_ZEROES
    strictEqual(await client.errorOf({ type, offset: 0, length: 4096, flags }), 0)
    strictEqual(await client.errorOf({ type, offset: 1, length: 8191, flags }), 0)
    strictEqual(await client.errorOf({ type, offset: 1, length: 8190, flags }), p.NBD_ENOTSUP)
    strictEqual(await client.errorOf({ type, offset: 1, length: 8190 }), 0)
  }))

test('trim and write zeroes take any length, 64 bits of it with extended headers', () =>
  serving(
    async ({ connect, source, demo }) => {
      const compact = await connect()
      await compact.attach('demo')
      strictEqual(await compact.errorOf({ type: p.NBD_CMD_TRIM, length: 200 * MIB }), 0)
      // As large as a volume may be: the volume itself does nothing here.
      const huge = source.add('huge', 4096)
      huge.sizeBytes = 8 * 2 ** 40
      huge.record = true
      huge.fail = () => ErrorCode.OutOfSpace
      const client = await connect()
      await client.attach('huge', { extended: true })
      const length = 5 * 2 ** 40
      const type = p.NBD_CMD_TRIM
      strictEqual(await client.errorOf({ type, offset: 2 ** 40, length }), p.NBD_ENOSPC)
      deepStrictEqual(huge.seen, [{ kind: RequestKind.Trim, flags: 0, offset: 2 ** 40, length }])
      strictEqual(demo.states[0], BlockState.Hole)
    },
    { sizeBytes: 200 * MIB }
  ))

test('reads over the maximum are refused: EINVAL, or EOVERFLOW with structured replies', () =>
  serving(async ({ connect }) => {
    const simple = await connect()
    await simple.attach('demo')
    const read = { type: p.NBD_CMD_READ, length: 32 * MIB + 1 }
    strictEqual(await simple.errorOf(read), p.NBD_EINVAL)
    const structured = await connect()
    await structured.attach('demo', { structured: true })
    strictEqual(await structured.errorOf(read), p.NBD_EOVERFLOW)
  }))

test('a payload over the maximum ends the session, others go on', () =>
  serving(async ({ connect, server }) => {
    const other = await connect()
    await other.attach('demo')
    for (const options of [{}, { extended: true }]) {
      const client = await connect()
      await client.attach('demo', options)
      const payload = Buffer.alloc(0)
      client.command({ type: p.NBD_CMD_WRITE, length: 32 * MIB + 1, payload })
      strictEqual((await client.readToEnd()).length, 0)
    }
    strictEqual(server.snapshot().protocolErrors, 2)
    strictEqual(await other.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  }))

test('wrong request magic ends the session, also that of the other header', () =>
  serving(async ({ connect }) => {
    for (const [options, magic] of [
      [{}, p.NBD_EXTENDED_REQUEST_MAGIC],
      [{ extended: true }, p.NBD_REQUEST_MAGIC],
      [{}, 0x12560953]
    ] as const) {
      const client = await connect()
      await client.attach('demo', options)
      const bytes = client.commandBytes({ type: p.NBD_CMD_FLUSH })
      bytes.writeUInt32BE(magic)
      client.write(bytes)
      strictEqual((await client.readToEnd()).length, 0)
    }
  }))

test('payloads of refused writes are dropped and the next command is understood', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.attach('demo')
    const length = 64 * MIB
    for (const size of [1, 4096, 100_000, 3 * MIB]) {
      // A payload of valid requests must not be taken for some.
      const trap = client.commandBytes({ type: p.NBD_CMD_TRIM, length })
      const payload = Buffer.alloc(size, trap)
      const write = { type: p.NBD_CMD_WRITE, offset: length, payload, cookie: 5n }
      client.write(Buffer.concat([client.commandBytes(write), client.commandBytes({ type: 3 })]))
      deepStrictEqual(await client.simpleReply(), { error: p.NBD_ENOSPC, cookie: 5n })
      deepStrictEqual(await client.simpleReply(), { error: 0, cookie: 1n })
    }
    strictEqual(demo.states[0], BlockState.Hole)
  }))

test('with extended headers payloads are told by their flag alone', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.attach('demo', { extended: true })
    const flag = p.NBD_CMD_FLAG_PAYLOAD_LEN
    // A write without the flag has no payload, whatever its length says.
    const bare = { type: p.NBD_CMD_WRITE, length: 4096 }
    strictEqual(await client.errorOf(bare), p.NBD_EINVAL)
    // Commands that take none, sent with one: consumed, refused.
    for (const type of [p.NBD_CMD_READ, p.NBD_CMD_TRIM, p.NBD_CMD_FLUSH, 77]) {
      const command = { type, payload: pattern(50_000) }
      strictEqual(await client.errorOf(command), p.NBD_EINVAL)
    }
    // An empty payload is none.
    strictEqual(await client.errorOf({ type: p.NBD_CMD_WRITE, flags: flag }), p.NBD_EINVAL)
    const status = { type: p.NBD_CMD_BLOCK_STATUS, payload: pattern(12) }
    strictEqual(await client.errorOf(status), p.NBD_EINVAL)
    strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  }))

test('zeroes inside a read are sent as holes, and as data with DF', () =>
  serving(async ({ connect, demo }) => {
    const cell = 64 * 1024
    pattern(cell).copy(demo.bytes, 2 * cell)
    pattern(cell).copy(demo.bytes, 3 * cell)
    const client = await connect()
    await client.attach('demo', { structured: true })
    client.command({ type: p.NBD_CMD_READ, offset: 0, length: 6 * cell })
    const chunks = await client.reply()
    const { NBD_REPLY_TYPE_OFFSET_HOLE: hole, NBD_REPLY_TYPE_OFFSET_DATA: data } = p
    deepStrictEqual(
      chunks.map(({ type, flags }) => [type, flags]),
      [
        [hole, 0],
        [data, 0],
        [hole, 1]
      ]
    )
    strictEqual(chunks[1]!.payload.length, 8 + 2 * cell)
    const flags = p.NBD_CMD_FLAG_DF
    client.command({ type: p.NBD_CMD_READ, offset: 0, length: 6 * cell, flags })
    const whole = await client.reply()
    deepStrictEqual(
      whole.map(({ type }) => type),
      [data]
    )
    strictEqual(whole[0]!.payload.length, 8 + 6 * cell)
    ok((await client.readRange(100, 9 * MIB)).equals(demo.bytes.subarray(100, 100 + 9 * MIB)))
  }))

test('a read of many pieces with DF is one chunk, and its errors follow it', () =>
  serving(async ({ connect, demo }) => {
    pattern(8 * MIB).copy(demo.bytes)
    const client = await connect()
    await client.attach('demo', { structured: true })
    const read = { type: p.NBD_CMD_READ, length: 8 * MIB, flags: p.NBD_CMD_FLAG_DF }
    client.command(read)
    const whole = await client.reply()
    deepStrictEqual(
      whole.map(({ type }) => type),
      [p.NBD_REPLY_TYPE_OFFSET_DATA, p.NBD_REPLY_TYPE_NONE]
    )
    ok(whole[0]!.payload.subarray(8).equals(demo.bytes.subarray(0, 8 * MIB)))
    demo.fail = ({ offset }) => (offset === 5 * MIB ? ErrorCode.ChecksumMismatch : 0)
    client.command(read)
    const failed = await client.reply()
    deepStrictEqual(
      failed.map(({ type }) => type),
      [p.NBD_REPLY_TYPE_OFFSET_DATA, p.NBD_REPLY_TYPE_ERROR_OFFSET]
    )
    const { payload } = failed[1]!
    strictEqual(payload.readUInt32BE(0), p.NBD_EIO)
    strictEqual(Number(payload.readBigUInt64BE(payload.length - 8)), 5 * MIB)
    ok(failed[0]!.payload.subarray(8 + 5 * MIB, 8 + 6 * MIB).equals(Buffer.alloc(MIB)))
    demo.fail = () => ErrorCode.DiskFailure
    client.command(read)
    deepStrictEqual(
      (await client.reply()).map(({ type }) => type),
      [p.NBD_REPLY_TYPE_ERROR_OFFSET]
    )
  }))

test('a structured read of many pieces names the pieces that failed', () =>
  serving(async ({ connect, demo }) => {
    pattern(6 * MIB).copy(demo.bytes)
    demo.fail = ({ offset }) => (offset % (2 * MIB) === 0 ? 0 : ErrorCode.ChecksumMismatch)
    const client = await connect()
    await client.attach('demo', { structured: true })
    client.command({ type: p.NBD_CMD_READ, length: 6 * MIB })
    const failed: number[] = []
    let bytes = 0
    for (const { type, payload } of await client.reply()) {
      if (type === p.NBD_REPLY_TYPE_ERROR_OFFSET) {
        failed.push(Number(payload.readBigUInt64BE(payload.length - 8)))
      } else bytes += payload.length - 8
    }
    deepStrictEqual(
      failed.sort((a, b) => a - b),
      [MIB, 3 * MIB, 5 * MIB]
    )
    strictEqual(bytes, 3 * MIB)
  }))

test('a simple read that fails behind its header ends the session', () =>
  serving(async ({ connect, demo }) => {
    demo.fail = ({ offset }) => (offset === 5 * MIB ? ErrorCode.DiskFailure : 0)
    const client = await connect()
    await client.attach('demo')
    client.command({ type: p.NBD_CMD_READ, length: 8 * MIB })
    strictEqual((await client.simpleReply()).error, 0)
    ok((await client.readToEnd()).length <= 5 * MIB)
    // One that fails in its first piece is answered with the error alone.
    demo.fail = ({ length }) => (length === MIB ? ErrorCode.DiskFailure : 0)
    const second = await connect()
    await second.attach('demo')
    strictEqual(await second.errorOf({ type: p.NBD_CMD_READ, length: 8 * MIB }), p.NBD_EIO)
    strictEqual(await second.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
  }))

test('while a large simple read is sent, other answers wait for its end', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.attach('demo')
    pattern(32 * MIB).copy(demo.bytes)
    const commands = [
      client.commandBytes({ type: p.NBD_CMD_READ, length: 32 * MIB, cookie: 1n }),
      client.commandBytes({ type: p.NBD_CMD_FLUSH, cookie: 2n }),
      client.commandBytes({ type: p.NBD_CMD_READ, offset: 0, length: 20 * MIB, cookie: 3n }),
      client.commandBytes({ type: 99, cookie: 4n }),
      client.commandBytes({ type: p.NBD_CMD_READ, offset: 4096, length: 4096, cookie: 5n })
    ]
    client.write(Buffer.concat(commands))
    const lengths = new Map([
      [1n, 32 * MIB],
      [3n, 20 * MIB],
      [5n, 4096]
    ])
    for (let index = 0; index < commands.length; index++) {
      const { cookie } = await client.simpleReply()
      const length = lengths.get(cookie) ?? 0
      const from = cookie === 5n ? 4096 : 0
      ok((await client.read(length)).equals(demo.bytes.subarray(from, from + length)))
    }
  }))

test('answers come as requests finish, not in the order of the requests', () =>
  serving(async ({ connect, demo, source }) => {
    const client = await connect()
    await client.attach('demo')
    demo.holding = true
    client.command({ type: p.NBD_CMD_READ, length: 4096, cookie: 1n })
    await until(() => demo.held.length === 1)
    const held = demo.held.splice(0)
    demo.holding = false
    client.command({ type: p.NBD_CMD_FLUSH, cookie: 2n })
    strictEqual((await client.simpleReply()).cookie, 2n)
    demo.held.push(...held)
    source.release(demo)
    strictEqual((await client.simpleReply()).cookie, 1n)
    await client.read(4096)
  }))

test('requests in single bytes are understood', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.attach('demo', { structured: true })
    const bytes = Buffer.concat([
      client.commandBytes({ type: p.NBD_CMD_WRITE, offset: 5, payload: pattern(300) }),
      client.commandBytes({ type: p.NBD_CMD_FLUSH })
    ])
    for (const byte of bytes) {
      client.write(Buffer.from([byte]))
      await new Promise((resolve) => setImmediate(resolve))
    }
    await client.reply()
    await client.reply()
    ok(demo.bytes.subarray(5, 305).equals(pattern(300)))
  }))

test('one doorbell serves a batch of requests', () =>
  serving(async ({ connect, source }) => {
    const client = await connect()
    await client.attach('demo')
    const rings = source.rings
    const one = client.commandBytes({ type: p.NBD_CMD_CACHE, length: 4096 })
    client.write(Buffer.concat(Array.from({ length: 100 }, () => one)))
    for (let index = 0; index < 100; index++) await client.simpleReply()
    ok(source.rings - rings <= 4, `${source.rings - rings} rings`)
  }))

test('counters and the client list tell what was done', () =>
  serving(async ({ connect, server, demo }) => {
    const client = await connect()
    await client.attach('demo')
    await client.writeRange(0, pattern(5000))
    await client.readRange(0, 3000)
    demo.fail = () => ErrorCode.DiskFailure
    await client.errorOf({ type: p.NBD_CMD_TRIM, length: 4096 })
    const [info] = server.listClients()
    const { volume, reads, writes, readBytes, writtenBytes, inFlight, protocol, tls } = info!
    deepStrictEqual(
      { volume, reads, writes, readBytes, writtenBytes, inFlight, protocol, tls },
      {
        volume: 'demo',
        reads: 1,
        writes: 1,
        readBytes: 3000,
        writtenBytes: 5000,
        inFlight: 0,
        protocol: 'nbd',
        tls: false
      }
    )
    const snapshot = server.snapshot()
    strictEqual(snapshot.connectionsOpen, 1)
    const of = (name: string) => snapshot.operations.find((each) => each.operation === name)!
    strictEqual(of('write').bytes, 5000)
    strictEqual(of('trim').errors, 1)
    strictEqual(of('trim').bytes, 0)
    strictEqual(
      of('read').latency.counts.reduce((sum, count) => sum + count, 0),
      1
    )
  }))

test.run()
