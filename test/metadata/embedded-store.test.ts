import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { LmdbTables } from '../../src/metadata/lmdb-tables.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import type { Tables } from '../../src/metadata/tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { contract, type StoreUnderTest } from './contract.ts'

async function openOn(tables: Tables, cleanUp: () => void): Promise<StoreUnderTest> {
  const clock = new ManualClock()
  const store = await EmbeddedStore.open(tables, { clock, random: new SeededRandom(1) })
  return {
    store,
    pass: async (ms) => {
      clock.nowMs += ms
    },
    dispose: async () => {
      await store.close()
      cleanUp()
    }
  }
}

contract('memory', () => openOn(new MemoryTables(), () => {}))

contract('lmdb', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-metadata-'))
  const tables = await LmdbTables.open(join(directory, 'metadata'), { create: true })
  return openOn(tables, () => rmSync(directory, { recursive: true, force: true }))
})
