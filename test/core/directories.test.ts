import { deepStrictEqual, throws } from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { makeDirectory, replaceFile } from '../../src/core/directories.ts'

const test = suite('directories')

test('what is missing above a directory is made too, and making it again is fine', () => {
  const root = mkdtempSync(join(tmpdir(), 'torus-directories-'))
  try {
    const path = join(root, 'a', 'b', 'c')
    makeDirectory(path)
    makeDirectory(path)
    if (statSync(path).mode & 0o077) throw new Error('others may look into it')
    writeFileSync(join(root, 'file'), '')
    throws(() => makeDirectory(join(root, 'file')), { code: 'EEXIST' })
    throws(() => makeDirectory(join(root, 'file', 'x')), { code: 'ENOTDIR' })
  } finally {
    rmSync(root, { recursive: true })
  }
})

test('where the system makes no directories the error comes at once', () => {
  if (!existsSync('/proc/self')) return
  throws(() => makeDirectory('/proc/x/y'), { code: 'ENOENT' })
})

test('a file that cannot be written whole leaves no draft', () => {
  const root = mkdtempSync(join(tmpdir(), 'torus-directories-'))
  function* half(): Generator<Uint8Array> {
    yield Buffer.from('half')
    throw new Error('the disk is full')
  }
  try {
    throws(() => replaceFile(join(root, 'file'), half()), /the disk is full/)
    deepStrictEqual(readdirSync(root), [])
  } finally {
    rmSync(root, { recursive: true })
  }
})

test.run()
