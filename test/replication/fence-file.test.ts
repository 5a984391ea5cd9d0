import { deepStrictEqual, rejects } from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import { FenceKind } from '../../src/format/fences.ts'
import { FenceFile } from '../../src/replication/fence-file.ts'
import { temporaryDirectory } from '../helpers/shard-rig.ts'

const test = suite('fence file')

test('fences are found again, and those of another peer or damaged ones are refused', async () => {
  const { path, remove } = temporaryDirectory()
  const clusterId = '000102030405060708090a0b0c0d0e0f'
  const identity = { clusterId, peerId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff' }
  const file = new FenceFile(path, identity)
  deepStrictEqual(await file.load(), [])
  const entries = [{ kind: FenceKind.Family, high: 1, low: 2, epoch: 3 }]
  await file.save(entries)
  await file.save([...entries, { kind: FenceKind.Group, high: 1, low: 0, epoch: 1 }])
  deepStrictEqual((await new FenceFile(path, identity).load()).length, 2)
  await rejects(new FenceFile(path, { ...identity, peerId: clusterId }).load(), /is of peer f0f1/)
  writeFileSync(
    join(path, 'fences'),
    'TFEN and something else that is long enough to be a header..'
  )
  await rejects(file.load(), /fences: /)
  remove()
})

test.run()
