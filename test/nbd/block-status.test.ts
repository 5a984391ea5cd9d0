import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { STATUS_REPLY_EXTENTS_MAX } from '../../src/nbd/limits.ts'
import * as p from '../../src/nbd/protocol.ts'
import { RequestFlag, RequestKind, StatusExtent } from '../../src/volume/request.ts'
import { BlockState } from '../helpers/memory-devices.ts'
import { MIB, serving, until } from '../helpers/nbd-serving.ts'
import { type Chunk, type NbdWireClient, u32, u64 } from '../helpers/nbd-wire-client.ts'

const test = suite('nbd block status')
const contexts = ['base:allocation']
const type = p.NBD_CMD_BLOCK_STATUS

/** The extents of a status chunk: [bytes, flags]. */
function extentsOf(chunk: Chunk): [number, number][] {
  const extended = chunk.type === p.NBD_REPLY_TYPE_BLOCK_STATUS_EXT
  ok(extended || chunk.type === p.NBD_REPLY_TYPE_BLOCK_STATUS, `type ${chunk.type}`)
  strictEqual(chunk.payload.readUInt32BE(0), 1)
  const extents: [number, number][] = []
  const size = extended ? 16 : 8
  for (let at = size / 2; at < chunk.payload.length; at += size) {
    const bytes = extended
      ? Number(chunk.payload.readBigUInt64BE(at))
      : chunk.payload.readUInt32BE(at)
    const state = extended
      ? Number(chunk.payload.readBigUInt64BE(at + 8))
      : chunk.payload.readUInt32BE(at + 4)
    extents.push([bytes, state])
  }
  if (extended) strictEqual(chunk.payload.readUInt32BE(4), extents.length)
  return extents
}

async function statusOf(client: NbdWireClient, command: object): Promise<[number, number][]> {
  client.command({ type, ...command })
  const chunks = await client.reply()
  strictEqual(chunks.length, 1)
  return extentsOf(chunks[0]!)
}

for (const options of [{ structured: true }, { extended: true }]) {
  const mode = Object.keys(options)[0]

  test(`${mode}: data, holes and zeroes are told apart and merged`, () =>
    serving(
      async ({ connect, demo }) => {
        demo.states.fill(BlockState.Data, 1, 3)
        demo.states.fill(BlockState.Zero, 3, 10)
        // Reaches over the edge of the volume's windows.
        demo.states.fill(BlockState.Data, 4000, 5000)
        const client = await connect()
        await client.attach('demo', { ...options, contexts })
        deepStrictEqual(await statusOf(client, { length: 100 * MIB }), [
          [4096, 3],
          [2 * 4096, 0],
          [7 * 4096, 2],
          [3990 * 4096, 3],
          [1000 * 4096, 0],
          [100 * MIB - 5000 * 4096, 3]
        ])
        deepStrictEqual(await statusOf(client, { offset: 4097, length: 5000 }), [[5000, 0]])
        const flags = p.NBD_CMD_FLAG_REQ_ONE
        deepStrictEqual(await statusOf(client, { offset: 50, length: 90 * MIB, flags }), [
          [4046, 3]
        ])
        const rest = { offset: 5000 * 4096, length: 100 * MIB - 5000 * 4096, flags }
        deepStrictEqual(await statusOf(client, rest), [[rest.length, 3]])
      },
      { sizeBytes: 100 * MIB }
    ))

  test(`${mode}: what changed since snapshots is told beside what is allocated`, () =>
    serving(async ({ connect, demo }) => {
      const { Data, Hole, Zero, Unchanged } = StatusExtent
      demo.states.fill(BlockState.Data, 0, 8)
      demo.changes.set(
        'old',
        Uint8Array.from(demo.states, () => Unchanged)
      )
      demo.changes.set(
        'new',
        Uint8Array.from(demo.states, () => Unchanged)
      )
      demo.changes.get('old')!.set([Data, Data, Zero, Hole, Unchanged, Data], 2)
      demo.changes.get('new')!.fill(Hole, 1, 2)
      const client = await connect()
      const names = ['torus:layer:new', 'base:allocation', 'torus:layer:old']
      await client.attach('demo', { ...options, contexts: names })
      client.command({ type, length: 16 * 4096 })
      const chunks = await client.reply()
      const told = new Map(chunks.map((chunk) => [chunk.payload.readUInt32BE(0), chunk]))
      strictEqual(chunks.length, 3)
      const ids = [1, 2, 3].map((id) => {
        const chunk = told.get(id)!
        chunk.payload.writeUInt32BE(1)
        return extentsOf(chunk)
      })
      const one = 4096
      deepStrictEqual(ids[0], [
        [one, 0],
        [one, 1],
        [14 * one, 0]
      ])
      deepStrictEqual(ids[1], [
        [8 * one, 0],
        [8 * one, 3]
      ])
      deepStrictEqual(ids[2], [
        [2 * one, 0],
        [4 * one, 1],
        [one, 0],
        [one, 1],
        [8 * one, 0]
      ])
    }))

  test(`${mode}: a fragmented range is answered in part, and always in part at least`, () =>
    serving(async ({ connect, demo }) => {
      for (let block = 0; block < demo.states.length; block += 2) demo.states[block] = 0
      const client = await connect()
      await client.attach('demo', { ...options, contexts })
      let offset = 0
      let replies = 0
      while (offset < 64 * MIB) {
        const extents = await statusOf(client, { offset, length: 64 * MIB - offset })
        ok(extents.length <= STATUS_REPLY_EXTENTS_MAX)
        for (const [bytes, state] of extents) {
          strictEqual(bytes, 4096)
          strictEqual(state, (offset / 4096) % 2 === 0 ? 0 : 3)
          offset += bytes
        }
        replies++
      }
      strictEqual(replies, 16_384 / STATUS_REPLY_EXTENTS_MAX)
    }))
}

test('with extended headers a range of terabytes is asked for, and answered as far as told', () =>
  serving(async ({ connect, source }) => {
    const huge = source.add('huge', 4096)
    huge.sizeBytes = 8 * 2 ** 40
    huge.record = true
    huge.answerStatus = (offset) => [2 ** 40 - offset / 8, BlockState.Hole, 5 * 2 ** 40, 1, 7, 0]
    const client = await connect()
    await client.attach('huge', { extended: true, contexts })
    const range = { offset: 2 ** 40, length: 7 * 2 ** 40 }
    deepStrictEqual(await statusOf(client, range), [
      [5.875 * 2 ** 40, 3],
      [7, 0]
    ])
    const one = { ...range, flags: p.NBD_CMD_FLAG_REQ_ONE }
    deepStrictEqual(await statusOf(client, one), [[5.875 * 2 ** 40, 3]])
    const kind = RequestKind.BlockStatus
    deepStrictEqual(huge.seen, [
      { kind, flags: 0, ...range },
      { kind, flags: RequestFlag.FirstExtent, ...range }
    ])
  }))

test('a payload filters by context ids, and wrong ones are refused', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    const { flags } = await client.attach('demo', { extended: true, contexts })
    ok((flags & p.NBD_FLAG_BLOCK_STATUS_PAYLOAD) !== 0)
    const filtered = (length: number, ...ids: number[]) => ({
      payload: Buffer.concat([u64(length), ...ids.map(u32)])
    })
    deepStrictEqual(await statusOf(client, filtered(8192, 1)), [[8192, 3]])
    for (const bad of [
      filtered(8192),
      filtered(8192, 2),
      filtered(8192, 1, 1),
      filtered(8192, ...Array.from({ length: 40 }, () => 1)),
      filtered(8192, ...Array.from({ length: 20_000 }, () => 1)),
      { payload: Buffer.alloc(3) },
      { payload: Buffer.alloc(13) },
      filtered(0, 1),
      filtered(65 * MIB, 1)
    ]) {
      strictEqual(await client.errorOf({ type, ...bad }), p.NBD_EINVAL)
    }
    deepStrictEqual(await statusOf(client, { length: 4096 }), [[4096, 3]])
  }))

test('block status past the end, of nothing, or without contexts is invalid', () =>
  serving(async ({ connect }) => {
    const client = await connect()
    await client.attach('demo', { structured: true, contexts })
    strictEqual(await client.errorOf({ type, length: 64 * MIB + 1 }), p.NBD_EINVAL)
    strictEqual(await client.errorOf({ type, length: 0 }), p.NBD_EINVAL)
    for (const options of [{}, { structured: true }, { extended: true }]) {
      const bare = await connect()
      await bare.attach('demo', options)
      strictEqual(await bare.errorOf({ type, length: 4096 }), p.NBD_EINVAL)
    }
  }))

test('an error of the volume is told', () =>
  serving(async ({ connect, demo }) => {
    const client = await connect()
    await client.attach('demo', { structured: true, contexts })
    demo.fail = ({ length }) => (length > 16 * MIB ? ErrorCode.DiskFailure : 0)
    strictEqual(await client.errorOf({ type, length: 64 * MIB }), p.NBD_EIO)
    deepStrictEqual(await statusOf(client, { length: 16 * MIB }), [[16 * MIB, 3]])
  }))

test('a client is answered one block status at a time', () =>
  serving(async ({ connect, demo, source }) => {
    const clients = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const client = await connect()
        await client.attach('demo', { structured: true, contexts })
        return client
      })
    )
    demo.holding = true
    for (const client of clients) {
      for (let index = 0; index < 10; index++) client.command({ type, length: 64 * MIB })
    }
    await until(() => demo.held.length === 4)
    source.release(demo)
    for (const client of clients) {
      for (let index = 0; index < 10; index++) {
        deepStrictEqual(extentsOf((await client.reply())[0]!), [[64 * MIB, 3]])
      }
    }
  }))

test.run()
