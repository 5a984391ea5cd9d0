import { strictEqual } from 'node:assert'
import { randomFillSync } from 'node:crypto'
import { suite } from 'uvu'
import { crc32c } from '../../src/core/checksum.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { Pending } from '../../src/replication/pending.ts'
import { OpFlag, OpKind } from '../../src/shard/op.ts'
import { TestArena } from '../helpers/test-arena.ts'

const test = suite('pending')

class CountingArena extends TestArena {
  sums = 0
  override checksum(bytes: Buffer, before?: number): number {
    this.sums++
    return super.checksum(bytes, before)
  }
}

test('the checksum of a write is taken once for all members, and anew for the next write', () => {
  const arena = new CountingArena(4)
  randomFillSync(arena.bytes)
  const pending = new Pending()
  const { request } = pending
  request.kind = OpKind.Write
  for (const [round, count] of [2, 1].entries()) {
    request.payload = round * BLOCK_BYTES
    request.blockCount = count
    const end = request.payload + count * BLOCK_BYTES
    const sum = crc32c(arena.bytes.subarray(request.payload, end))
    for (let member = 0; member < 3; member++) strictEqual(pending.payloadCrc(arena), sum)
    strictEqual(arena.sums, round + 1)
    pending.reset()
  }
})

test('what is sealed on its way, or has tags behind it, has no such checksum', () => {
  const arena = new CountingArena(1)
  const pending = new Pending()
  pending.request.kind = OpKind.Write
  pending.request.blockCount = 1
  pending.request.keySlot = 1
  strictEqual(pending.payloadCrc(arena), -1)
  pending.request.keySlot = 0
  pending.request.flags = OpFlag.Sealed
  strictEqual(pending.payloadCrc(arena), -1)
  pending.request.flags = 0
  pending.request.kind = OpKind.Trim
  strictEqual(pending.payloadCrc(arena), -1)
  strictEqual(arena.sums, 0)
})

test.run()
