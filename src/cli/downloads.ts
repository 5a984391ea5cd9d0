/** What a peer exports, into a sink; what a connection breaks off goes on. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type StreamEnd, StreamReader, VolumeDigest } from '../backup/stream-format.ts'
import { StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import { formatSize } from '../core/units.ts'
import type { Context } from './context.ts'
import { CommandError } from './errors.ts'
import type { Sink } from './export-sinks.ts'
import { lengthOf } from './import-sources.ts'
import type { ExportQuery } from './life-api.ts'

/** A peer that restarts is back within this. */
const GIVE_UP_MS = 30_000
const RETRY_MS = 200
const RETRY_MS_MAX = 2_000

export interface Download {
  readonly name: string
  readonly volume: string
  readonly what: Omit<Partial<ExportQuery>, 'start'>
  readonly sink: Sink
}

/** Returns how many bytes of data it has. */
export async function download(context: Context, given: Download): Promise<number> {
  const { name, sink } = given
  const progress = context.output.progress(`export ${name}`, (value) => formatSize(value))
  const state: Progress = { nextBytes: sink.startBytes, isBegun: false, isInSink: false }
  const update = (sizeBytes: number): void => progress.update(state.nextBytes, sizeBytes)
  try {
    for (let [failures, sinceMs] = [0, performance.now()]; ; ) {
      const { nextBytes } = state
      try {
        await receive(context, given, state, update)
        return sink.digest.end().blocks * BLOCK_BYTES
      } catch (thrown) {
        if (state.isInSink || !mayPass(thrown, state)) throw thrown
        if (state.nextBytes > nextBytes) [failures, sinceMs] = [0, performance.now()]
        if (performance.now() - sinceMs > GIVE_UP_MS) {
          const message = `the peer sends nothing after ${formatSize(nextBytes)}: see its log`
          throw new CommandError('Unavailable', message, { cause: thrown })
        }
        await sleep(Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** failures++))
      }
    }
  } catch (thrown) {
    await sink.abort()
    throw isBehindEnd(thrown, sink, state) ? notOf(name) : thrown
  } finally {
    progress.stop()
  }
}

interface Progress {
  nextBytes: number
  /** The sink has a header. */
  isBegun: boolean
  /** What fails now is the sink's. */
  isInSink: boolean
}

/** One answer, as far as it comes. */
async function receive(
  { api }: Context,
  { name, volume, what, sink }: Download,
  state: Progress,
  onPart: (sizeBytes: number) => void
): Promise<void> {
  const start = state.nextBytes
  // What came of a snapshot stands, and is not read again for a digest.
  const isRest = start > 0 && what.snapshot !== undefined && sink.isTrusted
  const sent = isRest ? new VolumeDigest() : null
  const query = isRest ? ({ ...what, start, digest: 'rest' } as const) : { ...what, start }
  const into = async (work: Promise<void>): Promise<void> => {
    state.isInSink = true
    await work
    state.isInSink = false
  }
  const reader = new StreamReader(await api.life.export(volume, query))
  try {
    const header = await reader.header()
    if (!state.isBegun) await into(sink.begin(header))
    state.isBegun = true
    for (let part = await reader.next(); ; part = await reader.next()) {
      if (part.kind === 'end') {
        requireSame(part, (sent ?? sink.digest).end(), name, sink)
        await into(sink.end(sink.digest.end()))
        return
      }
      sink.digest.addPart(part)
      sent?.addPart(part)
      await into(sink.part(part))
      state.nextBytes = part.offset + lengthOf(part)
      onPart(header.sizeBytes)
    }
  } catch (thrown) {
    await reader.close().catch(() => {})
    throw thrown
  }
}

/** The answer ended early or was damaged, or the peer is away for a moment. */
function mayPass(thrown: unknown, { isBegun }: Progress): boolean {
  if (thrown instanceof CommandError) {
    return isBegun && (thrown.code === 'Unavailable' || thrown.code === 'Busy')
  }
  const { code = '' } = thrown as NodeJS.ErrnoException
  return (
    thrown instanceof StoreError ||
    ['ECONNRESET', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE'].includes(code)
  )
}

/** What an earlier run left is larger than what is exported. */
const isBehindEnd = (thrown: unknown, { startBytes }: Sink, { isBegun }: Progress): boolean =>
  !isBegun && startBytes > 0 && thrown instanceof CommandError && thrown.code === 'OutOfRange'

function notOf(name: string): CommandError {
  const text = `the .part file is what is left of an export of something larger than ${name}`
  return new CommandError('Conflict', `${text}: remove it`)
}

/** @throws CommandError Conflict */
function requireSame(end: StreamEnd, found: StreamEnd, name: string, sink: Sink): void {
  if (found.digest === end.digest && found.blocks === end.blocks) return
  const why = sink.startBytes > 0 ? ', or what was there from before is of something else' : ''
  const advice = 'remove the .part file and export a snapshot, which does not change'
  throw new CommandError('Conflict', `${name} changed while it was exported${why}: ${advice}`)
}
