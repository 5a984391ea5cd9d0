/** `volume import`: a file or a pipe into a new volume. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Command } from 'commander'
import { StoreError } from '../../core/errors.ts'
import { formatSize } from '../../core/units.ts'
import { sizeArgument } from '../arguments.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import {
  fileStream,
  firstBytes,
  rawFile,
  rawPipe,
  type Source,
  torusStream
} from '../import-sources.ts'
import { send, type Target, verified } from '../import-transfer.ts'
import type { Import } from '../life-api.ts'
import { needProgram, runProgram } from '../programs.ts'
import { addSecretOptions, type SecretOptions, slotFor } from '../secrets.ts'

const formats = ['raw', 'qcow2', 'torus'] as const
type Format = (typeof formats)[number]

export type ImportOptions = SecretOptions & {
  readonly format?: string
  readonly size?: number
  readonly pool: string
  readonly description?: string
  readonly restart?: boolean
  readonly encrypt?: boolean
}

export function addImport(parent: Command): void {
  const command = parent
    .command('import')
    .description(
      'make a volume of a file, or put an increment on one; seen once it is there and verified'
    )
    .argument('<file>', 'what to import, or - for standard input')
    .argument('<volume>', 'name of the new volume, or of the one that an increment is for')
    .option('--format <raw|qcow2|torus>', 'what a file is, its first bytes tell if not given')
    .option('--size <size>', 'of the volume, where it is not that of the file', sizeArgument)
    .option('--pool <pool>', 'pool that has its blocks', 'default')
    .option('--description <text>', 'a note for people')
    .option('--restart', 'begin anew what was interrupted')
    .option('--encrypt', 'seal its blocks')
    .action(
      action<[string, string], ImportOptions>((context, [path, name], options) =>
        run(context, path, name, options)
      )
    )
  addSecretOptions(command)
  withExamples(
    command,
    'torus volume import demo.qcow2 demo',
    'ssh backup cat demo.torus | torus volume import - demo --format torus',
    'torus volume import tuesday.stream demo'
  )
}

async function run(
  context: Context,
  path: string,
  name: string,
  options: ImportOptions
): Promise<void> {
  const format = await formatOf(path, options.format)
  const folder = format === 'qcow2' ? await mkdtemp(join(tmpdir(), 'torus-import-')) : null
  try {
    const raw = folder === null ? path : await converted(path, join(folder, 'raw'))
    const source = await sourceOf(raw, format, options.size)
    await transfer(context, name, source, options)
  } finally {
    if (folder !== null) await rm(folder, { recursive: true, force: true })
  }
}

async function formatOf(path: string, given: string | undefined): Promise<Format> {
  const format = formats.find((each) => each === given)
  if (given !== undefined && format === undefined) {
    throw new UsageError(`--format "${given}" must be one of ${formats.join(', ')}`)
  }
  if (path === '-' && format === 'qcow2') throw new UsageError('qcow2 cannot come from a pipe')
  if (format !== undefined) return format
  if (path === '-') throw new UsageError('what comes from a pipe needs --format')
  const start = await firstBytes(path)
  if (start.equals(Buffer.from('TORUSVOL'))) return 'torus'
  return start.subarray(0, 4).equals(Buffer.from('QFI\xfb', 'latin1')) ? 'qcow2' : 'raw'
}

async function converted(path: string, into: string): Promise<string> {
  const args = ['convert', '-O', 'raw', path, into]
  const { code, output } = await runProgram(needProgram('qemu-img'), args)
  if (code === 0) return into
  throw new CommandError('Corrupt', `${path} is not imported, qemu-img says: ${output}`)
}

async function sourceOf(path: string, format: Format, size: number | undefined): Promise<Source> {
  if (format !== 'torus') {
    return path === '-' ? rawPipe(process.stdin, size) : rawFile(path, size)
  }
  return torusStream(path === '-' ? process.stdin : await fileStream(path))
}

export async function transfer(
  context: Context,
  name: string,
  source: Source,
  options: ImportOptions
): Promise<void> {
  const { api, output } = context
  const startedMs = performance.now()
  const isIncrement = source.snapshot !== null && source.snapshot.base !== null
  const { id, target } = isIncrement
    ? await beginIncrement(context, name, source, options)
    : await beginVolume(context, name, source, options)
  const progress = output.progress(`import ${name}`, (value) => formatSize(value))
  try {
    await send(target, source, (done) => progress.update(done, source.sizeBytes))
    await verified(target, output, source.digest.end().digest)
  } catch (thrown) {
    // Nothing of what cannot become whole is kept; what a connection cut off goes on.
    const isBad = thrown instanceof StoreError || isFatal(thrown)
    if (isBad && !isIncrement) await api.life.abandonImport(id).catch(() => {})
    throw thrown instanceof StoreError ? corrupt(thrown) : thrown
  } finally {
    progress.stop()
  }
  const seconds = (performance.now() - startedMs) / 1000
  const size = formatSize(source.sizeBytes)
  const which = isIncrement ? `the increment to ${name}@${source.snapshot?.name}` : name
  output.result(
    await api.volume(name),
    () => `imported ${which}, ${size} in ${seconds.toFixed(1)} s`
  )
}

interface Begun {
  readonly id: string
  readonly target: Target
}

async function beginVolume(
  context: Context,
  name: string,
  { sizeBytes, snapshot }: Source,
  options: ImportOptions
): Promise<Begun> {
  const { life } = context.api
  const { id, doneBytes } = await beginOrGoOn(context, name, sizeBytes, options)
  const made = snapshot === null ? {} : { snapshot: { id: snapshot.id, name: snapshot.name } }
  const target: Target = {
    doneBytes,
    snapshot: null,
    write: (piece, until) => life.writeImport(id, piece, until),
    finish: (digest) => life.finishImport(id, { digest, ...made }),
    show: () => life.import(id)
  }
  return { id, target }
}

/** Onto a volume that has the snapshot on which it stands. */
async function beginIncrement(
  { api: { streams }, output }: Context,
  name: string,
  { sizeBytes, snapshot }: Source,
  options: ImportOptions
): Promise<Begun> {
  if (options.encrypt === true || options.size !== undefined) {
    throw new UsageError('an increment goes onto a volume that is there: no --encrypt, no --size')
  }
  const { id, name: newer, base } = snapshot!
  const begun = await streams.beginIncrement(name, {
    sizeBytes,
    snapshot: { id, name: newer, base: base! }
  })
  const doneBytes = options.restart === true ? 0 : begun.doneBytes
  if (doneBytes > 0) output.note(`going on with the increment at ${formatSize(doneBytes)}`)
  const target: Target = {
    doneBytes,
    snapshot,
    write: (piece, until) => streams.writeIncrement(name, piece, until),
    finish: (digest) => streams.finishIncrement(name, digest),
    show: () => streams.increment(name)
  }
  return { id, target }
}

const corrupt = (thrown: StoreError): CommandError =>
  new CommandError('Corrupt', `it is not imported: ${thrown.message}`)

const fatalCodes = ['Corrupt', 'OutOfRange', 'ChecksumMismatch', 'OutOfSpace']
const isFatal = (thrown: unknown): boolean =>
  thrown instanceof CommandError && fatalCodes.includes(thrown.code)

async function beginOrGoOn(
  { api, output }: Context,
  name: string,
  sizeBytes: number,
  options: ImportOptions
): Promise<Import> {
  const found = (await api.life.imports()).find((each) => each.name === name)
  if (found !== undefined && options.restart !== true && found.sizeBytes === sizeBytes) {
    output.note(`going on with the import of ${name} at ${formatSize(found.doneBytes)}`)
    return found
  }
  if (found !== undefined && options.restart !== true) {
    const text = `another import of ${name} goes on, of ${formatSize(found.sizeBytes)}`
    throw new CommandError('AlreadyExists', `${text}: --restart removes it`)
  }
  if (found !== undefined) await api.life.abandonImport(found.id)
  const { description = '', pool } = options
  const encrypt = await slotFor(name, options)
  const volume = { name, sizeBytes, type: 'block', description, pool }
  return api.life.beginImport(encrypt === null ? volume : { ...volume, encrypt })
}
