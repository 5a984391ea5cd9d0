/** `torus metadata backup|restore|migrate`. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import type { Moved } from '../../coordinator/metadata-moves.ts'
import { systemReason } from '../../core/system-reason.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import { addOptions, etcdConfig, etcdKeys } from '../serve-options.ts'

interface RestoreOptions {
  readonly dataDir?: string
  readonly etcd?: unknown
  readonly force?: boolean
}

interface MigrateOptions {
  readonly to: string
  readonly dataDir: string
}

export function addMetadataCommands(program: Command): void {
  const metadata = program
    .command('metadata')
    .description('back up, restore and move what the cluster knows about itself')
  withExamples(metadata, 'torus metadata backup monday.backup')
  addBackup(metadata)
  addRestore(metadata)
  addMigrate(metadata)
}

function addBackup(metadata: Command): void {
  const backup = metadata
    .command('backup')
    .argument('<FILE>', 'where to write it; it must not exist')
    .description('write all metadata of the cluster into a file, as of one moment')
    .action(action<[string], object>((context, [file]) => runBackup(context, file)))
  withExamples(backup, 'torus metadata backup /backup/torus-$(date +%F)')
}

function addRestore(metadata: Command): void {
  const restore = metadata
    .command('restore')
    .argument('<FILE>', 'a backup, or metadata-copy of a data directory')
    .description('offline: put a backup into an empty etcd prefix, or into a data directory')
    .option('--data-dir <DIR>', 'data directory of a peer that does not run')
    .option('--force', 'replace the metadata that is there')
    .action(
      action<[string], RestoreOptions>((context, [file], options) =>
        runRestore(context, file, options)
      )
    )
  addOptions(restore, etcdKeys)
  withExamples(
    restore,
    'torus metadata restore monday.backup --etcd http://127.0.0.1:2379',
    'torus metadata restore D/metadata-copy --data-dir D --force'
  )
}

function addMigrate(metadata: Command): void {
  const migrate = metadata
    .command('migrate')
    .description('offline: move the metadata of a data directory to etcd; its data stays')
    .requiredOption('--to <etcd>', 'where to')
    .requiredOption('--data-dir <DIR>', 'data directory of a peer that does not run')
    .action(action<[], MigrateOptions>((context, _, options) => runMigrate(context, options)))
  addOptions(migrate, etcdKeys)
  withExamples(
    migrate,
    'torus metadata migrate --to etcd --data-dir D --etcd http://127.0.0.1:2379',
    'torus serve --data-dir D --etcd http://127.0.0.1:2379'
  )
}

async function runBackup({ api, output }: Context, file: string): Promise<void> {
  if (existsSync(file)) {
    throw new CommandError('AlreadyExists', `${file} exists; choose another name`)
  }
  const bytes = await api.metadataBackup()
  const { checkBackup } = await import('../../coordinator/metadata-moves.ts')
  const { replaceFile } = await import('../../core/directories.ts')
  const found = checkBackup(bytes)
  try {
    replaceFile(file, [bytes])
  } catch (cause) {
    const why = systemReason(cause)
    throw new CommandError('Unavailable', `${file} cannot be written: ${why}`, { cause })
  }
  output.result(
    { file, bytes: bytes.length, ...found },
    () => `wrote ${file}: ${found.keys} keys of cluster ${found.clusterId}`
  )
}

async function runRestore(context: Context, file: string, options: RestoreOptions): Promise<void> {
  const { dataDir, force = false } = options
  if ((dataDir === undefined) === (options.etcd === undefined)) {
    throw new UsageError('say where to: either --etcd URL or --data-dir DIR')
  }
  if (force) await context.confirm('The metadata that is there is replaced by that of the backup.')
  const moves = await import('../../coordinator/metadata-moves.ts')
  const moved = await withProgress(context, 'restore', async (onProgress) => {
    const how = { force, onProgress }
    if (dataDir !== undefined) return moves.restoreToDirectory(file, existing(dataDir), how)
    return moves.restoreToEtcd(file, await etcdConfig(options), how)
  })
  tell(context, moved, 'restored', 'start the peers again')
}

async function runMigrate(context: Context, options: MigrateOptions): Promise<void> {
  if (options.to !== 'etcd') throw new UsageError(`--to ${options.to}: it can only be etcd`)
  const dataDir = existing(options.dataDir)
  const config = await etcdConfig(options)
  const { migrateToEtcd } = await import('../../coordinator/metadata-moves.ts')
  const moved = await withProgress(context, 'migrate', (onProgress) =>
    migrateToEtcd(dataDir, config, { onProgress })
  )
  const next = `serve it with --etcd ${config.etcd.join(',')} --etcd-prefix ${config.etcdPrefix}`
  tell(context, moved, 'moved', next)
}

function tell({ output }: Context, moved: Moved, done: string, next: string): void {
  const { keys, clusterId, createdAt } = moved
  output.result(
    moved,
    () => `${done} ${keys} keys of cluster ${clusterId}, as of ${createdAt}; ${next}`
  )
}

async function withProgress<T>(
  { output }: Context,
  label: string,
  work: (onProgress: (done: number, total: number) => void) => Promise<T>
): Promise<T> {
  const bar = output.progress(label, String)
  return work((done, total) => bar.update(done, total)).finally(() => bar.stop())
}

function existing(dataDir: string): string {
  const directory = resolve(dataDir)
  if (existsSync(join(directory, 'superblock'))) return directory
  const why = existsSync(directory) ? 'it has no superblock' : 'it does not exist'
  throw new CommandError('NotFound', `${dataDir} is no data directory of Torus: ${why}`)
}
