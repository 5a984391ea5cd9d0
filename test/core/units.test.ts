import { equal, throws } from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'uvu'
import {
  formatDuration,
  formatDurationExact,
  formatLatency,
  formatSize,
  formatSizeExact,
  parseDuration,
  parseSize
} from '../../src/core/units.ts'

test('sizes count in 1024s, and in 1000s only when written with a plain B', () => {
  const sizes: [string, number][] = [
    ['0', 0],
    ['4096', 4096],
    ['512B', 512],
    ['1K', 1024],
    ['1KiB', 1024],
    ['1KB', 1000],
    ['2M', 2 * 1024 ** 2],
    ['2MiB', 2 * 1024 ** 2],
    ['2MB', 2e6],
    ['20GiB', 20 * 1024 ** 3],
    ['1.5 gib', 1.5 * 1024 ** 3],
    ['1T', 1024 ** 4],
    ['3TiB', 3 * 1024 ** 4],
    ['3TB', 3e12],
    ['16PiB', 16 * 1024 ** 5]
  ]
  for (const [text, bytes] of sizes) equal(parseSize(text), bytes, text)
})

test('what is not a size is refused with the text in the message', () => {
  for (const text of ['', 'GiB', '-1', '1.2.3', '12XB', '1e9', '0x10', '5 5', '1.0001B', 'NaN']) {
    throws(
      () => parseSize(text),
      (error: Error) => error.message.includes(`"${text}"`),
      text
    )
  }
})

test('an exact size reads back as the same bytes', () => {
  fc.assert(
    fc.property(fc.nat({ max: 2 ** 40 }), fc.constantFrom(1, 1024, 4096, 1024 ** 3), (n, unit) => {
      const bytes = (n % 2 ** 20) * unit
      equal(parseSize(formatSizeExact(bytes)), bytes)
    })
  )
})

test('an exact duration reads back as the same milliseconds', () => {
  fc.assert(
    fc.property(fc.nat({ max: 2 ** 40 }), (ms) => {
      equal(parseDuration(formatDurationExact(ms)), ms)
    })
  )
})

test('durations add up their parts, and need a unit', () => {
  equal(parseDuration('1h30m'), 90 * 60_000)
  equal(parseDuration('500ms'), 500)
  equal(parseDuration('0'), 0)
  equal(parseDuration('1.5s'), 1500)
  equal(parseDuration('2w'), 14 * 24 * 3600_000)
  for (const text of ['5', '', 'h', '1x', '-1s', '1 h']) throws(() => parseDuration(text), text)
})

test('people get few digits', () => {
  equal(formatSize(1536 * 1024), '1.5 MiB')
  equal(formatSize(0), '0 B')
  equal(formatDuration(90_061_000), '1d 1h')
  equal(formatDuration(250), '250ms')
  equal(formatDuration(61_000), '1m 1s')
  equal(formatLatency(0.000085), '85 µs')
  equal(formatLatency(0.00123), '1.23 ms')
})

test.run()
