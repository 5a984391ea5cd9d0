/**
 * Byte sequences nobody would send: whatever they are, the server answers or closes, others are
 * served, and nothing stays held. `SEED=` replays one.
 */
import { ok, strictEqual } from 'node:assert'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import * as p from '../../src/nbd/protocol.ts'
import { MIB, pattern, type Serving, serving, until } from '../helpers/nbd-serving.ts'
import {
  IHAVEOPT,
  infoData,
  metaData,
  type NbdWireClient,
  optionBytes,
  u16,
  u32,
  u64
} from '../helpers/nbd-wire-client.ts'

const test = suite('nbd fuzz')
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
const SESSIONS = 150

/** xorshift: the same numbers for the same seed. */
class Dice {
  private state: number
  constructor(from: number) {
    this.state = (from * 0x9e37_79b1) | 1
  }
  below(limit: number): number {
    this.state ^= this.state << 13
    this.state ^= this.state >>> 17
    this.state ^= this.state << 5
    return (this.state >>> 0) % limit
  }
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!
  }
  chance(percent: number): boolean {
    return this.below(100) < percent
  }
  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length)
    for (let at = 0; at < length; at++) bytes[at] = this.below(256)
    return bytes
  }
}

/** A number that is often one of those where limits are. */
const edge = (dice: Dice): number =>
  dice.pick([0, 1, 2, 4, 6, 8, 255, 4096, 4097, 32_768, 65_536, 2 ** 31, 2 ** 32 - 1])

function option(dice: Dice): Buffer {
  const number = dice.chance(90) ? dice.below(14) : edge(dice)
  const name = dice.pick(['demo', '', 'nothing', 'x'.repeat(5000), 'a\0b', '\u00e4\u20ac'])
  const data = dice.pick([
    Buffer.alloc(0),
    infoData(name, [dice.below(6), dice.below(6)]),
    metaData(name, [dice.pick(['base:allocation', 'base:', ':', 'nocolon', 'x-y:z', ''])]),
    Buffer.from(name),
    dice.bytes(dice.below(64)),
    Buffer.concat([u32(edge(dice)), dice.bytes(dice.below(40))])
  ])
  if (dice.chance(85)) return optionBytes(number, data)
  return Buffer.concat([
    dice.chance(90) ? IHAVEOPT : dice.bytes(8),
    u32(number),
    u32(edge(dice) % 100_000),
    data
  ])
}

function command(dice: Dice, extended: boolean): Buffer {
  const magic = extended ? p.NBD_EXTENDED_REQUEST_MAGIC : p.NBD_REQUEST_MAGIC
  const type = dice.chance(95) ? dice.below(9) : edge(dice) & 0xffff
  const flags = dice.chance(60) ? dice.below(64) : dice.below(2)
  const offset = dice.chance(80) ? dice.below(64 * MIB) : edge(dice) * edge(dice)
  const length = dice.chance(80) ? dice.below(3 * MIB) : edge(dice)
  const payload = dice.pick([0, 0, dice.below(70_000), length])
  return Buffer.concat([
    u32(dice.chance(98) ? magic : edge(dice)),
    u16(flags),
    u16(type),
    u64(dice.below(1000)),
    u64(BigInt(offset) % 2n ** 64n),
    extended ? u64(length) : u32(length),
    type === p.NBD_CMD_WRITE || dice.chance(5)
      ? pattern(Math.min(payload, 4 * MIB), dice.below(99))
      : Buffer.alloc(0)
  ])
}

/** Sends `bytes` cut at random places, and perhaps not all of them. */
async function sendInPieces(client: NbdWireClient, bytes: Buffer, dice: Dice): Promise<void> {
  const end = dice.chance(80) ? bytes.length : dice.below(bytes.length + 1)
  for (let at = 0; at < end && !client.closed; ) {
    const count = dice.pick(end < 2000 ? [1, 3, 28, 1000] : [28, 5000, 65_536, end])
    client.write(bytes.subarray(at, Math.min(end, at + count)))
    at += count
    if (dice.chance(20)) await new Promise((resolve) => setImmediate(resolve))
  }
}

/** The server is well: a client of its own does what clients do. */
async function alive({ connect }: Serving): Promise<void> {
  const client = await connect()
  await client.attach('demo', { structured: true, contexts: ['base:allocation'] })
  await client.writeRange(5, pattern(9000))
  ok((await client.readRange(5, 9000)).equals(pattern(9000)))
  client.destroy()
}

test(`handshakes of any bytes are answered or closed (SEED=${seed})`, () =>
  serving(async (all) => {
    const dice = new Dice(seed)
    for (let session = 0; session < SESSIONS; session++) {
      const client = await all.connect()
      const flags = dice.chance(90) ? u32(dice.below(4)) : dice.bytes(4)
      const options = Array.from({ length: 1 + dice.below(6) }, () => option(dice))
      const tail = dice.chance(30) ? dice.bytes(dice.below(200)) : Buffer.alloc(0)
      await sendInPieces(client, Buffer.concat([flags, ...options, tail]), dice)
      if (session % 10 === 0) await alive(all)
      client.destroy()
    }
    await until(() => all.server.listClients().length === 0)
    await alive(all)
  }))

for (const [mode, options] of [
  ['simple', {}],
  ['structured', { structured: true, contexts: ['base:allocation'] }],
  ['extended', { extended: true, contexts: ['base:allocation'] }]
] as const) {
  test(`${mode}: requests of any bytes are answered or closed (SEED=${seed})`, () =>
    serving(
      async (all) => {
        const dice = new Dice(seed + mode.length)
        all.demo.fail = () => (dice.chance(10) ? dice.pick(Object.values(ErrorCode)) : 0)
        for (let session = 0; session < SESSIONS / 3; session++) {
          const client = await all.connect()
          await client.attach('demo', options)
          if (dice.chance(20)) client.pause()
          const count = 1 + dice.below(12)
          const commands = Array.from({ length: count }, () => command(dice, mode === 'extended'))
          await sendInPieces(client, Buffer.concat(commands), dice)
          if (dice.chance(30)) await new Promise((resolve) => setTimeout(resolve, 2))
          client.destroy()
        }
        await until(() => all.server.listClients().length === 0)
        strictEqual(all.source.arena.pagesFree, all.source.arena.pagesTotal)
        all.demo.fail = () => 0
        await alive(all)
      },
      { arenaPages: 700, timeoutMs: 30_000 }
    ))
}

test(`random valid requests of many clients leave what a plain buffer has (SEED=${seed})`, () =>
  serving(
    async ({ connect, demo }) => {
      const dice = new Dice(seed + 77)
      const model = Buffer.alloc(64 * MIB)
      const clients: NbdWireClient[] = []
      for (const options of [
        {},
        { structured: true },
        { extended: true },
        { structured: true, contexts: ['base:allocation'] }
      ]) {
        const client = await connect()
        await client.attach('demo', options)
        clients.push(client)
      }
      for (let step = 0; step < 120; step++) {
        const client = dice.pick(clients)
        const length = 1 + dice.below(dice.pick([600, 9000, 40_000, 100_000, 5 * MIB]))
        const offset = dice.below(64 * MIB - length)
        switch (dice.below(4)) {
          case 0:
          case 1: {
            const payload = pattern(length, step)
            await client.writeRange(offset, payload, dice.below(2))
            payload.copy(model, offset)
            break
          }
          case 2: {
            const type = dice.pick([p.NBD_CMD_WRITE_ZEROES, p.NBD_CMD_TRIM])
            strictEqual(await client.errorOf({ type, offset, length }), 0)
            model.fill(0, offset, offset + length)
            break
          }
          default: {
            const df = client.structured || client.extended ? dice.pick([0, p.NBD_CMD_FLAG_DF]) : 0
            const read = await client.readRange(offset, length, df)
            ok(read.equals(model.subarray(offset, offset + length)), `step ${step}`)
          }
        }
      }
      ok(demo.bytes.equals(model))
    },
    { arenaPages: 600, timeoutMs: 30_000 }
  ))

test.run()
