import { deepStrictEqual, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { withNewVolume } from '../../src/coordinator/new-volumes.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import type { CreateOptions } from '../../src/volume/volume-options.ts'
import { failsWith, openBench } from '../helpers/volume-bench.ts'

const pools = {
  pool: async (name: string): Promise<never> => {
    throw new StoreError(ErrorCode.NotFound, `there is no pool ${name}`)
  }
}
const LATER = '2100-01-01T00:00:00.000Z'
const fields = { sizeBytes: 4096, type: 'block', description: '' }

test('a volume has its rule of access from the first moment, imports too', async () => {
  const { volumes, close } = await openBench()
  const make = (options: CreateOptions) => volumes.create(options)
  const access = { addresses: ['10.0.0.0/8'], tlsNames: undefined, readOnly: true }
  const made = await withNewVolume({ ...fields, name: 'a', access }, pools, make)
  const rule = { addresses: ['10.0.0.0/8'], tlsNames: [], readOnly: true, listSnapshots: false }
  deepStrictEqual(made.access, rule)
  const hidden = { why: 'import', since: LATER, until: LATER } as const
  const { id } = await withNewVolume({ ...fields, name: 'b', access }, pools, (options) =>
    volumes.create({ ...options, hidden })
  )
  await volumes.reveal(id, 'b')
  deepStrictEqual((await volumes.show('b')).access, rule)
  await close()
})

test('a rule, or a pool, that is none makes no volume', async () => {
  const { volumes, close } = await openBench()
  const make = (options: CreateOptions) => volumes.create(options)
  const bad = { ...fields, name: 'a', access: { addresses: ['10.0.0.0/33'] } }
  await rejects(withNewVolume(bad, pools, make), failsWith(ErrorCode.InvalidArgument))
  const nowhere = { ...fields, name: 'a', pool: 'none' }
  await rejects(withNewVolume(nowhere, pools, make), failsWith(ErrorCode.NotFound))
  strictEqual((await volumes.listAll()).length, 0)
  await close()
})

test.run()
