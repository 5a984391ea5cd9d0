/**
 * `npm start`: sets the checkout up, then is a peer that serves volume "demo" (1 GiB) over NBD from
 * torus-data/ beside package.json. One process from set-up to server, so that a signal sent to npm
 * reaches the server.
 *
 * Usage: npm start [-- OPTION…]   options of `torus serve`, which win over those given here
 * Exit codes: those of `torus serve`; 1 when the set-up failed
 */
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setUp } from './setup.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

if (setUp()) {
  const program = join(root, 'dist/src/cli/main.js')
  const defaults = ['serve', '--data-dir', join(root, 'torus-data'), '--volume', 'demo=1GiB']
  process.argv = [process.execPath, program, ...defaults, ...process.argv.slice(2)]
  await import(program)
} else {
  process.exitCode = 1
}
