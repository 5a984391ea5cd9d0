/** `volume export`: a volume or a snapshot into a file or a pipe. */
import { existsSync } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import { action, type Context, withExamples } from '../context.ts'
import { download } from '../downloads.ts'
import { CommandError, UsageError } from '../errors.ts'
import { modeOf, partName, RawFileSink, RawPipeSink, type Sink } from '../export-sinks.ts'
import { needProgram, runProgram } from '../programs.ts'
import { StreamFileSink, StreamPipeSink } from '../stream-sinks.ts'

const formats = ['raw', 'qcow2', 'torus'] as const
type Format = (typeof formats)[number]

interface ExportOptions {
  readonly format: string
  readonly from?: string
}

export function addExport(parent: Command): void {
  const command = parent
    .command('export')
    .description('write a volume, or a snapshot of it, to a file; what was interrupted goes on')
    .argument('<volume[@snapshot]>', 'what to export')
    .argument('<file>', 'where to, or - for standard output')
    .option('--format <raw|qcow2|torus>', 'raw image, qcow2, or with checksums', 'raw')
    .option('--from <@older>', 'only what changed since that snapshot; with --format torus')
    .action(
      action<[string, string], ExportOptions>((context, [name, path], options) =>
        run(context, name, path, options)
      )
    )
  withExamples(
    command,
    'torus volume export demo@monday demo.img',
    'torus volume export demo@monday - --format torus | ssh backup "cat > demo.torus"',
    'torus volume export demo@tuesday tuesday.torus --from @monday --format torus'
  )
}

function formatOf(text: string): Format {
  const format = formats.find((each) => each === text)
  if (format !== undefined) return format
  throw new UsageError(`--format "${text}" must be one of ${formats.join(', ')}`)
}

async function run(
  context: Context,
  name: string,
  path: string,
  options: ExportOptions
): Promise<void> {
  const format = formatOf(options.format)
  const { api, output, confirm } = context
  if (format === 'qcow2') needProgram('qemu-img')
  const isPipe = path === '-'
  if (isPipe && format === 'qcow2') throw new UsageError('qcow2 cannot go into a pipe: name a file')
  if (isPipe && process.stdout.isTTY === true) {
    throw new UsageError('standard output is a terminal: name a file, or pipe it somewhere')
  }
  const raw = format === 'qcow2' ? `${path}.raw` : path
  for (const file of isPipe ? [] : new Set([path, raw])) {
    if (existsSync(file)) await confirm(`File ${file} is there and will be replaced.`)
  }
  const [volume = '', snapshot] = name.split('@')
  const from = olderOf(volume, snapshot, options)
  const { encryption } = await api.volume(volume)
  if (encryption !== null) output.note(`${name} is encrypted here; the export is not`)
  const startedMs = performance.now()
  const mode = modeOf(encryption !== null)
  const sink = await sinkFor(raw, format, mode)
  const bytes = await download(context, { name, volume, what: { snapshot, from }, sink })
  if (format === 'qcow2') await convert(raw, path, mode)
  const seconds = (performance.now() - startedMs) / 1000
  const rate = `${formatSize(bytes)} of data in ${seconds.toFixed(1)} s`
  const result = { exported: name, file: path, format, bytes }
  if (isPipe) output.note(`exported ${name}, ${rate}`)
  else output.result(result, () => `exported ${name} to ${path}, ${rate}`)
}

/** The snapshot that an increment stands on. @throws UsageError */
function olderOf(
  volume: string,
  snapshot: string | undefined,
  { from, format }: ExportOptions
): string | undefined {
  if (from === undefined) return undefined
  if (format !== 'torus') throw new UsageError('an increment needs --format torus')
  if (snapshot === undefined) throw new UsageError('an increment is of a snapshot: VOLUME@SNAPSHOT')
  const [of, older = ''] = from.split('@')
  if ((of === '' || of === volume) && older !== '') return older
  throw new UsageError(`--from "${from}" is not @SNAPSHOT of ${volume}`)
}

async function sinkFor(path: string, format: Format, mode: number): Promise<Sink> {
  if (path === '-') {
    return format === 'torus' ? new StreamPipeSink(process.stdout) : new RawPipeSink(process.stdout)
  }
  const sink = format === 'torus' ? new StreamFileSink(path, mode) : new RawFileSink(path, mode)
  await sink.open()
  return sink
}

async function convert(raw: string, path: string, mode: number): Promise<void> {
  // qemu-img keeps the mode of a file that is there.
  await (await open(partName(path), 'w', mode)).close()
  const args = ['convert', '-f', 'raw', '-O', 'qcow2', raw, partName(path)]
  const { code, output } = await runProgram(needProgram('qemu-img'), args)
  if (code !== 0) {
    for (const left of [partName(path), raw]) await rm(left, { force: true })
    throw new CommandError('Unavailable', `qemu-img failed: ${output}`)
  }
  await rename(partName(path), path)
  await rm(raw)
}
