import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The version in package.json: the nearest one above this file, from sources as from dist/. */
export const version: string = readVersion(dirname(fileURLToPath(import.meta.url)))

function readVersion(directory: string): string {
  const path = join(directory, 'package.json')
  if (existsSync(path)) return String(JSON.parse(readFileSync(path, 'utf8')).version)
  const parent = dirname(directory)
  return parent === directory ? 'unknown' : readVersion(parent)
}
