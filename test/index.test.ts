import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, extname, join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../scripts/repository.ts'
import * as library from '../src/index.ts'
import { openPeer } from '../src/index.ts'

const { ErrorCode, StoreError } = library

async function inDirectory(body: (dataDir: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-library-'))
  try {
    await body(join(directory, 'data'))
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const small = { shards: 1, capacityBytes: 2 ** 31, arenaBytes: 16 * 1024 * 1024 }

/** Programs that the documentation shows: the comment at the head of the library, the README. */
function examples(): string[] {
  const head = readFileSync(join(repositoryRoot, 'src', 'index.ts'), 'utf8').split('*/')[0]!
  const lines = head.split('\n').filter((line) => line.startsWith(' *   '))
  const blocks = readFileSync(join(repositoryRoot, 'README.md'), 'utf8')
    .split(/^```/m)
    .filter((block, index) => index % 2 === 1 && /import .*openPeer/.test(block))
  const fromReadme = blocks.map((block) => block.slice(block.indexOf('\n') + 1))
  return [lines.map((line) => line.slice(5)).join('\n'), ...fromReadme]
}

for (const [index, example] of examples().entries()) {
  test(`example ${index + 1} of the documentation runs as it stands there`, async () => {
    await inDirectory(async (dataDir) => {
      const library = new URL(`../src/index${extname(import.meta.url)}`, import.meta.url).href
      const program = example.replace("'torus'", `'${library}'`)
      ok(program !== example && program.includes('./data'), 'it imports torus and opens ./data')
      const file = join(dirname(dataDir), 'example.mjs')
      writeFileSync(file, program)
      const { stdout, stderr, status } = spawnSync(process.execPath, [file], {
        cwd: dirname(dataDir),
        encoding: 'utf8',
        timeout: 60_000
      })
      deepStrictEqual({ stdout, status }, { stdout: 'hello\n', status: 0 }, stderr)
    })
  })
}

test('a data directory keeps its volumes, and only one process has it', async () => {
  await inDirectory(async (dataDir) => {
    const data = Buffer.from(
      Uint8Array.from({ length: 3_000_000 }, (_, index) => (index * 7) & 255)
    )
    const first = await openPeer({ dataDir, ...small })
    await rejects(
      openPeer({ dataDir, ...small }),
      (thrown) => thrown instanceof StoreError && thrown.code === ErrorCode.Busy
    )
    await first.volumes.create({ name: 'v', sizeBytes: 16 * 1024 * 1024 })
    const file = await first.volumes.openFile('v')
    await file.writeAt(4_190_001, data)
    await file.zero(5_000_001, 10_001)
    data.fill(0, 5_000_001 - 4_190_001, 5_010_002 - 4_190_001)
    await file.trim(6_000_000, 100_000)
    const trimStart = Math.ceil(6_000_000 / 4096) * 4096 - 4_190_001
    const trimEnd = Math.floor(6_100_000 / 4096) * 4096 - 4_190_001
    data.fill(0, trimStart, trimEnd)
    ok((await file.readAt(4_190_001, data.length)).equals(data))
    await file.close()
    await first.volumes.rename('v', 'w')
    await first.stop()

    const second = await openPeer({ dataDir, ...small })
    deepStrictEqual(
      (await second.volumes.listAll()).map(({ name }) => name),
      ['w']
    )
    const again = await second.volumes.openFile('w')
    ok((await again.readAt(4_190_001, data.length)).equals(data))
    const kinds = (await again.extents(0, 16 * 1024 * 1024)).map(({ kind }) => kind)
    ok(kinds.includes('data') && kinds.includes('hole'))
    await again.resize(8 * 1024 * 1024, { shrink: true })
    await again.resize(16 * 1024 * 1024)
    deepStrictEqual(await again.readAt(8 * 1024 * 1024, 4096), Buffer.alloc(4096))
    await again.close()
    await second.volumes.delete('w')
    deepStrictEqual(await second.volumes.listAll(), [])
    await second.stop()
  })
})

test('a program may bring its own volume type', async () => {
  await inDirectory(async (dataDir) => {
    const peer = await openPeer({
      dataDir,
      ...small,
      volumeTypes: [
        {
          name: 'counter',
          description: 'a number that is kept',
          format: (file) => file.writeAt(0, Buffer.alloc(8)),
          open: async (file) => ({
            async next(): Promise<bigint> {
              const value = (await file.readAt(0, 8)).readBigUInt64BE() + 1n
              const bytes = Buffer.alloc(8)
              bytes.writeBigUInt64BE(value)
              await file.writeAt(0, bytes, { durable: true })
              return value
            },
            close: () => file.close()
          })
        }
      ]
    })
    await peer.volumes.create({ name: 'c', sizeBytes: 4096, type: 'counter' })
    const counter = await peer.volumes.openTyped<{
      next(): Promise<bigint>
      close(): Promise<void>
    }>('c')
    await counter.next()
    strictEqual(await counter.next(), 2n)
    await counter.close()
    await peer.stop()
  })
})

test.run()
