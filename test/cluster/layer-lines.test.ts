/** How layers are named in records. */
import { deepStrictEqual, ok } from 'node:assert'
import { test } from 'uvu'
import { deletedLayers, layersOf, namedLayers } from '../../src/cluster/layer-lines.ts'

const layer = (branch: number, low: number): string =>
  branch.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')

test('the layers of a volume that had a hundred thousand snapshots fit a record of its end', () => {
  const volume = {
    rootLayer: layer(7, 5),
    headLayer: layer(7, 0xff000000 + 100_000),
    branches: [{ root: layer(9, 0xff800000), last: layer(9, 0xff800003) }]
  }
  const all = layersOf(volume)
  const named = namedLayers(all, true)
  deepStrictEqual(deletedLayers(named), all)
  ok(JSON.stringify(named).length < 500)
  // As older peers read it.
  deepStrictEqual(deletedLayers(namedLayers(all, false)), all)
})

test.run()
