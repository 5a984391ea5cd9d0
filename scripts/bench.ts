/**
 * Compares torus with native NBD servers on this machine and prints ratios. It reports; it never
 * fails on a figure.
 *
 *   npm run bench                      every row: 8 s a job, 4 GiB, 5 rounds (about an hour)
 *   npm run bench -- --quick           the key rows, one round, under 3 minutes
 *   npm run bench -- --rows randread,randwrite --servers torus,nbdkit --rounds 3
 *
 * Exit codes: 0 measured, 1 something could not run, 2 usage.
 */
import { main } from './bench/main.ts'

process.exitCode = await main(process.argv.slice(2))
