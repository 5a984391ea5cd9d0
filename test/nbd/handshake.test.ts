import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { OPTION_BYTES_MAX, OPTION_SKIP_BYTES_MAX } from '../../src/nbd/limits.ts'
import * as p from '../../src/nbd/protocol.ts'
import { MIB, type Serving, serving, until } from '../helpers/nbd-serving.ts'
import { IHAVEOPT, infoData, metaData, optionBytes, u32 } from '../helpers/nbd-wire-client.ts'

const test = suite('nbd handshake')
const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const types = (replies: { type: number }[]): number[] => replies.map((reply) => reply.type)

test('the greeting has these bytes', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    deepStrictEqual(await client.greet(), hex('4e42444d41474943 49484156454f5054 0003'))
  }))

test('the replies to NBD_OPT_GO have these bytes', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    client.write(optionBytes(p.NBD_OPT_GO, infoData('demo', [3, 2, 1])))
    const expected = hex(`
      0003e889045565a9 00000007 00000003 0000000c 0000 0000000004000000 0d6d
      0003e889045565a9 00000007 00000003 00000006 0001 64656d6f
      0003e889045565a9 00000007 00000003 00000008 0002 612074657374
      0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000
      0003e889045565a9 00000007 00000001 00000000`)
    deepStrictEqual(await client.read(expected.length), expected)
  }))

test('NBD_OPT_EXPORT_NAME is answered with 124 zeroes, or without them if so agreed', () =>
  serving(async ({ connect }) => {
    const about = hex('0000000004000000 0d6d')
    for (const [flags, zeroes] of [
      [p.NBD_FLAG_C_FIXED_NEWSTYLE, 124],
      [0, 124],
      [p.NBD_FLAG_C_FIXED_NEWSTYLE | p.NBD_FLAG_C_NO_ZEROES, 0],
      [p.NBD_FLAG_C_NO_ZEROES, 0]
    ] as const) {
      const client = await connect()
      await client.greet(flags)
      client.write(optionBytes(p.NBD_OPT_EXPORT_NAME, Buffer.from('demo')))
      const expected = Buffer.concat([about, Buffer.alloc(zeroes)])
      deepStrictEqual(await client.read(expected.length), expected)
      strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    }
  }))

test('NBD_OPT_EXPORT_NAME of an unknown export ends the session', () =>
  serving(async ({ connect }) => {
    for (const name of ['nothing', 'a\0b', 'x'.repeat(4097)]) {
      const client = await connect()
      await client.greet()
      client.write(optionBytes(p.NBD_OPT_EXPORT_NAME, Buffer.from(name)))
      strictEqual((await client.readToEnd()).length, 0)
    }
  }))

test('exports are listed by name, with their descriptions', () =>
  serving(async ({ connect, source }) => {
    source.add('archive', MIB, { readOnly: true })
    const client = await connect()
    await client.greet()
    const replies = await client.option(p.NBD_OPT_LIST)
    deepStrictEqual(types(replies), [p.NBD_REP_SERVER, p.NBD_REP_SERVER, p.NBD_REP_ACK])
    deepStrictEqual(replies[0]!.data, Buffer.concat([u32(7), Buffer.from('archive')]))
    deepStrictEqual(replies[1]!.data, Buffer.concat([u32(4), Buffer.from('demoa test')]))
  }))

test('ten thousand exports are listed', () =>
  serving(async ({ connect, source }) => {
    for (let index = 0; index < 10_000; index++) {
      source.add(`volume-${index}`, 4096)
    }
    const client = await connect()
    await client.greet()
    strictEqual((await client.option(p.NBD_OPT_LIST)).length, 10_002)
  }))

test('the empty name is the only export, or the configured one', async () => {
  await serving(async ({ connect, source }) => {
    const client = await connect()
    strictEqual((await client.attach('')).sizeBytes, 64 * MIB)
    source.add('other', MIB)
    const second = await connect()
    await second.greet()
    deepStrictEqual(types(await second.option(p.NBD_OPT_INFO, infoData(''))), [
      p.NBD_REP_ERR_UNKNOWN
    ])
  })
  await serving(
    async ({ connect, source }) => {
      source.add('other', MIB)
      const client = await connect()
      strictEqual((await client.attach('')).sizeBytes, MIB)
    },
    { options: { defaultExport: 'other' } }
  )
})

test('NBD_OPT_INFO tells the same as NBD_OPT_GO and leaves the handshake open', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.greet()
    const told = await client.mustAck(p.NBD_OPT_INFO, infoData('demo', [1]))
    strictEqual(demo.opens, 0)
    const entered = await client.mustAck(p.NBD_OPT_GO, infoData('demo', [1]))
    deepStrictEqual(
      told.map(({ type, data }) => ({ type, data })),
      entered.map(({ type, data }) => ({ type, data }))
    )
    strictEqual(demo.opens, 1)
  }))

test('transmission flags follow what was negotiated and the export', () =>
  serving(async ({ connect, source }) => {
    source.add('fixed', MIB, { readOnly: true })
    const flagsOf = async (name: string, options: object) =>
      (await (await connect()).attach(name, options)).flags
    const writable = 0b1101_0110_1101
    strictEqual(await flagsOf('demo', {}), writable)
    strictEqual(await flagsOf('demo', { structured: true }), writable | p.NBD_FLAG_SEND_DF)
    strictEqual(await flagsOf('demo', { extended: true }), writable | p.NBD_FLAG_SEND_DF)
    strictEqual(
      await flagsOf('demo', { extended: true, contexts: ['base:allocation'] }),
      writable | p.NBD_FLAG_SEND_DF | p.NBD_FLAG_BLOCK_STATUS_PAYLOAD
    )
    const readOnly = await flagsOf('fixed', {})
    ok((readOnly & p.NBD_FLAG_READ_ONLY) !== 0)
    strictEqual(readOnly & (p.NBD_FLAG_SEND_TRIM | p.NBD_FLAG_SEND_WRITE_ZEROES), 0)
    strictEqual(readOnly & p.NBD_FLAG_SEND_FAST_ZERO, 0)
  }))

test('unknown options are refused, and the next ones are understood', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    for (const option of [0, 4, 12, 77, 2 ** 32 - 1]) {
      const replies = await client.option(option, Buffer.from('anything'))
      deepStrictEqual(replies, [{ option, type: p.NBD_REP_ERR_UNSUP, data: Buffer.alloc(0) }])
    }
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
  }))

test('options with data that must have none are invalid', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    for (const option of [
      p.NBD_OPT_LIST,
      p.NBD_OPT_STARTTLS,
      p.NBD_OPT_STRUCTURED_REPLY,
      p.NBD_OPT_EXTENDED_HEADERS
    ]) {
      deepStrictEqual(types(await client.option(option, Buffer.alloc(1))), [p.NBD_REP_ERR_INVALID])
    }
  }))

test('malformed NBD_OPT_GO and NBD_OPT_INFO are invalid', () =>
  serving(async ({ connect }) => {
    const good = infoData('demo', [1])
    const client = await connect()
    await client.greet()
    for (const data of [
      Buffer.alloc(0),
      Buffer.alloc(5),
      good.subarray(0, -1),
      Buffer.concat([good, Buffer.alloc(1)]),
      Buffer.concat([u32(5), good.subarray(4)]),
      Buffer.concat([u32(2 ** 32 - 1), good.subarray(4)]),
      infoData('de\0mo'),
      Buffer.concat([u32(2), Buffer.from([0xc3, 0x28]), Buffer.alloc(2)]),
      infoData('x'.repeat(4097))
    ]) {
      for (const option of [p.NBD_OPT_INFO, p.NBD_OPT_GO]) {
        deepStrictEqual(types(await client.option(option, data)), [p.NBD_REP_ERR_INVALID])
      }
    }
    await client.mustAck(p.NBD_OPT_GO, good)
  }))

test('an export that cannot be opened is refused with the reason', () =>
  serving(async ({ connect, source }) => {
    const client = await connect()
    await client.greet()
    const missing = await client.option(p.NBD_OPT_GO, infoData('nothing'))
    strictEqual(missing[0]!.type, p.NBD_REP_ERR_UNKNOWN)
    match(missing[0]!.data.toString(), /nothing/)
    source.refuse = ErrorCode.Busy
    const busy = await client.option(p.NBD_OPT_GO, infoData('demo'))
    strictEqual(busy[0]!.type, p.NBD_REP_ERR_POLICY)
    match(busy[0]!.data.toString(), /demo/)
    source.refuse = ErrorCode.Ok
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
  }))

test('NBD_OPT_ABORT is acknowledged, whatever data it has, and ends the session', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    deepStrictEqual(types(await client.option(p.NBD_OPT_ABORT, Buffer.alloc(9))), [p.NBD_REP_ACK])
    strictEqual((await client.readToEnd()).length, 0)
  }))

test('wrong magic and unknown client flags end the session', () =>
  serving(async ({ connect, server }) => {
    for (const bytes of [
      u32(4),
      u32(2 ** 31),
      Buffer.concat([u32(1), Buffer.from('IHAVEOPX'), u32(3), u32(0)]),
      Buffer.concat([u32(1), Buffer.alloc(16, 0xff)]),
      Buffer.concat([u32(1), IHAVEOPT, u32(3), u32(OPTION_SKIP_BYTES_MAX + 1)])
    ]) {
      const client = await connect()
      await client.read(18)
      client.write(bytes)
      strictEqual((await client.readToEnd()).length, 0)
    }
    strictEqual(server.snapshot().handshakeFailures, 5)
  }))

test('without fixed newstyle only NBD_OPT_EXPORT_NAME is understood', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet(0)
    client.write(optionBytes(p.NBD_OPT_LIST))
    strictEqual((await client.readToEnd()).length, 0)
  }))

test('oversized option data is skipped and answered as too big', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    for (const length of [OPTION_BYTES_MAX + 1, OPTION_SKIP_BYTES_MAX]) {
      const replies = await client.option(p.NBD_OPT_GO, Buffer.alloc(length, 0x61))
      deepStrictEqual(types(replies), [p.NBD_REP_ERR_TOO_BIG])
    }
    const name = 'x'.repeat(4096)
    const data = Buffer.concat([infoData(name), Buffer.alloc(0)])
    deepStrictEqual(types(await client.option(p.NBD_OPT_GO, data)), [p.NBD_REP_ERR_UNKNOWN])
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
  }))

test('a handshake in single bytes, and one sent all at once, both work', () =>
  serving(async ({ connect }) => {
    const options = [
      u32(3),
      optionBytes(p.NBD_OPT_STRUCTURED_REPLY),
      optionBytes(p.NBD_OPT_LIST),
      optionBytes(p.NBD_OPT_GO, infoData('demo'))
    ]
    for (const size of [1, 7, 4096]) {
      const client = await connect()
      await client.read(18)
      const bytes = Buffer.concat(options)
      for (let at = 0; at < bytes.length; at += size) {
        client.write(bytes.subarray(at, at + size))
        if (size < 100) await new Promise((resolve) => setImmediate(resolve))
      }
      client.structured = true
      const seen: number[] = []
      for (let index = 0; index < 5; index++) seen.push((await client.optionReply()).type)
      deepStrictEqual(seen, [1, 2, 1, 3, 1])
      strictEqual(await client.errorOf({ type: p.NBD_CMD_FLUSH }), 0)
    }
  }))

test('metadata contexts are listed and selected', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    await client.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    const ask = async (option: number, queries: string[], name = 'demo') =>
      (await client.option(option, metaData(name, queries))).map(({ type, data }) =>
        type === p.NBD_REP_META_CONTEXT ? `${data.readUInt32BE(0)} ${data.subarray(4)}` : type
      )
    const list = p.NBD_OPT_LIST_META_CONTEXT
    const set = p.NBD_OPT_SET_META_CONTEXT
    const ack = p.NBD_REP_ACK
    deepStrictEqual(await ask(list, []), ['0 base:allocation', ack])
    deepStrictEqual(await ask(list, ['base:']), ['0 base:allocation', ack])
    deepStrictEqual(await ask(list, ['base:allocation', 'base:']), ['0 base:allocation', ack])
    deepStrictEqual(await ask(list, ['qemu:dirty', 'base:other']), [ack])
    deepStrictEqual(await ask(set, []), [ack])
    deepStrictEqual(await ask(set, ['base:']), [ack])
    deepStrictEqual(await ask(set, ['x-a:b', 'base:allocation']), ['1 base:allocation', ack])
    deepStrictEqual(await ask(set, ['base:allocation', 'base:allocation']), [
      '1 base:allocation',
      ack
    ])
    deepStrictEqual(await ask(set, ['nocolon']), [p.NBD_REP_ERR_INVALID])
    deepStrictEqual(await ask(set, ['base:allocation'], 'nothing'), [p.NBD_REP_ERR_UNKNOWN])
    deepStrictEqual(await ask(list, [':leaf']), [p.NBD_REP_ERR_INVALID])
  }))

test('an export has a context for each snapshot that it stands on', () =>
  serving(async ({ connect, demo }) => {
    const names = Array.from({ length: 20 }, (_, at) => `s${at}`)
    for (const name of names) demo.changes.set(name, demo.states)
    const client = await connect()
    await client.greet()
    await client.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    const ask = async (option: number, queries: string[]) =>
      (await client.option(option, metaData('demo', queries))).map(({ type, data }) =>
        type === p.NBD_REP_META_CONTEXT ? `${data.readUInt32BE(0)} ${data.subarray(4)}` : type
      )
    const list = p.NBD_OPT_LIST_META_CONTEXT
    const set = p.NBD_OPT_SET_META_CONTEXT
    const layers = names.map((name) => `0 torus:layer:${name}`)
    const ack = p.NBD_REP_ACK
    deepStrictEqual(await ask(list, []), ['0 base:allocation', ...layers, ack])
    for (const query of ['torus:', 'torus:layer:']) {
      deepStrictEqual(await ask(list, [query]), [...layers, ack])
      deepStrictEqual(await ask(set, [query]), [ack])
    }
    deepStrictEqual(await ask(list, ['torus:layer:s1']), ['0 torus:layer:s1', ack])
    deepStrictEqual(await ask(set, ['torus:layer:s9', 'base:allocation', 'torus:layer:x']), [
      '1 torus:layer:s9',
      '2 base:allocation',
      ack
    ])
    const all = names.map((name) => `torus:layer:${name}`)
    deepStrictEqual(await ask(set, all), [p.NBD_REP_ERR_TOO_BIG])
    strictEqual((await ask(set, all.slice(4))).length, 17)
  }))

test('metadata contexts need structured replies or extended headers', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    const data = metaData('demo', ['base:allocation'])
    for (const option of [p.NBD_OPT_SET_META_CONTEXT, p.NBD_OPT_LIST_META_CONTEXT]) {
      deepStrictEqual(types(await client.option(option, data)), [p.NBD_REP_ERR_INVALID])
    }
    await client.mustAck(p.NBD_OPT_EXTENDED_HEADERS)
    strictEqual((await client.mustAck(p.NBD_OPT_SET_META_CONTEXT, data)).length, 2)
  }))

test('malformed metadata options are invalid, and a failed one selects nothing', () =>
  serving(async ({ connect }) => {
    const good = metaData('demo', ['base:allocation'])
    const client = await connect()
    await client.greet()
    await client.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    await client.mustAck(p.NBD_OPT_SET_META_CONTEXT, good)
    for (const data of [
      Buffer.alloc(0),
      Buffer.alloc(7),
      good.subarray(0, -1),
      Buffer.concat([good, Buffer.alloc(1)]),
      Buffer.concat([u32(4), Buffer.from('demo'), u32(2 ** 32 - 1)]),
      Buffer.concat([u32(4), Buffer.from('demo'), u32(1), u32(2 ** 32 - 1)]),
      Buffer.concat([u32(2 ** 32 - 1), Buffer.alloc(8)]),
      metaData('demo', ['base:\0'])
    ]) {
      const replies = await client.option(p.NBD_OPT_SET_META_CONTEXT, data)
      deepStrictEqual(types(replies), [p.NBD_REP_ERR_INVALID])
    }
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
    client.structured = true
    const status = { type: p.NBD_CMD_BLOCK_STATUS, length: 4096 }
    strictEqual(await client.errorOf(status), p.NBD_EINVAL)
  }))

test('contexts selected for one export do not hold for another', () =>
  serving(async ({ connect, source }) => {
    source.add('other', MIB)
    const client = await connect()
    await client.greet()
    await client.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    await client.mustAck(p.NBD_OPT_SET_META_CONTEXT, metaData('other', ['base:allocation']))
    await client.mustAck(p.NBD_OPT_GO, infoData('demo'))
    client.structured = true
    const status = { type: p.NBD_CMD_BLOCK_STATUS, length: 4096 }
    strictEqual(await client.errorOf(status), p.NBD_EINVAL)
  }))

test('extended headers take precedence over structured replies and exclude EXPORT_NAME', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    await client.mustAck(p.NBD_OPT_STRUCTURED_REPLY)
    await client.mustAck(p.NBD_OPT_EXTENDED_HEADERS)
    deepStrictEqual(types(await client.option(p.NBD_OPT_STRUCTURED_REPLY)), [
      p.NBD_REP_ERR_EXT_HEADER_REQD
    ])
    client.write(optionBytes(p.NBD_OPT_EXPORT_NAME, Buffer.from('demo')))
    strictEqual((await client.readToEnd()).length, 0)
  }))

test('NBD_OPT_STARTTLS without TLS is refused by policy', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.greet()
    deepStrictEqual(types(await client.option(p.NBD_OPT_STARTTLS)), [p.NBD_REP_ERR_POLICY])
  }))

test('a client that says nothing, and one that dribbles, are disconnected in time', () =>
  serving(
    async ({ connect }: Serving) => {
      const silent = await connect()
      const slow = await connect()
      await slow.greet()
      const started = Date.now()
      const bytes = optionBytes(p.NBD_OPT_GO, infoData('demo'))
      let at = 0
      const timer = setInterval(() => slow.write(bytes.subarray(at, ++at)), 100)
      await silent.readToEnd()
      await slow.readToEnd()
      clearInterval(timer)
      ok(Date.now() - started < 3_000)
    },
    { limits: { handshakeMs: 400 } }
  ))

test('options are counted, so that a handshake cannot go on for ever', () =>
  serving(
    async ({ connect }) => {
      const client = await connect()
      await client.greet()
      for (let index = 0; index < 8; index++) await client.option(99)
      client.write(optionBytes(99))
      strictEqual((await client.readToEnd()).length, 0)
    },
    { limits: { handshakeOptions: 8 } }
  ))

test('a client that leaves while its export is being opened leaves no open device', () =>
  serving(async ({ connect, source, demo, server }) => {
    let opened = () => {}
    const gate = new Promise<void>((resolve) => {
      opened = resolve
    })
    const open = source.open.bind(source)
    source.open = async (name, options) => {
      await gate
      return open(name, options)
    }
    const client = await connect()
    await client.greet()
    client.write(optionBytes(p.NBD_OPT_GO, infoData('demo')))
    await new Promise((resolve) => setTimeout(resolve, 20))
    client.destroy()
    await new Promise((resolve) => setTimeout(resolve, 20))
    opened()
    await until(() => server.listClients().length === 0)
    strictEqual(demo.opens, 0)
  }))

test.run()
