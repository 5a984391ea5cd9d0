/** Encrypted volumes on members: what they get, and what is believed of what they send. */
import { deepStrictEqual, ok, strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { BlockOp, type BlockStore, OpKind } from '../../src/replication/block-store.ts'
import { SealedMembersStore } from '../../src/replication/sealed-members.ts'
import { SealedStore } from '../../src/replication/sealed-store.ts'
import { KeyRing } from '../../src/seal/keyring.ts'
import { MemberPeer } from '../helpers/member-peer.ts'
import { TestArena } from '../helpers/test-arena.ts'

const test = suite('sealed members')

const EPOCH = 5

/** A replicated store of two members as plain as can be: reads ask the first, then the second. */
class TwoMembers {
  readonly asked: number[] = []
  readonly peers: readonly MemberPeer[]
  /** The gateway's. */
  readonly arena = new TestArena(1200)
  readonly store: BlockStore
  /** Changes what a member answers. */
  lie: (peer: number, bytes: Buffer, op: BlockOp) => void = () => {}

  constructor(peers: readonly MemberPeer[]) {
    this.peers = peers
    const store: Partial<BlockStore> = {
      acquireOp: () => new BlockOp(),
      releaseOp: () => {},
      submit: (op) => void this.#run(op),
      ring: () => {}
    }
    this.store = store as BlockStore
  }

  async #run(op: BlockOp): Promise<void> {
    const isRead = op.kind === OpKind.Read
    for (const [at, peer] of this.peers.entries()) {
      op.error = await this.#ask(op, at, peer)
      if (isRead && op.error === 0) op.error = op.verify!(op)
      if (isRead && op.error === 0) break
    }
    op.onDone(op)
  }

  #ask(op: BlockOp, at: number, peer: MemberPeer): Promise<number> {
    this.asked.push(at)
    const there = Object.assign(new BlockOp(), op)
    const bytes = op.blockCount * (BLOCK_BYTES + 32)
    const from = this.arena.bytes
    there.payload = peer.arena.acquire(op.blockCount + 1)
    there.tags = there.payload + op.blockCount * BLOCK_BYTES
    from.copy(peer.arena.bytes, there.payload, op.payload, op.payload + bytes)
    return new Promise((resolve) => {
      there.onDone = () => {
        const answer = peer.arena.bytes.subarray(there.payload, there.payload + bytes)
        this.lie(at, answer, op)
        if (op.kind === OpKind.Read) answer.copy(from, op.payload)
        peer.arena.release(there.payload)
        resolve(there.error)
      }
      peer.store.submit(there)
      peer.store.ring()
    })
  }
}

async function setUp() {
  const peers = [await MemberPeer.create(1), await MemberPeer.create(2)]
  const members = new TwoMembers(peers)
  const keys = new KeyRing(0)
  const slot = keys.hold(Buffer.alloc(32, 7))
  const state = { slot, mayLack: false, fetch: async () => {} }
  const broken: string[] = []
  const { arena } = members
  const families = {
    slotOf: () => state.slot,
    mayLack: () => state.mayLack,
    fetch: () => state.fetch()
  }
  const onBroken = (what: string) => void broken.push(what)
  const store = new SealedMembersStore({ store: members.store, arena, families, keys, onBroken })
  let sequence = 0
  const run = (kind: number, firstBlock: number, blockCount: number, value = 0, given = -1) => {
    const op = new BlockOp()
    const payload = given >= 0 ? given : arena.acquire(blockCount)
    arena.bytes.fill(value, payload, payload + blockCount * BLOCK_BYTES)
    Object.assign(op, { kind, firstBlock, blockCount, payload, familyLow: 1, layerLow: 7 })
    if (kind === OpKind.Write) Object.assign(op, { writerEpoch: EPOCH, sequence: ++sequence })
    return new Promise<{ op: BlockOp; values: number[] }>((resolve) => {
      op.onDone = () => {
        const bytes = arena.bytes.subarray(payload, payload + blockCount * BLOCK_BYTES)
        const values = Array.from({ length: blockCount }, (_, i) => bytes[i * BLOCK_BYTES + 100]!)
        arena.release(payload)
        resolve({ op, values })
      }
      store.submit(op)
      store.ring()
    })
  }
  return { peers, members, keys, state, broken, run, arena }
}

test('members hold ciphertext, the same at each, and blocks open whoever sends them', async () => {
  const { peers, members, run } = await setUp()
  const { op, values } = await run(OpKind.Write, 3, 20, 0x41)
  strictEqual(op.error, 0)
  ok(
    values.every((value) => value === 0x41),
    'a payload stays as it is'
  )
  const stored: string[] = []
  for (const [at, peer] of peers.entries()) {
    const read = await peer.run(OpKind.Read, { firstBlock: 3, blockCount: 20, groupEpoch: 9 })
    const bytes = peer.arena.bytes.subarray(read.payload, read.payload + 20 * BLOCK_BYTES)
    ok(!bytes.includes(Buffer.alloc(16, 0x41)), `member ${at}`)
    stored.push(bytes.toString('hex'))
  }
  strictEqual(stored[0], stored[1])
  deepStrictEqual((await run(OpKind.Read, 2, 3)).values, [0, 0x41, 0x41])
  members.asked.length = 0
  peers[0]!.damage()
  deepStrictEqual((await run(OpKind.Read, 2, 3)).values, [0, 0x41, 0x41])
  deepStrictEqual(members.asked, [0, 1])
})

test('what one member forged is asked of the other', async () => {
  const { members, broken, run } = await setUp()
  await run(OpKind.Write, 0, 4, 1)
  members.lie = (at, bytes) => {
    if (at === 0) bytes[BLOCK_BYTES + 9]! ^= 1
  }
  const { op, values } = await run(OpKind.Read, 0, 4)
  strictEqual(op.error, 0)
  deepStrictEqual(values, [1, 1, 1, 1])
  strictEqual(broken.length, 1)
  members.lie = (_at, bytes) => {
    bytes[BLOCK_BYTES + 9]! ^= 1
  }
  const failed = (await run(OpKind.Read, 0, 4)).op
  strictEqual(failed.error, ErrorCode.SealBroken)
  strictEqual(failed.resultA, 1, 'the block is named')
})

test('a version that a member makes up opens nothing', async () => {
  const { members, run } = await setUp()
  await run(OpKind.Write, 0, 2, 1)
  for (const [field, value] of [
    [16, 0],
    [16, EPOCH + 1],
    [20, 2],
    [24, 1]
  ] as const) {
    members.lie = (_at, bytes, op) => {
      if (op.kind === OpKind.Read) bytes.writeUInt32LE(value, 2 * BLOCK_BYTES + field)
    }
    strictEqual((await run(OpKind.Read, 0, 2)).op.error, ErrorCode.SealBroken)
  }
})

test('what is locked is neither written nor read, and nothing is sent', async () => {
  const { members, state, run } = await setUp()
  await run(OpKind.Write, 0, 1, 1)
  members.asked.length = 0
  state.slot = 0
  strictEqual((await run(OpKind.Write, 0, 1, 2)).op.error, ErrorCode.Locked)
  strictEqual((await run(OpKind.Read, 0, 1)).op.error, ErrorCode.Locked)
  deepStrictEqual(members.asked, [])
})

test('ops that find no pages go on in their order when there are some', async () => {
  const { arena, run } = await setUp()
  const payloads = [1, 2, 3].map(() => arena.acquire(40))
  // The ciphertext has its spare run alone.
  const held = arena.acquire(arena.pagesFree)
  ok(held >= 0)
  const writes = payloads.map((payload, i) => run(OpKind.Write, 0, 40, i + 1, payload))
  for (const write of writes) strictEqual((await write).op.error, 0)
  arena.release(held)
  deepStrictEqual((await run(OpKind.Read, 38, 2)).values, [3, 3])
})

test('a key that is missing is fetched; one that still is counts as a broken seal', async () => {
  const { keys, state, members, broken, run } = await setUp()
  await run(OpKind.Write, 0, 2, 5)
  const sealedWith = state.slot
  // Another group: the volume is unlocked, and the key of that block is not there.
  state.slot = keys.hold(Buffer.alloc(32, 8), { family: 99 })
  state.mayLack = true
  let fetches = 0
  state.fetch = async () => {
    fetches++
    state.slot = sealedWith
  }
  const read = await run(OpKind.Read, 0, 2)
  strictEqual(read.op.error, 0)
  deepStrictEqual([read.values, fetches, broken], [[5, 5], 1, []])

  state.slot = keys.hold(Buffer.alloc(32, 8), { family: 99 })
  state.fetch = async () => void fetches++
  members.asked.length = 0
  const lost = await run(OpKind.Read, 0, 2)
  strictEqual(lost.op.error, ErrorCode.SealBroken)
  strictEqual(fetches, 2)
  ok(broken.length > 0)
  // A clone's keys are not told of a rekey of what it stands on: what is there may be the old one.
  state.slot = keys.hold(Buffer.alloc(32, 8))
  state.fetch = async () => {
    fetches++
    state.slot = sealedWith
  }
  broken.length = 0
  strictEqual((await run(OpKind.Read, 0, 2)).op.error, 0)
  deepStrictEqual([fetches, broken], [3, []])
  // Nothing is left behind: the same op may come again.
  state.slot = sealedWith
  strictEqual((await run(OpKind.Read, 0, 2)).op.error, 0)

  // Of a volume that reads from no other nothing can be missing.
  state.slot = keys.hold(Buffer.alloc(32, 8), { family: 99 })
  state.mayLack = false
  strictEqual((await run(OpKind.Read, 0, 2)).op.error, ErrorCode.SealBroken)
  strictEqual(fetches, 3)
})

test('a store of local shards has them seal, and refuses what is locked', async () => {
  const peer = await MemberPeer.create(1)
  const state = { slot: peer.keySlot, mayLack: false, fetch: async () => {} }
  const store = new SealedStore(peer.store, {
    slotOf: () => state.slot,
    mayLack: () => state.mayLack,
    fetch: () => state.fetch()
  })
  const ask = (kind: number): Promise<BlockOp> => {
    const op = Object.assign(store.acquireOp(), { kind, familyLow: 1, layerLow: 7, blockCount: 1 })
    Object.assign(op, { writerEpoch: 1, sequence: 1, payload: 0 })
    return new Promise((resolve) => {
      op.onDone = resolve
      store.submit(op)
      store.ring()
    })
  }
  peer.arena.acquire(1)
  peer.arena.bytes.fill(3, 0, BLOCK_BYTES)
  strictEqual((await ask(OpKind.Write)).error, 0)
  peer.arena.bytes.fill(0, 0, BLOCK_BYTES)
  strictEqual((await ask(OpKind.Read)).error, 0)
  strictEqual(peer.arena.bytes[1000], 3)
  const sealedWith = state.slot
  state.slot = peer.keys.hold(Buffer.alloc(32, 8), { family: 99 })
  strictEqual((await ask(OpKind.Read)).error, ErrorCode.Locked)
  state.mayLack = true
  strictEqual((await ask(OpKind.Read)).error, ErrorCode.SealBroken)
  state.fetch = async () => {
    state.slot = sealedWith
  }
  strictEqual((await ask(OpKind.Read)).error, 0)
  // An older key is there instead.
  state.slot = peer.keys.hold(Buffer.alloc(32, 8))
  strictEqual((await ask(OpKind.Read)).error, 0)
  state.slot = 0
  strictEqual((await ask(OpKind.Read)).error, ErrorCode.Locked)
  strictEqual((await ask(OpKind.Write)).error, ErrorCode.Locked)
})

test.run()
