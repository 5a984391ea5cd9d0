import { strictEqual } from 'node:assert'
import fc from 'fast-check'
import { suite } from 'uvu'
import { HOLE_CELL_BYTES } from '../../src/nbd/limits.ts'
import { isZero, runEnd } from '../../src/nbd/zeroes.ts'

const test = suite('nbd zeroes')

test('zero is what has no other byte, wherever that stands', () => {
  const bytes = Buffer.from(new SharedArrayBuffer(5 * HOLE_CELL_BYTES))
  for (const [from, to] of [
    [0, 1],
    [7, 8],
    [100, HOLE_CELL_BYTES],
    [3, 4 * HOLE_CELL_BYTES + 99]
  ] as const) {
    strictEqual(isZero(bytes, from, to), true)
    for (const at of [from, to - 1, Math.floor((from + to) / 2)]) {
      bytes[at] = 1
      strictEqual(isZero(bytes, from, to), false, `${at} of [${from}, ${to})`)
      bytes[at] = 0
    }
    bytes[to] = 1
    strictEqual(isZero(bytes, from, to), true, 'bytes behind do not count')
    bytes[to] = 0
  }
})

test('runs are whole cells of the export, as a byte for byte walk finds them', () => {
  const cell = HOLE_CELL_BYTES
  fc.assert(
    fc.property(
      fc.array(fc.boolean(), { minLength: 1, maxLength: 8 }),
      fc.nat(cell - 1),
      (cells, skew) => {
        // Export offset `skew` stands at the start of the buffer.
        const bytes = Buffer.alloc(cells.length * cell)
        cells.forEach((filled, index) => {
          if (filled) bytes.fill(1, index * cell, (index + 1) * cell)
        })
        const base = 0
        const end = bytes.length
        let offset = skew
        while (offset < end) {
          const zero = !cells[Math.floor(offset / cell)]
          let index = Math.floor(offset / cell)
          while (index < cells.length && !cells[index] === zero) index++
          const stop = runEnd(bytes, base, offset, end, zero)
          strictEqual(stop, Math.min(end, index * cell))
          offset = stop
        }
      }
    )
  )
})

test.run()
