import { deepStrictEqual, strictEqual, throws } from 'node:assert/strict'
import { suite } from 'uvu'
import { formatRedundancy, membersOf, parseRedundancy } from '../../src/placement/redundancy.ts'

const test = suite('redundancy')

test('what is written is read, and written the same', () => {
  for (const [text, members] of [
    ['replicated:1', 1],
    ['replicated:3', 3],
    ['erasure:4+2', 6],
    ['erasure:30+2', 32]
  ] as const) {
    strictEqual(membersOf(parseRedundancy(text)), members)
    strictEqual(formatRedundancy(parseRedundancy(text)), text)
  }
  deepStrictEqual(parseRedundancy('erasure:8+3'), { kind: 'erasure', data: 8, parity: 3 })
})

test('what makes no sense is refused in words', () => {
  const wrong: [string, RegExp][] = [
    ['', /write replicated:N or erasure:K\+M/],
    ['replicated', /write replicated:N/],
    ['replicated:3x', /write replicated:N/],
    ['replicated:0', /at least one copy/],
    ['replicated:33', /at most 32 members, not 33/],
    ['erasure:1+1', /with 1 it is replication/],
    ['erasure:4+0', /at least 1 parity fragment/],
    ['erasure:31+2', /at most 32/]
  ]
  for (const [text, message] of wrong) throws(() => parseRedundancy(text), message)
})

test.run()
