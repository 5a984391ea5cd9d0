/** What a peer exports, into a sink; what a connection breaks off goes on. */
import { StreamReader, type StreamEnd } from '../backup/stream-format.ts'
import { StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { formatSize } from '../core/units.ts'
import type { Context } from './context.ts'
import { CommandError } from './errors.ts'
import type { Sink } from './export-sinks.ts'
import { lengthOf } from './import-sources.ts'
import type { ExportQuery } from './life-api.ts'

/** A connection that breaks is made again so often without getting any further. */
const ATTEMPTS_MAX = 3

export interface Download {
  readonly name: string
  readonly volume: string
  readonly what: Omit<Partial<ExportQuery>, 'start'>
  readonly sink: Sink
}

/** Returns how many bytes of data it has. */
export async function download({ api, output }: Context, given: Download): Promise<number> {
  const { name, sink } = given
  const progress = output.progress(`export ${name}`, (value) => formatSize(value))
  let next = sink.startBytes
  let begun = false
  let failures = 0
  try {
    for (;;) {
      const start = next
      let reader: StreamReader | null = null
      try {
        const answer = await api.life.export(given.volume, { ...given.what, start })
        reader = new StreamReader(answer)
        const header = await reader.header()
        const { sizeBytes } = header
        if (!begun) await sink.begin(header)
        begun = true
        for (let part = await reader.next(); ; part = await reader.next()) {
          if (part.kind === 'end') return await finish(given, part)
          sink.digest.addPart(part)
          await sink.part(part)
          next = part.offset + lengthOf(part)
          progress.update(next, sizeBytes)
        }
      } catch (thrown) {
        await reader?.close().catch(() => {})
        if (!isBroken(thrown)) throw thrown
        failures = next > start ? 0 : failures + 1
        if (failures >= ATTEMPTS_MAX) {
          const message = `the peer sends nothing after ${formatSize(next)}: see its log`
          throw new CommandError('Unavailable', message, { cause: thrown })
        }
      }
    }
  } catch (thrown) {
    await sink.abort()
    throw thrown
  } finally {
    progress.stop()
  }
}

/** The answer ended early, or none came; damage on the way is not among it. */
const isBroken = (thrown: unknown): boolean =>
  thrown instanceof StoreError ||
  ['ECONNRESET', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE'].includes(
    (thrown as NodeJS.ErrnoException).code ?? ''
  )

async function finish({ name, sink }: Download, end: StreamEnd): Promise<number> {
  const found = sink.digest.end()
  if (found.digest !== end.digest) {
    const why = sink.startBytes > 0 ? ', or what was there from before is of something else' : ''
    const advice = 'remove the .part file and export a snapshot, which does not change'
    throw new CommandError('Conflict', `${name} changed while it was exported${why}: ${advice}`)
  }
  await sink.end(end)
  return end.blocks * BLOCK_BYTES
}
