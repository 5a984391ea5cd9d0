import { deepStrictEqual, match, ok, rejects, strictEqual } from 'node:assert'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { loadPlugin } from '../../src/volume/plugins.ts'
import { VolumeTypes } from '../../src/volume/volume-types.ts'
import { failsWith, openBench } from '../helpers/volume-bench.ts'
import type { Journal } from './plugins/journal.ts'

const here = dirname(fileURLToPath(import.meta.url))
const journal = `./plugins/journal${extname(import.meta.url)}`

async function withModule(
  source: string,
  body: (name: string, directory: string) => Promise<void>
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-plugin-'))
  try {
    writeFileSync(join(directory, 'plugin.mjs'), source)
    await body('./plugin.mjs', directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

test('a type from a module outside of the sources makes, formats and opens volumes', async () => {
  const types = new VolumeTypes()
  const plugin = await loadPlugin(journal, types, here)
  strictEqual(plugin.name, 'journal, for tests')
  deepStrictEqual(types.names, ['block', 'journal', 'mirror-image'])
  let bench = await openBench({ volumes: { types } })
  const made = await bench.volumes.create({
    name: 'j',
    sizeBytes: 0,
    type: 'journal',
    settings: { keep: 3 }
  })
  strictEqual(made.sizeBytes, 8)
  const long = bench.volumes.create({ name: 'k', sizeBytes: 10, type: 'journal' })
  await rejects(long, failsWith(ErrorCode.Unavailable), 'a plain error of the type')
  const first = await bench.volumes.openTyped<Journal>('j')
  await first.add('one')
  await first.add('')
  await first.add('x'.repeat(10_000))
  await first.close()
  const { tables, arena } = bench
  const store = bench.store.afterPowerCut(arena, 2)
  await bench.metadata.close()
  bench = await openBench({ volumes: { types }, tables, store, arena, boot: 2 })
  const again = await bench.volumes.openTyped<Journal>('j')
  deepStrictEqual(await again.entries(), ['one', '', 'x'.repeat(10_000)])
  await again.close()
  await rejects(bench.volumes.open('j', {}), failsWith(ErrorCode.Forbidden))
  deepStrictEqual(await bench.volumes.list(), [])
  await bench.close()
})

test('a type may put something around the device that clients get', async () => {
  const types = new VolumeTypes()
  await loadPlugin(journal, types, here)
  const bench = await openBench({ volumes: { types } })
  await bench.volumes.create({ name: 'm', sizeBytes: 8192, type: 'mirror-image' })
  const device = await bench.volumes.open('m', {})
  strictEqual(device.sizeBytes, 4096)
  await rejects(bench.volumes.openTyped('m'), failsWith(ErrorCode.Forbidden))
  await device.close()
  strictEqual((await bench.volumes.show('m')).clients, 0)
  await bench.close()
})

test('a volume whose type is not loaded is shown and deleted, but not opened', async () => {
  const types = new VolumeTypes()
  await loadPlugin(journal, types, here)
  const first = await openBench({ volumes: { types } })
  await first.volumes.create({ name: 'j', sizeBytes: 0, type: 'journal' })
  const { tables, store, arena } = first
  await first.close()
  const bench = await openBench({ tables, store, arena, boot: 2 })
  strictEqual((await bench.volumes.show('j')).type, 'journal')
  await rejects(bench.volumes.open('j', {}), failsWith(ErrorCode.Unavailable))
  await rejects(bench.volumes.openTyped('j'), failsWith(ErrorCode.Unavailable))
  strictEqual((await bench.volumes.show('j')).clients, 0)
  await bench.volumes.delete('j')
  await bench.close()
})

test('a volume whose format fails leaves nothing, not even after a crash', async () => {
  const types = new VolumeTypes()
  let fail = true
  types.register({
    name: 'fragile',
    description: 'fails to format',
    format: async (file) => {
      await file.writeAt(0, Buffer.alloc(4096, 1), { durable: true })
      if (fail) throw new StoreError(ErrorCode.InvalidArgument, 'not today')
    },
    attach: (device) => device
  })
  const bench = await openBench({ volumes: { types } })
  const made = bench.volumes.create({ name: 'f', sizeBytes: 8192, type: 'fragile' })
  await rejects(made, failsWith(ErrorCode.InvalidArgument))
  deepStrictEqual(await bench.volumes.listAll(), [])
  strictEqual(bench.store.size, 0)
  fail = false
  await bench.volumes.create({ name: 'f', sizeBytes: 8192, type: 'fragile' })

  // A process that dies while it formats.
  const { VolumeDirectory } = await import('../../src/cluster/volume-directory.ts')
  const directory = new VolumeDirectory(bench.cluster)
  const half = { name: 'half', type: 'fragile', sizeBytes: 8192, unitBytes: 4096 }
  await directory.create({ ...half, state: 'creating' })
  await rejects(bench.volumes.open('half', {}), failsWith(ErrorCode.Busy))
  await bench.volumes.resume()
  await rejects(bench.volumes.show('half'), failsWith(ErrorCode.NotFound))
  ok((await bench.volumes.show('f')).sizeBytes === 8192)
  await bench.close()
})

const wrong: [source: string, code: ErrorCode, message: RegExp][] = [
  ['export const x = 1', ErrorCode.InvalidArgument, /exports neither torusPlugin nor a default/],
  ['export default 5', ErrorCode.InvalidArgument, /plugin \.\/plugin\.mjs: value: /],
  [
    'export default { apiVersion: 2, name: "x", volumeTypes: [] }',
    ErrorCode.InvalidArgument,
    /apiVersion: must be 1/
  ],
  [
    'export default { apiVersion: 1, name: "x" }',
    ErrorCode.InvalidArgument,
    /plugin \.\/plugin\.mjs: volumeTypes: /
  ],
  [
    'export default { apiVersion: 1, name: "x", volumeTypes: [{ name: "A b", description: "d" }] }',
    ErrorCode.InvalidArgument,
    /volumeTypes\[0\]: .*name: must be lower-case/
  ],
  [
    `export default { apiVersion: 1, name: "x",
       volumeTypes: [{ name: "a", description: "d", attach: true }] }`,
    ErrorCode.InvalidArgument,
    /volumeTypes\[0\]: .*attach: must be a function/
  ],
  [
    'export default { apiVersion: 1, name: "x", volumeTypes: [{ name: "a", description: "d" }] }',
    ErrorCode.InvalidArgument,
    /neither open nor attach/
  ],
  [
    `export default { apiVersion: 1, name: "x",
       volumeTypes: [{ name: "block", description: "d", attach: (d) => d }] }`,
    ErrorCode.AlreadyExists,
    /block is there already/
  ],
  ['throw new Error("broken inside")', ErrorCode.Unavailable, /cannot be loaded: broken inside/],
  ['export default {', ErrorCode.Unavailable, /cannot be loaded/]
]

for (const [source, code, message] of wrong) {
  test(`a bad plugin is refused with a reason: ${String(message)}`, async () => {
    await withModule(source, async (name, directory) => {
      const types = new VolumeTypes()
      try {
        await loadPlugin(name, types, directory)
        ok(false, 'it was loaded')
      } catch (thrown) {
        ok(thrown instanceof StoreError, String(thrown))
        strictEqual(thrown.code, code)
        match(thrown.message, message)
      }
      deepStrictEqual(types.names, ['block'])
    })
  })
}

test('a plugin may be a package, and a missing one is told', async () => {
  const types = new VolumeTypes()
  await rejects(loadPlugin('./none.mjs', types, here), failsWith(ErrorCode.Unavailable))
  await rejects(loadPlugin('torus-none', types, here), failsWith(ErrorCode.Unavailable))
  await withModule('', async (_name, directory) => {
    const home = join(directory, 'node_modules', 'torus-tape')
    mkdirSync(home, { recursive: true })
    const manifest = { name: 'torus-tape', version: '1.0.0', type: 'module', main: 'index.js' }
    writeFileSync(join(home, 'package.json'), JSON.stringify(manifest))
    writeFileSync(
      join(home, 'index.js'),
      `export default { apiVersion: 1, name: 'tape',
         volumeTypes: [{ name: 'tape', description: 'd', attach: (device) => device }] }`
    )
    await loadPlugin('torus-tape', types, directory)
    deepStrictEqual(types.names, ['block', 'tape'])
  })
})

test.run()
