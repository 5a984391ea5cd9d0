import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Folder of the checkout, from the sources as well as from dist/. */
export const repositoryRoot = fileURLToPath(
  new URL(extname(import.meta.url) === '.ts' ? '../' : '../../', import.meta.url)
)
