/** Golden bytes as a table of hex lines, and bytes shown the same way. */
import * as assert from 'uvu/assert'

export function equalGolden(bytes: Buffer, lines: readonly string[]): void {
  const golden = lines.join('')
  const shown = bytes.toString('hex', 0, golden.length / 2)
  assert.equal(shown.match(/.{1,32}/g), lines)
  const rest = bytes.subarray(golden.length / 2)
  assert.ok(
    rest.every((byte) => byte === 0),
    'the rest is zeroes'
  )
}

/** `decode` must refuse the bytes with any one bit flipped: every bit of the first `bytesMax`. */
export function refusesFlips(
  bytes: Buffer,
  bytesMax: number,
  decode: (flipped: Buffer) => unknown
): void {
  for (let bit = 0; bit < bytesMax * 8; bit++) {
    const flipped = Buffer.from(bytes)
    flipped[bit >> 3]! ^= 1 << (bit & 7)
    assert.is(decode(flipped), null, `bit ${bit}`)
  }
}
