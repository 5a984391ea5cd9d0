import { deepStrictEqual, match, ok, rejects, strictEqual } from 'node:assert'
import { spawn } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { LmdbTables } from '../../src/metadata/lmdb-tables.ts'

const failsWith =
  (code: ErrorCode) =>
  (thrown: unknown): boolean =>
    thrown instanceof StoreError && thrown.code === code

async function inDirectory(body: (path: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-lmdb-'))
  try {
    await body(join(directory, 'metadata'))
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

test('tables are made once, complete, and only when asked for', async () => {
  await inDirectory(async (path) => {
    await rejects(LmdbTables.open(path, { create: false }), failsWith(ErrorCode.NotFound))
    strictEqual(existsSync(path), false)
    // What an interrupted start left is no hindrance.
    mkdirSync(`${path}.new`)
    writeFileSync(join(`${path}.new`, 'data.mdb'), 'half')
    const made = await LmdbTables.open(path, { create: true })
    await made.write((write) => write.put('a', Buffer.from('1')))
    await made.close()
    strictEqual(existsSync(`${path}.new`), false)
    strictEqual(statSync(path).mode & 0o777, 0o700)
    chmodSync(path, 0o755)
    const again = await LmdbTables.open(path, { create: false })
    strictEqual(again.read((read) => read.get('a'))?.toString(), '1')
    strictEqual(statSync(path).mode & 0o777, 0o700, 'as an older version did not make it')
    await again.close()
  })
})

test('a write that throws leaves nothing, and those around it stand', async () => {
  await inDirectory(async (path) => {
    const tables = await LmdbTables.open(path, { create: true })
    const results = await Promise.allSettled(
      [1, 2, 3].map((step) =>
        tables.write((write) => {
          write.put(`k${step}`, Buffer.from('x'))
          if (step === 2) throw new StoreError(ErrorCode.Conflict, 'no')
        })
      )
    )
    deepStrictEqual(
      results.map(({ status }) => status),
      ['fulfilled', 'rejected', 'fulfilled']
    )
    const keys = tables.read((read) => read.range('k', 'l', 10)).map(([key]) => key)
    deepStrictEqual(keys, ['k1', 'k3'])
    await tables.close()
  })
})

test('closing waits for writes', async () => {
  await inDirectory(async (path) => {
    const tables = await LmdbTables.open(path, { create: true })
    const writing = tables.write((write) => write.put('a', Buffer.from('1')))
    await tables.close()
    await writing
    const again = await LmdbTables.open(path, { create: false })
    ok(again.read((read) => read.get('a')) !== null)
    await again.close()
  })
})

test('files that are no LMDB data are refused, not fatal', async () => {
  const damages: [name: string, damage: (file: string) => void][] = [
    ['zeroes', (file) => writeFileSync(file, Buffer.alloc(readFileSync(file).length))],
    ['garbage', (file) => writeFileSync(file, Buffer.alloc(20_000, 0x5a))],
    ['text', (file) => writeFileSync(file, 'hello')],
    ['empty', (file) => truncateSync(file, 0)],
    ['cut short', (file) => truncateSync(file, 5000)],
    ['without the pages after its heads', (file) => truncateSync(file, 8192)],
    ['gone', (file) => rmSync(file)]
  ]
  for (const [name, damage] of damages) {
    await inDirectory(async (path) => {
      const tables = await LmdbTables.open(path, { create: true })
      await tables.write((write) => write.put('a', Buffer.from('1')))
      await tables.close()
      damage(join(path, 'data.mdb'))
      await rejects(LmdbTables.open(path, { create: true }), failsWith(ErrorCode.Corrupt), name)
    })
  }
})

/** Runs a program in a process of its own, with the shell's limits set before. */
function run(
  limits: string,
  source: string,
  path: string,
  onLine: (line: string, kill: () => void) => void
): Promise<void> {
  const modules = new URL('../../src/metadata/lmdb-tables', import.meta.url).pathname
  const extension = import.meta.url.endsWith('.ts') ? '.ts' : '.js'
  const program = `import { LmdbTables } from ${JSON.stringify(modules + extension)}
    const tables = await LmdbTables.open(${JSON.stringify(path)}, { create: true })
    ${source}`
  const command = `${limits} exec "$0" --input-type=module -e "$1"`
  const child = spawn('sh', ['-c', command, process.execPath, program], {
    stdio: ['ignore', 'pipe', 'ignore']
  })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      onLine(text.slice(0, end), () => child.kill('SIGKILL'))
      text = text.slice(end + 1)
    }
  })
  return new Promise((resolve) => child.on('close', () => resolve()))
}

test('what was answered is there after kill -9', async () => {
  await inDirectory(async (path) => {
    for (let round = 0; round < 3; round++) {
      let answered = -1
      const source = `for (let step = 0; ; step++) {
        await tables.write((write) => write.put('n', Buffer.from(String(step))))
        console.log(step)
      }`
      await run('', source, path, (line, kill) => {
        answered = Number(line)
        if (answered > 20 + round * 7) kill()
      })
      const tables = await LmdbTables.open(path, { create: false })
      const found = Number(tables.read((read) => read.get('n'))?.toString())
      ok(found >= answered, `${found} is not before ${answered}`)
      await tables.close()
    }
  })
})

test('a disk that fails a write is an error to all writers until a restart', async () => {
  await inDirectory(async (path) => {
    const lines: string[] = []
    const source = `process.on('SIGXFSZ', () => {})
      for (let step = 0; step < 40; step++) {
        try {
          await tables.write((write) => write.put('k' + step, Buffer.alloc(100_000)))
        } catch (error) {
          console.log(error.name, error.code, error.message)
          break
        }
      }
      const small = tables.write((write) => write.put('small', Buffer.alloc(1)))
      console.log(await small.catch((error) => error.message))
      console.log(tables.read((read) => read.range('k', 'l', 100).length))
      await tables.close()`
    await run('ulimit -f 2000;', source, path, (line) => lines.push(line))
    match(lines[0] ?? '', /^StoreError 5 writing metadata/)
    match(lines[1] ?? '', /restart the peer/)
    const count = Number(lines[2])
    ok(count > 0 && count < 40, `${count} writes were taken`)
    const tables = await LmdbTables.open(path, { create: false })
    strictEqual(tables.read((read) => read.range('k', 'l', 100)).length, count)
    await tables.close()
  })
})

test('a directory that cannot be written is an error', async () => {
  if (process.getuid?.() === 0) return
  await inDirectory(async (path) => {
    chmodSync(join(path, '..'), 0o500)
    await rejects(LmdbTables.open(path, { create: true }), failsWith(ErrorCode.DiskFailure))
    chmodSync(join(path, '..'), 0o700)
  })
})

test.run()
