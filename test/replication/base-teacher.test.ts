/** Ops that a shard leaves unanswered because it does not know on what a branch stands. */
import { deepStrictEqual, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ErrorCode } from '../../src/core/errors.ts'
import { BASED_START } from '../../src/core/layer-ids.ts'
import { BaseTeacher } from '../../src/replication/base-teacher.ts'
import { BlockOp, OpKind } from '../../src/replication/block-store.ts'

/** A read of a branch whose base the metadata tells when `tell` is called. */
function site() {
  const queued: number[] = []
  const answers: number[] = []
  let tell = (): void => {}
  let isKnown = false
  const shards = {
    shardCount: 1,
    acquireOp: () => new BlockOp(),
    releaseOp: () => {},
    submitTo: (_shard: number, { kind }: BlockOp) => void queued.push(kind),
    readmit: (_: BlockOp): number => ErrorCode.Ok,
    ring: () => {}
  }
  const teacher = new BaseTeacher(shards, {
    find: () => (isKnown ? null : undefined),
    fetch: () =>
      new Promise((resolve) => {
        tell = () => {
          isKnown = true
          resolve(null)
        }
      })
  })
  const read = new BlockOp()
  read.kind = OpKind.Read
  read.layerLow = BASED_START
  read.onDone = ({ error }) => void answers.push(error)
  teacher.watch(read)
  read.error = ErrorCode.BaseUnknown
  read.onDone(read)
  return { shards, queued, answers, tell: () => tell() }
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('the shard is told, and asked again', async () => {
  const { queued, answers, tell } = site()
  deepStrictEqual(queued, [])
  tell()
  await settled()
  deepStrictEqual(queued, [OpKind.SetBase, OpKind.Read])
  strictEqual(answers.length, 0)
})

test('R3: what was fenced off meanwhile is not queued behind the fence', async () => {
  const { shards, queued, answers, tell } = site()
  shards.readmit = () => ErrorCode.StaleGroup
  tell()
  await settled()
  deepStrictEqual(queued, [])
  deepStrictEqual(answers, [ErrorCode.StaleGroup])
})

test.run()
