import { strictEqual } from 'node:assert'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { SEAL_TAG_BYTES, tagsAtOf } from '../../src/format/batch.ts'
import { dataRecordsIn } from './data-records.ts'

/**
 * Each version of a block has one ciphertext, in whatever layer and segment it is or was: what a
 * version was given to twice would be sealed twice under a nonce. Copies are the same on all peers.
 */
export function checkNonces(directory: string, seen: Map<string, string>): void {
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.startsWith('seg-')) continue
    const file = readFileSync(join(entry.parentPath, entry.name))
    for (const { record, bytes } of dataRecordsIn(file)) {
      const { familyHigh, familyLow, writerEpoch, sequence, chunk, firstBlock } = record
      for (let i = 0; i < record.blockCount; i++) {
        const nonce = [familyHigh, familyLow, writerEpoch, sequence, chunk, firstBlock + i].join()
        const at = tagsAtOf(record) + i * SEAL_TAG_BYTES
        const tag = bytes.toString('hex', at, at + SEAL_TAG_BYTES)
        strictEqual(seen.get(nonce) ?? tag, tag, `sealed twice: ${nonce}`)
        seen.set(nonce, tag)
      }
    }
  }
}
