/** Where a gateway finds nothing, nobody has anything: what is not known counts as found. */
import { deepStrictEqual, ok } from 'node:assert'
import { test } from 'uvu'
import { parseId64 } from '../../src/cluster/ids.ts'
import { QuietCluster } from './quiet.ts'
import type { Session, SimVolume } from './volume.ts'

/** Nobody writes to these. */
const FIRST = 1000
const END = 1040

async function find(sim: QuietCluster, volume: SimVolume, session: Session, withinMs: number) {
  const family = parseId64(volume.record.family)
  const layer = parseId64(volume.record.headLayer)
  const question = {
    ...{ familyHigh: family.high, familyLow: family.low, since: null },
    ...{ layerHigh: layer.high, layerLow: layer.low, first: FIRST, end: END }
  }
  let chunks: number[] | null = null
  void session.boot.store!.finder.find(question).then((answer) => {
    chunks = answer === null ? [] : [...answer.chunks]
  })
  await sim.world.runFor(withinMs, 'it is answered', () => chunks !== null)
  return chunks
}

test('chunks of members that do not answer have to be asked one by one', async () => {
  const sim = new QuietCluster({ peers: 2, copies: 1, engine: true })
  const { volume, session } = await sim.open()
  deepStrictEqual(await find(sim, volume, session, 100), [])
  const [, other] = sim.peers
  const { high, low } = parseId64(volume.record.family)
  const groups = sim.groups()
  const lost: number[] = []
  for (let chunk = FIRST; chunk < END; chunk++) {
    const [only] = groups.get(sim.groupOfChunk(high, low, chunk))!.inSync
    if (only!.peer === other!.peerId) lost.push(chunk)
  }
  ok(lost.length > 0 && lost.length < END - FIRST, 'it has some, and not all')
  other!.boot!.process.stop(60_000)
  deepStrictEqual(await find(sim, volume, session, 3000), lost)
})

test.run()
