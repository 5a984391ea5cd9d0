/** `volume import`: a file or a pipe into a new volume. */
import { addAccessOptions, givenAccess } from '../access-options.ts'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { ErrorCode, StoreError } from '../../core/errors.ts'
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
import { beginOrGoOn, type ImportOptions } from '../import-begin.ts'
import { send, type Target, verified } from '../import-transfer.ts'
import { rawOfQcow2 } from '../qcow2.ts'
import { addSecretOptions } from '../secrets.ts'

const formats = ['raw', 'qcow2', 'torus'] as const
type Format = (typeof formats)[number]

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
  addAccessOptions(command)
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
    const raw = folder === null ? path : join(folder, 'raw')
    if (raw !== path) await rawOfQcow2(path, raw)
    const open = (): Promise<Source> => sourceOf(path, raw, format, options.size)
    await transfer(context, name, open, { ...options, isPipe: path === '-' })
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

async function sourceOf(path: string, raw: string, format: Format, size?: number): Promise<Source> {
  if (format !== 'torus') {
    return path === '-' ? rawPipe(process.stdin, size) : rawFile(raw, size, path)
  }
  const source = await torusStream(path === '-' ? process.stdin : await fileStream(path))
  if (size === undefined || size === source.sizeBytes || isIncrement(source)) return source
  await source.close()
  const made = `the stream makes a volume of ${formatSize(source.sizeBytes)}, as it was`
  const then = 'leave --size away, "torus volume resize" gives it another size then'
  throw new CommandError('OutOfRange', `${made}, and not of ${formatSize(size)}: ${then}`)
}

/**
 * Sends what `open` gives; again and from where it was when the peer was away for a moment, unless
 * what a pipe gave is gone.
 */
export async function transfer(
  context: Context,
  name: string,
  open: () => Promise<Source>,
  { isPipe = false, ...options }: ImportOptions & { readonly isPipe?: boolean }
): Promise<void> {
  const startedMs = performance.now()
  let restart = options.restart
  for (let lastMs = performance.now(); ; ) {
    let doneBytes = 0
    const onWritten = (bytes: number): void => {
      doneBytes = bytes
      lastMs = performance.now()
    }
    const source = await open()
    try {
      await attempt(context, name, source, { ...options, restart: restart === true, onWritten })
      const seconds = (performance.now() - startedMs) / 1000
      const size = formatSize(source.sizeBytes)
      const which = isIncrement(source) ? `the increment to ${name}@${source.snapshot?.name}` : name
      context.output.result(
        await context.api.volume(name),
        () => `imported ${which}, ${size} in ${seconds.toFixed(1)} s`
      )
      return
    } catch (thrown) {
      await source.close()
      const code = thrown instanceof CommandError ? thrown.code : ''
      const isAway = code === 'Unavailable' && (doneBytes > 0 || restart === false)
      // Nobody can unlock what has no name yet.
      const isLocked = code === 'Locked' && !isIncrement(source) && restart !== true
      const isOver = performance.now() - lastMs > AWAY_MS
      if (isPipe || isOver || !(isAway || isLocked)) throw thrown
      if (isLocked) context.output.note(`the key of ${name} went with its peer: beginning anew`)
      restart = isLocked
    }
    await sleep(RETRY_MS)
  }
}

/** A peer that restarts is back within this, and a lease that one left is over. */
const AWAY_MS = 30_000
const RETRY_MS = 500

const isIncrement = ({ snapshot }: Source): boolean => snapshot !== null && snapshot.base !== null

async function attempt(
  context: Context,
  name: string,
  source: Source,
  options: ImportOptions & { readonly onWritten: (doneBytes: number) => void }
): Promise<void> {
  const { api, output } = context
  const { id, target: to } = isIncrement(source)
    ? await beginIncrement(context, name, source, options)
    : await beginVolume(context, name, source, options)
  const write = async (piece: Buffer, until: number): Promise<void> => {
    await to.write(piece, until)
    options.onWritten(until)
  }
  const target: Target = { ...to, write }
  const progress = output.progress(`import ${name}`, (value) => formatSize(value))
  try {
    await send(target, source, (done) => progress.update(done, source.sizeBytes))
    await verified(target, output, source.digest.end().digest)
  } catch (thrown) {
    // Nothing of what cannot become whole is kept; what a connection cut off goes on.
    const isCorrupt = thrown instanceof StoreError && !passingCodes.includes(thrown.code)
    const isBad = isCorrupt || isFatal(thrown)
    if (isBad && !isIncrement(source)) await api.life.abandonImport(id).catch(() => {})
    throw isCorrupt ? corrupt(thrown) : thrown
  } finally {
    progress.stop()
  }
}

/** Another peer may have died with it, or what came before is still being written. */
async function whenFree<T>({ output }: Context, work: () => Promise<T>): Promise<T> {
  for (const startedMs = performance.now(); ; ) {
    try {
      return await work()
    } catch (thrown) {
      const isBusy = thrown instanceof CommandError && thrown.code === 'Busy'
      if (!isBusy || performance.now() - startedMs > AWAY_MS) throw thrown
      if (performance.now() - startedMs < RETRY_MS) output.note(`waiting: ${thrown.message}`)
    }
    await sleep(RETRY_MS)
  }
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
    write: (piece, until) => whenFree(context, () => life.writeImport(id, piece, until)),
    finish: (digest) => life.finishImport(id, { digest, ...made }),
    show: () => life.import(id)
  }
  return { id, target }
}

/** @throws CommandError NotFound */
async function volumeIsThere(
  { api }: Context,
  name: string,
  { name: newer }: NonNullable<Source['snapshot']>
): Promise<void> {
  await api.volume(name).catch((thrown: unknown) => {
    if (!(thrown instanceof CommandError) || thrown.code !== 'NotFound') throw thrown
    const what = `it is an increment to "${newer}", which goes onto a volume that has its base`
    const text = `${what}: there is no volume "${name}"`
    throw new CommandError('NotFound', `${text}; import the whole stream before it first`)
  })
}

/** Onto a volume that has the snapshot on which it stands. */
async function beginIncrement(
  context: Context,
  name: string,
  { sizeBytes, snapshot }: Source,
  options: ImportOptions
): Promise<Begun> {
  const { streams } = context.api
  await volumeIsThere(context, name, snapshot!)
  const isRuled = Object.keys(givenAccess(options)).length > 0
  if (options.encrypt === true || options.size !== undefined || isRuled) {
    const not = 'no --encrypt, no --size, and "torus volume set" for its rules'
    throw new UsageError(`an increment goes onto a volume that is there: ${not}`)
  }
  const { id, name: newer, base } = snapshot!
  const increment = { sizeBytes, snapshot: { id, name: newer, base: base! } }
  const begun = await whenFree(context, () => streams.beginIncrement(name, increment))
  const doneBytes = options.restart === true ? 0 : begun.doneBytes
  if (doneBytes > 0) context.output.note(`going on with the increment at ${formatSize(doneBytes)}`)
  const target: Target = {
    doneBytes,
    snapshot,
    write: (piece, until) => whenFree(context, () => streams.writeIncrement(name, piece, until)),
    finish: (digest) => streams.finishIncrement(name, digest),
    show: () => streams.increment(name)
  }
  return { id, target }
}

const corrupt = (thrown: StoreError): CommandError =>
  new CommandError('Corrupt', `it is not imported: ${thrown.message}`)

/** Of a store from which a backup is restored. */
const passingCodes: readonly number[] = [ErrorCode.Unavailable, ErrorCode.DiskFailure]
const fatalCodes = ['Corrupt', 'OutOfRange', 'ChecksumMismatch', 'OutOfSpace']
const isFatal = (thrown: unknown): boolean =>
  thrown instanceof CommandError && fatalCodes.includes(thrown.code)
