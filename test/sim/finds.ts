/** A gateway asks in which chunks there is anything: of the others all blocks read as zeroes. */
import { parseId64 } from '../../src/cluster/ids.ts'
import type { ChunksFound } from '../../src/replication/chunk-finder.ts'
import { CHUNK_BLOCKS_USED, CHUNKS, checkRead, type Session } from './block-model.ts'
import type { SimVolume } from './volume.ts'

/** Of the head, or of a snapshot. */
export function findChunks(volume: SimVolume, session: Session): void {
  const { history, record, sim } = volume
  const view = history.someView()
  const blocks = view?.blocks ?? volume.blocks
  const floors = blocks.map(({ floor }) => floor)
  for (const block of blocks) block.reading.push(block.floor)
  const sinceMs = sim.world.nowMs
  const check = (found: ChunksFound | null): void => {
    session.inFlight--
    for (const [at, { reading }] of blocks.entries()) {
      reading.splice(reading.indexOf(floors[at]!), 1)
    }
    for (let chunk = 0; chunk < Math.min(CHUNKS, found?.until ?? 0); chunk++) {
      if (found!.chunks.includes(chunk)) continue
      volume.absent++
      const start = chunk * CHUNK_BLOCKS_USED
      for (let at = start; at < start + CHUNK_BLOCKS_USED; at++) {
        const where = `${at} of ${view?.layer ?? 'the head'}, where nothing was found,`
        checkRead(volume, blocks[at]!, 0, { floor: floors[at]!, sinceMs, session, where })
      }
    }
  }
  const family = parseId64(record.family)
  const layer = parseId64(view?.layer ?? record.headLayer)
  const question = {
    ...{ familyHigh: family.high, familyLow: family.low, since: null },
    ...{ layerHigh: layer.high, layerLow: layer.low, first: 0, end: CHUNKS }
  }
  session.inFlight++
  session.boot.store!.finder.find(question).then(check, (thrown: unknown) => {
    sim.world.fail(`finding chunks failed: ${(thrown as Error).stack}`)
  })
}
