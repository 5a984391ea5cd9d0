import { ok, strictEqual, throws } from 'node:assert/strict'
import { test } from 'uvu'
import { KEY_SLOTS_MAX } from '../../src/core/limits.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import { WorkerKeys } from '../../src/seal/worker-keys.ts'

/** Of whatever family. */
const FAMILY = 77
const keyOf = (byte: number): Buffer => Buffer.alloc(32, byte)
const sharedOf = (ring: KeyRing, shard: number): SharedArrayBuffer => ring.mailboxes[shard]!.shared

const same = (buffer: Buffer | null, key: Buffer): void =>
  strictEqual(buffer?.toString('hex'), key.toString('hex'))

/** Whether the key's bytes are anywhere in the memory that the threads share. */
const isInShared = (ring: KeyRing, key: Buffer): boolean =>
  ring.mailboxes.some((mailbox) => Buffer.from(mailbox.shared).includes(key))

test('workers get a key once, and the way that it took is zeroed', () => {
  const ring = new KeyRing(2)
  const workers = [0, 1].map((shard) => new WorkerKeys(sharedOf(ring, shard)))
  const slot = ring.hold(keyOf(7))
  ok(isInShared(ring, keyOf(7)), 'the test looks where keys are')
  for (const worker of workers) worker.refresh()
  ok(!isInShared(ring, keyOf(7)))
  for (const worker of workers) same(worker.keyOf(slot, FAMILY, 1), keyOf(7))
  same(ring.keyOf(slot, FAMILY, 1), keyOf(7))
})

test('the caller may zero its own copy at once', () => {
  const ring = new KeyRing(0)
  const key = keyOf(1)
  const slot = ring.hold(key)
  key.fill(0)
  same(ring.keyOf(slot, FAMILY, 1), keyOf(1))
})

test('a dropped key is zeroed in every thread, taken or not', () => {
  const ring = new KeyRing(2)
  const worker = new WorkerKeys(sharedOf(ring, 0))
  const slot = ring.hold(keyOf(9))
  worker.refresh()
  const mine = ring.keyOf(slot, FAMILY, 1)!
  const taken = worker.keyOf(slot, FAMILY, 1)!
  ring.drop(slot)
  worker.refresh()
  for (const copy of [mine, taken]) same(copy, keyOf(0))
  strictEqual(worker.keyOf(slot, FAMILY, 1), null)
  strictEqual(ring.keyOf(slot, FAMILY, 1), null)
  ok(!isInShared(ring, keyOf(9)), 'the second worker never took it')
  const late = new WorkerKeys(sharedOf(ring, 1))
  strictEqual(late.keyOf(slot, FAMILY, 1), null)
})

test('a worker that begins anew gets what is held, and nothing that is not', () => {
  const ring = new KeyRing(1)
  const first = new WorkerKeys(sharedOf(ring, 0))
  const [kept, dropped] = [ring.hold(keyOf(1)), ring.hold(keyOf(2))]
  first.refresh()
  ring.drop(dropped)
  ring.handAgain(0)
  const second = new WorkerKeys(sharedOf(ring, 0))
  same(second.keyOf(kept, FAMILY, 1), keyOf(1))
  strictEqual(second.keyOf(dropped, FAMILY, 1), null)
  ok(!isInShared(ring, keyOf(1)))
})

test('a slot is not used again before every worker has forgotten its key', () => {
  const ring = new KeyRing(1)
  const worker = new WorkerKeys(sharedOf(ring, 0))
  for (let slot = 1; slot <= KEY_SLOTS_MAX; slot++) strictEqual(ring.hold(keyOf(1)), slot)
  throws(() => ring.hold(keyOf(2)), /the limit/)
  ring.drop(5)
  throws(() => ring.hold(keyOf(2)), /the limit/)
  worker.refresh()
  strictEqual(ring.hold(keyOf(2)), 5)
  worker.refresh()
  same(worker.keyOf(5, FAMILY, 1), keyOf(2))
})

test('a group has the keys of several families, each for its epochs', () => {
  const ring = new KeyRing(1)
  const worker = new WorkerKeys(sharedOf(ring, 0))
  const group = ring.hold(keyOf(1), { family: 7 })
  ring.hold(keyOf(3), { group, family: 7, fromEpoch: 4_000_000_000 })
  ring.hold(keyOf(2), { group, family: 7, fromEpoch: 10 })
  ring.hold(keyOf(4), { group, family: 0xfffffff0, fromEpoch: 5 })
  const other = ring.hold(keyOf(5), { family: 7 })
  worker.refresh()
  for (const keys of [ring, worker]) {
    same(keys.keyOf(group, 7, 9), keyOf(1))
    same(keys.keyOf(group, 7, 10), keyOf(2))
    same(keys.keyOf(group, 7, 3_999_999_999), keyOf(2))
    same(keys.keyOf(group, 7, 4_000_000_000), keyOf(3))
    same(keys.keyOf(group, 0xfffffff0, 5), keyOf(4))
    strictEqual(keys.keyOf(group, 0xfffffff0, 4), null)
    strictEqual(keys.keyOf(group, 8, 1), null)
    same(keys.keyOf(other, 7, 10), keyOf(5))
  }
  ring.dropKey(group, 7, 0)
  worker.refresh()
  for (const keys of [ring, worker]) {
    strictEqual(keys.keyOf(group, 7, 9), null)
    same(keys.keyOf(group, 7, 10), keyOf(2))
  }
  ring.drop(group)
  worker.refresh()
  for (const keys of [ring, worker]) {
    strictEqual(keys.keyOf(group, 7, 10), null)
    strictEqual(keys.keyOf(group, 0xfffffff0, 5), null)
    same(keys.keyOf(other, 7, 10), keyOf(5))
  }
})

test("a group's number is not another one's while it has keys, also without its first", () => {
  const ring = new KeyRing(1)
  const worker = new WorkerKeys(sharedOf(ring, 0))
  const group = ring.hold(keyOf(1), { family: 7 })
  ring.hold(keyOf(2), { group, family: 7, fromEpoch: 10 })
  ring.dropKey(group, 7, 0)
  for (let slot = 3; slot <= KEY_SLOTS_MAX; slot++) ring.hold(keyOf(3))
  worker.refresh()
  throws(() => ring.hold(keyOf(3)), /the limit/)
  same(worker.keyOf(group, 7, 10), keyOf(2))
  ring.drop(group)
  worker.refresh()
  strictEqual(ring.hold(keyOf(4)), group)
  worker.refresh()
  same(worker.keyOf(group, 7, 10), keyOf(4))
})

test('closing zeroes every copy', () => {
  const ring = new KeyRing(1)
  const worker = new WorkerKeys(sharedOf(ring, 0))
  const slots = [ring.hold(keyOf(1)), ring.hold(keyOf(2))]
  worker.refresh()
  const copies = slots.flatMap((slot) => [
    ring.keyOf(slot, FAMILY, 1)!,
    worker.keyOf(slot, FAMILY, 1)!
  ])
  worker.close()
  ring.close()
  for (const copy of copies) same(copy, keyOf(0))
})

test.run()
