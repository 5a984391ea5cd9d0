import { deepStrictEqual, rejects } from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { suite } from 'uvu'
import { FenceKind } from '../../src/format/fences.ts'
import { FenceFile } from '../../src/replication/fence-file.ts'
import { Fences } from '../../src/replication/fences.ts'
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

test('fences are saved one time after the other, whoever asks when', async () => {
  let running = 0
  let most = 0
  const fences = await Fences.open({
    load: async () => [],
    save: async () => {
      most = Math.max(most, ++running)
      await pause(5)
      running--
    }
  })
  // Asks again in the moment in which the first save ends and the next, for the others, is due.
  const again = fences.hold().then(() => fences.hold())
  await Promise.all([again, fences.hold(), fences.hold()])
  deepStrictEqual(most, 1)
})

test.run()
