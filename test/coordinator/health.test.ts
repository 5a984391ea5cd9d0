/** What is said of a disk with damage, and of one that had some. */
import { deepStrictEqual } from 'node:assert'
import { test } from 'uvu'
import type { Peer, ShardStats } from '../../src/admin/schemas.ts'
import { healthProblems } from '../../src/coordinator/health.ts'
import { fakeShard } from '../helpers/fake-backend.ts'

const peer = {
  capacityBytes: 2 ** 40,
  usedBytes: 0,
  filesystemFreeBytes: 2 ** 40
} as unknown as Peer

const said = (stats: Partial<ShardStats>): string[] =>
  healthProblems(peer, [fakeShard(0, stats)], [], 0).map(({ level, code }) => `${level} ${code}`)

test('damage is an error until a scrub found none', () => {
  deepStrictEqual(said({}), [])
  deepStrictEqual(said({ checksumErrors: 1 }), ['error checksumErrors'])
  deepStrictEqual(said({ checksumErrors: 1, scrubErrors: 1, scrubErrorsLast: 1 }), [
    'error scrubErrors'
  ])
  deepStrictEqual(said({ missingBlocks: 3, scrubErrors: 3, scrubErrorsLast: 3 }), [
    'error missingBlocks'
  ])
  const mended = { checksumErrors: 1, scrubErrors: 1, checksumErrorsChecked: 1 }
  deepStrictEqual(said(mended), ['warning damageMended'])
  deepStrictEqual(said({ ...mended, checksumErrors: 2 }), ['error checksumErrors'])
})

test.run()
