import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { createLog, LogRing, prettyLine } from '../../src/core/log.ts'
import { until } from '../helpers/process.ts'

const linesOf = (path: string): string[] => readFileSync(path, 'utf8').trim().split('\n')

test('the ring keeps the last lines, oldest first', () => {
  const ring = new LogRing(3)
  deepEqual(ring.lines(), [])
  ring.push('a')
  ring.push('b')
  deepEqual(ring.lines(), ['a', 'b'])
  for (const line of ['c', 'd', 'e']) ring.push(line)
  deepEqual(ring.lines(), ['c', 'd', 'e'])
  const none = new LogRing(0)
  none.push('a')
  deepEqual(none.lines(), [])
})

test('a long line is cut in the ring', () => {
  const ring = new LogRing(1)
  ring.push('x'.repeat(100_000))
  ok(ring.lines()[0]!.length < 10_000)
})

test('lines are JSON with level, time and message, and go to the ring too', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'torus-log-'))
  const path = join(folder, 'out')
  const fd = openSync(path, 'w')
  const { log, ring, flush } = createLog({ logLevel: 'info', logFormat: 'auto', logLines: 10 }, fd)
  log.info({ shard: 2 }, 'recovered')
  log.debug('not this one')
  log.warn({ passphrase: 'hunter2', peer: { token: 'abc' } }, 'careful')
  flush()
  // A line that was being written when `flush` came arrives by itself, and may come last.
  await until(() => linesOf(path).length === 2, 'both lines are in the file')
  const text = readFileSync(path, 'utf8')
  closeSync(fd)
  rmSync(folder, { recursive: true })
  const lines = ring.lines()
  deepEqual(text.trim().split('\n').sort(), [...lines].sort())
  const first = JSON.parse(lines[0]!)
  equal(first.level, 'info')
  equal(first.msg, 'recovered')
  equal(first.shard, 2)
  match(first.time, /^\d{4}-\d\d-\d\dT.*Z$/)
  ok(!text.includes('hunter2') && !text.includes('abc'), 'secrets are not written')
})

test('a pretty line has clock, level, message and fields, and colours only when asked', () => {
  const line = JSON.stringify({
    level: 'info',
    time: '2026-01-31T12:34:56.789Z',
    shard: 2,
    why: { a: 1 },
    msg: 'recovered'
  })
  equal(prettyLine(line, false), '12:34:56.789 info  recovered  shard=2 why={"a":1}\n')
  ok(prettyLine(line, true).includes('\x1b[32m'))
})

test('a pretty error shows its stack', () => {
  const stack = 'Error: x\n    at y'
  const line = JSON.stringify({ level: 'error', msg: 'failed', err: { message: 'x', stack } })
  equal(prettyLine(line, false), ` error failed\n${stack}\n`)
})

test.run()
