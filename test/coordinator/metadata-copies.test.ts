import { deepStrictEqual, ok } from 'node:assert'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { Cluster } from '../../src/cluster/cluster.ts'
import { COPY_FILE, MetadataCopies } from '../../src/coordinator/metadata-copies.ts'
import { createLog } from '../../src/core/log.ts'
import { decodeBackup } from '../../src/metadata/backup-format.ts'
import { EmbeddedStore } from '../../src/metadata/embedded-store.ts'
import { MemoryTables } from '../../src/metadata/memory-tables.ts'
import { ManualClock, SeededRandom } from '../helpers/manual-clock.ts'
import { until } from '../helpers/process.ts'

const self = {
  clusterId: 'c'.repeat(32),
  peerId: 'a'.repeat(32),
  bootId: 'b'.repeat(32),
  bootCounter: 1,
  capacityBytes: 1
}

/** Changed by operators and gateways; groups come by `noteGroup`, the rest is about processes. */
const LASTING = [
  'volumes/1',
  'names/v',
  'families/1',
  'deleted/1',
  'volumekeys/1',
  'snapshots/1/s',
  'bases/1/0',
  'clients/1',
  'pools/p',
  'poolnumbers/1',
  'settings',
  `peers/${'d'.repeat(32)}`,
  'tokens/1',
  'tokens/required'
]

test('what was made after a copy is in it soon, with all that a volume needs', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'torus-copies-'))
  const clock = new ManualClock()
  const random = new SeededRandom(1)
  const store = await EmbeddedStore.open(new MemoryTables(), { clock, random })
  const cluster = await Cluster.open(store, self, { clock, random })
  const output = createLog({ logLevel: 'silent', logFormat: 'json', logLines: 1 })
  const copies = new MetadataCopies(cluster, directory, output)
  const copied = () => decodeBackup(readFileSync(join(directory, COPY_FILE)))
  const keysOf = (): string[] =>
    existsSync(join(directory, COPY_FILE)) ? copied().entries.map(({ key }) => key) : []
  try {
    copies.start()
    await until(() => keysOf().includes('cluster'), 'there is a copy')
    const before = copied()
    await clock.advance(60_000)
    const puts = LASTING.map((key) => ({
      put: cluster.keys.root + key,
      value: Buffer.from('{"v":1}')
    }))
    await store.transact({ compare: [], success: puts, failure: [] })
    await until(() => keysOf().length > before.entries.length, 'it has news')
    deepStrictEqual(
      LASTING.filter((key) => !keysOf().includes(key)),
      []
    )
    ok(copied().createdMs > before.createdMs, 'and tells how old they are')
  } finally {
    await copies.stop()
    await store.close()
    rmSync(directory, { recursive: true, force: true })
  }
})

test.run()
