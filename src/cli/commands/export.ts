/** `volume export`: a volume or a snapshot into a file or a pipe. */
import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import type { Command } from 'commander'
import { StreamReader, type StreamEnd } from '../../backup/stream-format.ts'
import { StoreError } from '../../core/errors.ts'
import { BLOCK_BYTES } from '../../core/limits.ts'
import { formatSize } from '../../core/units.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import { partName, RawFileSink, RawPipeSink, type Sink, StreamSink } from '../export-sinks.ts'
import { needProgram, runProgram } from '../programs.ts'

const formats = ['raw', 'qcow2', 'torus'] as const
type Format = (typeof formats)[number]

/** A connection that breaks is made again so often without getting any further. */
const ATTEMPTS_MAX = 3

export function addExport(parent: Command): void {
  const command = parent
    .command('export')
    .description('write a volume, or a snapshot of it, to a file; what was interrupted goes on')
    .argument('<volume[@snapshot]>', 'what to export')
    .argument('<file>', 'where to, or - for standard output')
    .option('--format <raw|qcow2|torus>', 'raw image, qcow2, or with checksums', 'raw')
    .action(
      action<[string, string], { format: string }>((context, [name, path], { format }) =>
        run(context, name, path, formatOf(format))
      )
    )
  withExamples(
    command,
    'torus volume export demo@monday demo.img',
    'torus volume export demo@monday - --format torus | ssh backup "cat > demo.torus"'
  )
}

function formatOf(text: string): Format {
  const format = formats.find((each) => each === text)
  if (format !== undefined) return format
  throw new UsageError(`--format "${text}" must be one of ${formats.join(', ')}`)
}

async function run(context: Context, name: string, path: string, format: Format): Promise<void> {
  const { api, output, confirm } = context
  if (format === 'qcow2') needProgram('qemu-img')
  const isPipe = path === '-'
  if (isPipe && format === 'qcow2') throw new UsageError('qcow2 cannot go into a pipe: name a file')
  if (isPipe && process.stdout.isTTY === true) {
    throw new UsageError('standard output is a terminal: name a file, or pipe it somewhere')
  }
  if (!isPipe && existsSync(path)) await confirm(`File ${path} is there and will be replaced.`)
  const [volume = '', snapshot] = name.split('@')
  const { encryption } = await api.volume(volume)
  if (encryption !== null) output.note(`${name} is encrypted here; the export is not`)
  const raw = format === 'qcow2' ? `${path}.raw` : path
  const startedMs = performance.now()
  const sink = await sinkFor(raw, format)
  const bytes = await download(context, { name, volume, snapshot, sink })
  if (format === 'qcow2') await convert(raw, path)
  const seconds = (performance.now() - startedMs) / 1000
  const rate = `${formatSize(bytes)} of data in ${seconds.toFixed(1)} s`
  const result = { exported: name, file: path, format, bytes }
  if (isPipe) output.note(`exported ${name}, ${rate}`)
  else output.result(result, () => `exported ${name} to ${path}, ${rate}`)
}

async function sinkFor(path: string, format: Format): Promise<Sink> {
  if (path === '-') {
    return format === 'torus' ? StreamSink.pipe(process.stdout) : new RawPipeSink(process.stdout)
  }
  if (format === 'torus') return StreamSink.file(path)
  const sink = new RawFileSink(path)
  await sink.open()
  return sink
}

interface Download {
  readonly name: string
  readonly volume: string
  readonly snapshot: string | undefined
  readonly sink: Sink
}

/** Returns how many bytes of data it has. */
async function download({ api, output }: Context, given: Download): Promise<number> {
  const { name, sink } = given
  const progress = output.progress(`export ${name}`, (value) => formatSize(value))
  let next = sink.startBytes
  let begun = false
  let failures = 0
  try {
    for (;;) {
      const from = next
      try {
        const answer = await api.life.export(given.volume, given.snapshot, from)
        const reader = new StreamReader(answer)
        const { sizeBytes } = await reader.header()
        if (!begun) await sink.begin(sizeBytes)
        begun = true
        for (let part = await reader.next(); ; part = await reader.next()) {
          if (part.kind === 'end') return await finish(given, part)
          sink.digest.add(part.offset, part.crcs)
          await sink.data(part)
          next = part.offset + part.blocks.length
          progress.update(next, sizeBytes)
        }
      } catch (thrown) {
        if (!isBroken(thrown)) throw thrown
        failures = next > from ? 0 : failures + 1
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

async function convert(raw: string, path: string): Promise<void> {
  const args = ['convert', '-f', 'raw', '-O', 'qcow2', raw, partName(path)]
  const { code, output } = await runProgram(needProgram('qemu-img'), args)
  if (code !== 0) throw new CommandError('Unavailable', `qemu-img failed: ${output}`)
  await rename(partName(path), path)
  await rm(raw)
}
