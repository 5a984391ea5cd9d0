import { ok, strictEqual } from 'node:assert'
import { once } from 'node:events'
import net from 'node:net'
import { PassThrough } from 'node:stream'
import { suite } from 'uvu'
import { RECEIVE_BUFFER_BYTES } from '../../src/nbd/limits.ts'
import { type Consumer, Receiver } from '../../src/nbd/receiver.ts'
import { bounded, pattern, until } from '../helpers/nbd-serving.ts'
import { TestArena } from '../helpers/test-arena.ts'

const test = suite('nbd receiver')
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

function dice(from: number): (limit: number) => number {
  let state = (from * 0x9e37_79b1) | 1
  return (limit) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % limit
  }
}

/**
 * Takes records of a u32 length and so many bytes: small ones out of the buffer, large ones
 * into a target of their own. Stops at random, before and inside of records.
 */
class Records implements Consumer {
  readonly taken: Buffer[] = []
  bytes = 0
  stops = 0
  receiver: Receiver | null = null
  private readonly roll: (limit: number) => number
  private large: Buffer | null = null
  private got = 0

  constructor(roll: (limit: number) => number) {
    this.roll = roll
  }

  consume(): boolean {
    const receiver = this.receiver!
    for (;;) {
      if (this.roll(6) === 0) return this.stop()
      if (this.large !== null) {
        const count = Math.min(receiver.available, this.large.length - this.got)
        receiver.bytes.copy(this.large, this.got, receiver.start, receiver.start + count)
        receiver.start += count
        this.got += count
        if (this.got < this.large.length) return true
        this.take(this.large)
        this.large = null
        continue
      }
      if (receiver.available < 4) return true
      const length = receiver.view.getUint32(receiver.start)
      if (length > 30_000) {
        receiver.start += 4
        this.large = Buffer.alloc(length)
        this.got = 0
        continue
      }
      if (receiver.available < 4 + length) return true
      const from = receiver.start + 4
      this.take(Buffer.from(receiver.bytes.subarray(from, from + length)))
      receiver.start += 4 + length
    }
  }

  private take(record: Buffer): void {
    this.taken.push(record)
    this.bytes += record.length
  }

  private stop(): false {
    this.stops++
    setTimeout(() => this.goOn(), this.roll(3))
    return false
  }

  private goOn(): void {
    if (this.consume()) this.receiver!.resume()
  }

  bytesWanted(): number {
    return this.roll(3) === 0 ? 4 : RECEIVE_BUFFER_BYTES
  }

  directTarget(): Buffer | null {
    const { large, got } = this
    return large === null || got === large.length ? null : large.subarray(got)
  }

  directArrived(count: number): boolean {
    this.got += count
    return this.got === this.large!.length
  }
}

/** What is sent: records of all sizes. */
function makeRecords(roll: (limit: number) => number): Buffer[] {
  const sizes = [1, 10, 4096, 29_999, 30_000, 30_001, 70_000, 300_000]
  return Array.from({ length: 150 }, (_, index) => pattern(1 + roll(sizes[roll(8)]!), index))
}

const wireBytes = (records: readonly Buffer[]): Buffer =>
  Buffer.concat(
    records.flatMap((record) => {
      const length = Buffer.alloc(4)
      length.writeUInt32BE(record.length)
      return [length, record]
    })
  )

function check(consumer: Records, records: readonly Buffer[]): void {
  strictEqual(consumer.taken.length, records.length)
  for (const [index, record] of records.entries()) {
    ok(consumer.taken[index]!.equals(record), `record ${index}`)
  }
  ok(consumer.stops > 20)
  strictEqual(consumer.receiver!.receivedBytes, consumer.bytes + 4 * records.length)
}

test(`a socket's bytes all arrive in order, whatever stops in between (SEED=${seed})`, async () => {
  for (let round = 0; round < 4; round++) {
    const roll = dice(seed + round)
    const records = makeRecords(roll)
    const consumer = new Records(roll)
    consumer.receiver = new Receiver(consumer, new TestArena(1))
    const server = net.createServer({ pauseOnConnect: true })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const accepted = once(server, 'connection') as Promise<[net.Socket]>
    const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
    const socket = consumer.receiver.attach((await accepted)[0])
    const bytes = wireBytes(records)
    for (let at = 0; at < bytes.length; ) {
      const count = 1 + roll(120_000)
      client.write(bytes.subarray(at, at + count))
      at += count
      if (roll(4) === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    }
    await until(() => consumer.taken.length === records.length)
    check(consumer, records)
    client.destroy()
    socket.destroy()
    await bounded(new Promise((resolve) => server.close(resolve)), 2_000)
  }
})

test(`so do the chunks of a stream without a handle (SEED=${seed})`, async () => {
  for (let round = 0; round < 4; round++) {
    const roll = dice(seed + 100 + round)
    const records = makeRecords(roll)
    const consumer = new Records(roll)
    consumer.receiver = new Receiver(consumer, new TestArena(1))
    const stream = new PassThrough()
    consumer.receiver.attach(stream as unknown as net.Socket)
    const bytes = wireBytes(records)
    for (let at = 0; at < bytes.length; ) {
      const count = 1 + roll(120_000)
      if (!stream.write(bytes.subarray(at, at + count))) await once(stream, 'drain')
      at += count
    }
    await until(() => consumer.taken.length === records.length)
    check(consumer, records)
  }
})

test.run()
