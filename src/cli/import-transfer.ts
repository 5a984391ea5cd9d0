/** Sends what is imported in pieces, and waits until it is verified. */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  encodeEnd,
  encodeHeader,
  encodePart,
  type StreamSnapshot,
  VolumeDigest
} from '../backup/stream-format.ts'
import { formatSize } from '../core/units.ts'
import { CommandError } from './errors.ts'
import { lengthOf, type Source } from './import-sources.ts'
import type { Import } from './life-api.ts'
import type { Output } from './output.ts'

/** Sent at a time, about. */
const PIECE_BYTES = 4 * 1024 * 1024
const POLL_MS = 200

/** Where it goes. */
export interface Target {
  readonly doneBytes: number
  /** In the header of each piece. */
  readonly snapshot: StreamSnapshot | null
  write(piece: Buffer, untilBytes: number): Promise<unknown>
  finish(digest: string): Promise<Import>
  show(): Promise<Import>
}

/** Sends all that is not there yet. */
export async function send(
  { doneBytes, snapshot, write }: Target,
  source: Source,
  onProgress: (doneBytes: number) => void
): Promise<void> {
  const { sizeBytes } = source
  let start = doneBytes
  let piece: Buffer[] = []
  let bytes = 0
  let digest = new VolumeDigest()
  const flush = async (until: number): Promise<void> => {
    const header = encodeHeader({ sizeBytes, startBytes: start, snapshot })
    await write(Buffer.concat([header, ...piece, encodeEnd(digest.end())]), until)
    start = until
    piece = []
    bytes = 0
    digest = new VolumeDigest()
  }
  for await (const part of source.parts()) {
    const end = Math.min(part.offset + lengthOf(part), sizeBytes)
    onProgress(end)
    // Pieces end between parts, so one is there as a whole or not at all.
    if (end <= doneBytes) continue
    if (part.offset < start) throw new CommandError('Conflict', 'it was cut otherwise: --restart')
    digest.addPart(part)
    const encoded = encodePart(part)
    // The source may use the memory of its blocks again.
    piece.push(...encoded.map((each) => Buffer.from(each)))
    for (const each of encoded) bytes += each.length
    if (bytes >= PIECE_BYTES) await flush(end)
  }
  if (start < sizeBytes) await flush(sizeBytes)
}

export async function verified(target: Target, output: Output, digest: string): Promise<void> {
  const progress = output.progress('verify', (value) => formatSize(value))
  try {
    let now = await target.finish(digest)
    while (now.state !== 'done') {
      if (now.error !== null) throw new CommandError(now.error.code, now.error.message)
      progress.update(now.verifiedBytes, now.sizeBytes)
      await sleep(POLL_MS)
      now = await target.show()
    }
  } finally {
    progress.stop()
  }
}
