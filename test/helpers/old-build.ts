/** A build of an earlier version, made of this one: it knows the first feature level only. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { repositoryRoot } from '../../scripts/repository.ts'
import { torusProgram } from './server.ts'

export interface OldBuild {
  /** Its command line program. */
  readonly program: string
  readonly version: string
  dispose(): void
}

const LEVELS = 'dist/src/core/levels.js'

export function makeOldBuild(): OldBuild {
  const directory = mkdtempSync(join(tmpdir(), 'torus-old-'))
  for (const folder of ['dist/src', 'dist/workers']) {
    cpSync(join(repositoryRoot, folder), join(directory, folder), { recursive: true })
  }
  symlinkSync(join(repositoryRoot, 'node_modules'), join(directory, 'node_modules'))
  const [version, type] = ['0.0.1', 'module']
  writeFileSync(join(directory, 'package.json'), JSON.stringify({ name: 'torus', version, type }))
  const levels = join(directory, LEVELS)
  const text = readFileSync(levels, 'utf8')
  const patched = text.replace(/LEVEL_MAX = \d+/, 'LEVEL_MAX = 1')
  if (patched === text) throw new Error(`${LEVELS} does not have the level that it brings`)
  writeFileSync(levels, patched)
  return {
    program: join(directory, relative(repositoryRoot, torusProgram)),
    version,
    dispose: () => rmSync(directory, { recursive: true, force: true })
  }
}
