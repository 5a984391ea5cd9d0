/** Snapshots as the admin API sees them. */
import { deepStrictEqual, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { PeerSnapshotBackend } from '../../src/coordinator/snapshot-backend.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { failsWith, openBench, schedulesOf } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const unnamed = { description: '', labels: {} }

test('a protected snapshot stays until somebody says otherwise', async () => {
  const bench = await openBench()
  const { volumes } = bench
  const backend = new PeerSnapshotBackend(volumes, schedulesOf(bench))
  await volumes.create({ name: 'v', sizeBytes: MIB })
  await backend.create('v', { ...unnamed, name: 'a' })
  await backend.change('v', 'a', { protected: true, newName: 'b' })
  await rejects(backend.delete('v', 'b'), failsWith(ErrorCode.Busy))
  strictEqual((await backend.show('v', 'b')).protected, true)
  await backend.change('v', 'b', { protected: false })
  await backend.delete('v', 'b')
  deepStrictEqual(await backend.list('v'), [])
  const kinds = (await volumes.events('v')).map(({ kind }) => kind)
  deepStrictEqual(kinds, ['created', 'snapshot', 'snapshotDeleted'])
  await rejects(backend.create('nobody', { ...unnamed, name: 'a' }), failsWith(ErrorCode.NotFound))
  await rejects(backend.show('v', 'b'), failsWith(ErrorCode.NotFound))
  await bench.close()
})

test('a volume in the trash keeps its snapshots, and they go with it', async () => {
  const bench = await openBench()
  const { volumes } = bench
  const backend = new PeerSnapshotBackend(volumes, schedulesOf(bench))
  await volumes.create({ name: 'v', sizeBytes: MIB })
  await backend.create('v', { ...unnamed, name: 'a' })
  await volumes.discard('v')
  await rejects(backend.list('v'), failsWith(ErrorCode.NotFound))
  await volumes.trash.restore('v', 'w')
  deepStrictEqual(
    (await backend.list('w')).map(({ volume, name }) => `${volume}@${name}`),
    ['w@a']
  )
  await volumes.discard('w')
  await volumes.trash.empty()
  strictEqual((await bench.metadata.range('/torus/v1/snapshots/')).entries.length, 0)
  await bench.close()
})

test.run()
