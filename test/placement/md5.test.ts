import { deepStrictEqual, throws } from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { suite } from 'uvu'
import { MD5_TEXT_MAX, md5 } from '../../src/placement/md5.ts'

const test = suite('md5')

test('digests are those of the standard, of every length', () => {
  const digest = new Uint32Array(4)
  for (let length = 0; length <= MD5_TEXT_MAX; length++) {
    const text = 'The quick brown fox jumps over the lazy dog-0123456789 ~'.slice(0, length)
    md5(text, digest)
    const standard = createHash('md5').update(text).digest()
    deepStrictEqual(
      [...digest],
      [0, 4, 8, 12].map((at) => standard.readUInt32LE(at))
    )
  }
  throws(() => md5('x'.repeat(MD5_TEXT_MAX + 1), digest))
})

test.run()
