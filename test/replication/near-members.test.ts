/** Reads that a gateway answers at once from its own shards: by the rules of any other read. */
import { strictEqual } from 'node:assert/strict'
import { suite } from 'uvu'
import type { GroupTable, PoolView } from '../../src/cluster/group-table.ts'
import { systemTimers } from '../../src/core/clock.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { BLOCK_BYTES } from '../../src/core/limits.ts'
import { BlockOp, OpKind } from '../../src/replication/block-store.ts'
import type { Member } from '../../src/replication/member.ts'
import { ReplicatedStore } from '../../src/replication/replicated-store.ts'
import { TestArena } from '../helpers/test-arena.ts'

const test = suite('near members')

const FAMILY = '0000000000000001'
const AT_HAND_MS = 0.5
const NOW_MS = 1e6

/** A member that answers when it is told to. */
class HeldMember implements Member {
  readonly bootId = 'b'
  readonly inFlight = 0
  readonly held: BlockOp[] = []
  readonly near: BlockOp[] = []
  readonly peerId: string
  readonly isLocal: boolean

  constructor(peerId: string, isLocal: boolean) {
    this.peerId = peerId
    this.isLocal = isLocal
  }

  submit(op: BlockOp): void {
    this.held.push(op)
  }
  readNow(op: BlockOp): number {
    this.near.push(Object.assign(new BlockOp(), op))
    return AT_HAND_MS
  }
  answer(): void {
    for (const op of this.held.splice(0)) op.onDone(op)
  }
  ring(): void {}
  flush(done: (error: number) => void): void {
    done(ErrorCode.Ok)
  }
  call(): Promise<never> {
    return new Promise(() => {})
  }
  onLost(): void {}
}

/** One family in one group of two members, of which one is this process's own. */
function rig(options: { readonly localInSync?: boolean; readonly trustedForMs?: number } = {}) {
  const { localInSync = true, trustedForMs = 1000 } = options
  const [local, remote] = [new HeldMember('p1', true), new HeldMember('p2', false)]
  const groups = { onChange: () => {} } as unknown as GroupTable
  const arena = new TestArena(8)
  const store = new ReplicatedStore({
    members: {
      find: (peerId) => [local, remote].find((each) => each.peerId === peerId) ?? null,
      onChange: () => {}
    },
    groups,
    arena,
    // Long after the start: no member confirmed anything lately.
    clock: { wallMs: () => NOW_MS, monotonicMs: () => NOW_MS },
    timers: systemTimers,
    local: null,
    trustedForMs: () => trustedForMs
  })
  const pool = store.pool({ number: 3, groups: 1, leastGroups: 1, firstGroups: 1 } as PoolView)
  const family = store.openFamily(pool, {
    family: FAMILY,
    writerEpoch: 7,
    claim: { key: 'writer', modRevision: 1 },
    unavailableMs: null,
    onFenced: () => {},
    onPowerLoss: () => {}
  })
  const [mine, other] = [
    { peer: 'p1', boot: 'b' },
    { peer: 'p2', boot: 'b' }
  ]
  const inSync = localInSync ? [mine, other] : [other]
  const syncing = localInSync ? [] : [mine]
  const record = { v: 1 as const, epoch: 5, members: ['p1', 'p2'], inSync, syncing }
  store.learn(pool.covering(0), { record, modRevision: 1 })
  store.settled(family, pool.covering(0))
  const into = Buffer.alloc(BLOCK_BYTES)
  const opOf = (kind: number, firstBlock: number, blockCount: number): BlockOp =>
    Object.assign(new BlockOp(), { kind, familyLow: 1, firstBlock, blockCount, sequence: 1 })
  return {
    ...{ local, remote, store, family },
    read: (block: number) => store.readNow(opOf(OpKind.Read, block, 1), into, 0),
    write: (firstBlock: number, blockCount: number) =>
      store.submit(opOf(OpKind.Trim, firstBlock, blockCount))
  }
}

test('a read is answered here, under the epochs that its member admits it by', () => {
  const { store, read, local } = rig()
  strictEqual(read(1), AT_HAND_MS)
  const { pool, group, groupEpoch, fenceEpoch } = local.near[0]!
  strictEqual([pool, group, groupEpoch, fenceEpoch].join(), '3,0,5,7')
  store.close()
})

test('R10: not while a write of the block is pending at any member', () => {
  const { store, read, write, local, remote } = rig()
  write(4, 3)
  strictEqual(read(3), AT_HAND_MS)
  for (const block of [4, 5, 6]) strictEqual(read(block), -1, `block ${block}`)
  local.answer()
  strictEqual(read(5), -1, 'here it is done, and elsewhere not')
  remote.answer()
  strictEqual(read(5), AT_HAND_MS)
  store.close()
})

test('R10: not from shards that are not in sync', () => {
  const { store, read } = rig({ localInSync: false })
  strictEqual(read(1), -1)
  store.close()
})

test('R26: not past the lease', () => {
  const { store, read } = rig({ trustedForMs: 0 })
  strictEqual(read(1), -1)
  store.close()
})

test('R17: not from a group whose members may differ, nor of a family that is closed', () => {
  const { store, read, family } = rig()
  family.unsettled.add(0)
  strictEqual(read(1), -1)
  family.unsettled.clear()
  strictEqual(read(1), AT_HAND_MS)
  store.closeFamily(family)
  strictEqual(read(1), -1)
  store.close()
})

test.run()
