/** `backup`: volumes in a directory or in S3, without the cluster that they are of. */
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import type { Command } from 'commander'
import { notKept, prune } from '../../backup/prune.ts'
import { type Backup, Repository } from '../../backup/repository.ts'
import { type Damage, partsOfBackup, verifyBackups } from '../../backup/restore.ts'
import { openStore } from '../../backup/store.ts'
import { VolumeDigest } from '../../backup/stream-format.ts'
import { formatSize, plural } from '../../core/units.ts'
import { withoutUndefined } from '../../core/without-undefined.ts'
import { type AccessOptions, addAccessOptions, givenAccess } from '../access-options.ts'
import { countArgument } from '../arguments.ts'
import { createBackup } from '../backup-create.ts'
import { BackupKeyring } from '../backup-keys.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'
import { modeOf, partName, RawFileSink } from '../export-sinks.ts'
import type { Source } from '../import-sources.ts'
import { addSecretOptions, type SecretOptions } from '../secrets.ts'
import { transfer } from './import.ts'

interface StoreOptions {
  readonly to: string
  readonly s3Endpoint?: string
  readonly s3Region?: string
  readonly s3Profile?: string
  readonly s3Ca?: string
  readonly s3Addressing?: string
}

type CreateOptions = StoreOptions & { readonly full?: boolean; readonly breakLock?: boolean }
type VerifyOptions = StoreOptions & SecretOptions & { readonly backup?: string }
type PruneOptions = StoreOptions &
  SecretOptions & {
    readonly keep?: number
    readonly keepDaily?: number
    readonly backup?: string
    readonly breakLock?: boolean
  }
type RestoreOptions = StoreOptions &
  AccessOptions &
  SecretOptions & {
    readonly backup?: string
    readonly toFile?: string
    readonly as?: string
    readonly pool: string
    readonly encrypt?: boolean
    readonly restart?: boolean
  }

export function addBackupCommands(program: Command): void {
  const backup = program
    .command('backup')
    .description('backups of volumes in a directory or in S3: each has only what changed')
  withExamples(
    backup,
    'torus backup create demo --to /mnt/backups',
    'torus backup list --to s3://bucket/torus --s3-endpoint https://minio.example:9000'
  )
  addCreate(backup)
  addList(backup)
  addVerify(backup)
  addRestore(backup)
  addPrune(backup)
}

const addStoreOptions = (command: Command): Command =>
  command
    .requiredOption('--to <STORE>', 'where backups are: a directory, or s3://bucket/prefix')
    .option('--s3-endpoint <URL>', 'of an S3 that is not of AWS (AWS_ENDPOINT_URL)')
    .option('--s3-region <REGION>', 'its region (AWS_REGION)')
    .option('--s3-profile <NAME>', 'of the credentials of AWS (AWS_PROFILE)')
    .option('--s3-ca <FILE>', 'certificates of those to trust (AWS_CA_BUNDLE)')
    .option('--s3-addressing <path|virtual>', 'where the name of the bucket stands')

async function repositoryAt(
  { to, s3Endpoint: endpoint, s3Region: region, ...options }: StoreOptions,
  create = false
): Promise<Repository> {
  const { s3Profile: profile, s3Ca: ca, s3Addressing: addressing } = options
  const store = openStore(to, { endpoint, region, profile, ca, addressing }, process.env)
  return Repository.open(store, create)
}

function addCreate(parent: Command): void {
  const command = parent
    .command('create')
    .description('back a volume up while clients go on: what changed since its last backup there')
    .argument('<volume>', 'its name')
    .option('--full', 'send everything, and rely on nothing that is there')
    .option('--break-lock', 'take another backup of it that seems to go on for dead')
  addStoreOptions(command).action(
    action<[string], CreateOptions>(async (context, [volume], options) => {
      // A name with a mistake in it makes no store.
      await context.api.volume(volume)
      const repository = await repositoryAt(options, true)
      const { full = false, breakLock = false } = options
      const made = await createBackup(context, repository, { volume, full, breakLock })
      const { readBytes, storedBytes, base } = made.manifest
      const what = base === null ? 'everything' : 'what changed'
      const sizes = `${formatSize(readBytes)} read, ${formatSize(storedBytes)} stored`
      context.output.result(rowOf(made), () => `backed up ${what} as ${made.name}, ${sizes}`)
    })
  )
  withExamples(command, 'torus backup create demo --to s3://bucket/torus')
}

const rowOf = ({ name, manifest }: Pick<Backup, 'name' | 'manifest'>) => {
  const { pages: _, keys, torusBackup: __, ...about } = manifest
  return { name, ...about, encrypted: keys !== null }
}

function addList(parent: Command): void {
  const command = parent
    .command('list')
    .alias('ls')
    .description('backups of a volume, or of all, oldest first')
    .argument('[volume]', 'its name')
  addStoreOptions(command).action(
    action<[string | undefined], StoreOptions>(async ({ output }, [volume], options) => {
      const { backups, damaged } = await (await repositoryAt(options)).readable(volume)
      for (const key of damaged) output.note(`${key} is damaged, or of a newer version`)
      output.result(backups.map(rowOf), () => {
        if (backups.length === 0) return 'no backups'
        const rows = backups.map(({ name, manifest }) => [
          name,
          formatSize(manifest.sizeBytes),
          formatSize(manifest.readBytes),
          formatSize(manifest.storedBytes),
          (manifest.base === null ? 'everything' : 'changes') +
            (manifest.keys === null ? '' : ', encrypted')
        ])
        return output.table(['BACKUP', 'SIZE', 'READ', 'STORED', 'WHAT'], rows, 'lrrrl')
      })
    })
  )
  withExamples(command, 'torus backup list --to /mnt/backups')
}

function addVerify(parent: Command): void {
  const command = parent
    .command('verify')
    .description('read all objects of backups and compare them with what they are called')
    .argument('[volume]', 'only those of this one')
    .option('--backup <NAME>', 'only this one, as list shows it')
  addSecretOptions(addStoreOptions(command)).action(
    action<[string | undefined], VerifyOptions>((context, [volume], options) =>
      verify(context, volume, options)
    )
  )
  withExamples(command, 'torus backup verify --to /mnt/backups')
}

async function verify(
  context: Context,
  volume: string | undefined,
  options: VerifyOptions
): Promise<void> {
  const { output } = context
  const repository = await repositoryAt(options)
  const keyring = new BackupKeyring(context, repository, options)
  const progress = output.progress('verify', (value) => formatSize(value))
  try {
    const { backups, damaged } = await wantedOf(repository, volume, options.backup)
    const opened = []
    for (const backup of backups) {
      opened.push({ backup, keys: await keyring.ifKnown(backup.manifest) })
    }
    const total = backups.reduce((sum, { manifest }) => sum + manifest.sizeBytes, 0)
    const found = await verifyBackups(repository, opened, (done) => progress.update(done, total))
    progress.stop()
    const shut = opened.filter(({ backup, keys }) => backup.manifest.keys !== null && keys === null)
    if (shut.length > 0) {
      const why = 'without their key only the lists of their objects were looked at'
      output.note(`${plural(shut.length, 'backup')} encrypted: ${why}`)
    }
    const lost = found.damage.length + damaged.length
    output.result({ ...found, damagedManifests: damaged }, () =>
      [
        ...damaged.map((key) => `${key} is damaged, or of a newer version: that backup is lost`),
        ...found.damage.map(damageText),
        `${plural(found.backups, 'backup')}, ${plural(found.objects, 'object')}: ` +
          (lost === 0 ? 'all is there' : `${lost} damaged or missing`)
      ].join('\n')
    )
    if (lost === 0) return
    const advice = '"backup create --full" stores all of a volume anew'
    throw new CommandError('Corrupt', `${repository.store.name} is damaged: ${advice}`)
  } finally {
    progress.stop()
    keyring.close()
  }
}

/** What is verified, and the manifests that cannot be. */
async function wantedOf(
  repository: Repository,
  volume: string | undefined,
  named: string | undefined
): Promise<{ backups: Backup[]; damaged: string[] }> {
  if (named === undefined) {
    const found = await repository.readable(volume)
    if (found.backups.length + found.damaged.length > 0) return found
    const whose = volume === undefined ? '' : ` of volume ${volume}`
    const text = `there is no backup${whose} in ${repository.store.name}: nothing was verified`
    throw new CommandError('NotFound', text)
  }
  return { backups: [await repository.find(volume ?? '', named)], damaged: [] }
}

const damageText = ({ object, why, backup, offset, length }: Damage): string =>
  `${object} is ${why}: ${formatSize(length)} at ${offset} of backup ${backup}`

function addRestore(parent: Command): void {
  const command = parent
    .command('restore')
    .description('a backup as a new volume, or as a raw image without any cluster')
    .argument('<volume>', 'that was backed up')
    .option('--backup <NAME>', 'which one, as list shows it; the last one if not given')
    .option('--to-file <FILE>', 'a raw image; no peer is asked')
    .option('--as <NAME>', 'name of the new volume')
    .option('--pool <POOL>', 'pool of the new volume', 'default')
    .option('--restart', 'begin anew what was interrupted')
    .option('--encrypt', 'seal the new volume, under the secret that opens the backup')
  addAccessOptions(command)
  addSecretOptions(addStoreOptions(command)).action(
    action<[string], RestoreOptions>((context, [volume], options) =>
      restore(context, volume, options)
    )
  )
  withExamples(
    command,
    'torus backup restore demo --to /mnt/backups --to-file demo.img',
    'torus backup restore demo --to s3://bucket/torus --as demo2'
  )
}

async function restore(context: Context, volume: string, options: RestoreOptions): Promise<void> {
  const { toFile, as: name } = options
  if ((toFile === undefined) === (name === undefined)) {
    throw new UsageError('say where to: --to-file FILE, or --as NAME for a new volume')
  }
  if (toFile !== undefined && Object.keys(givenAccess(options)).length > 0) {
    throw new UsageError('who may open it is a rule of a volume (--as NAME), not of a file')
  }
  const repository = await repositoryAt(options)
  const keyring = new BackupKeyring(context, repository, options)
  try {
    const backup = await repository.find(volume, options.backup)
    const keys = await keyring.of(backup.manifest)
    const source = (): Source => sourceOf(repository, backup, keys)
    if (toFile !== undefined) await toImage(context, backup, source(), toFile)
    else {
      if (keys !== null && options.encrypt !== true) {
        context.output.note(`${backup.name} is encrypted; ${name} is not: --encrypt makes it so`)
      }
      const { pool, restart, allow, allowTlsName, nbdReadOnly } = options
      const open = async (): Promise<Source> => source()
      const plain = withoutUndefined({ pool, restart, allow, allowTlsName, nbdReadOnly })
      await transfer(context, name!, open, options.encrypt === true ? options : plain)
    }
  } finally {
    keyring.close()
  }
}

function sourceOf(
  repository: Repository,
  backup: Backup,
  keys: Awaited<ReturnType<BackupKeyring['of']>>
): Source {
  const digest = new VolumeDigest()
  async function* parts(): ReturnType<Source['parts']> {
    for await (const part of partsOfBackup(repository, backup, keys)) {
      digest.addPart(part)
      yield part
    }
  }
  return {
    sizeBytes: backup.manifest.sizeBytes,
    digest,
    snapshot: null,
    parts,
    close: async () => {}
  }
}

async function toImage(
  { output, confirm }: Context,
  { name, manifest }: Backup,
  source: Source,
  path: string
): Promise<void> {
  if (existsSync(path)) await confirm(`File ${path} is there and will be replaced.`)
  const { sizeBytes } = source
  const progress = output.progress(`restore ${name}`, (value) => formatSize(value))
  await rm(partName(path), { force: true })
  const sink = new RawFileSink(path, modeOf(manifest.keys !== null))
  await sink.open()
  try {
    await sink.begin({ sizeBytes, startBytes: 0, snapshot: null })
    for await (const part of source.parts()) {
      await sink.part(part)
      progress.update(part.offset, sizeBytes)
    }
    await sink.end()
  } catch (thrown) {
    await sink.abort()
    await rm(partName(path), { force: true })
    if (!(thrown instanceof CommandError) || thrown.code !== 'OutOfSpace') throw thrown
    // An export would go on with its part.
    const text = `the disk of ${path} is full: nothing stays; make room and run the command again`
    throw new CommandError('OutOfSpace', text)
  } finally {
    progress.stop()
  }
  const restored = { restored: name, file: path, sizeBytes }
  output.result(restored, () => `restored ${name} to ${path}, ${formatSize(sizeBytes)}`)
}

function addPrune(parent: Command): void {
  const command = parent
    .command('prune')
    .description('forget backups and delete what no other needs, while others may be made')
    .argument('[volume]', 'whose backups are forgotten; without it only leftovers go')
    .option('--keep <N>', 'keep the last N', countArgument)
    .option('--keep-daily <N>', 'and the last one of each of the last N days', countArgument)
    .option('--backup <NAME>', 'forget this one, as list shows it')
    .option('--break-lock', 'take another prune that seems to go on for dead')
  addSecretOptions(addStoreOptions(command)).action(
    action<[string | undefined], PruneOptions>((context, [volume], options) =>
      runPrune(context, volume, options)
    )
  )
  withExamples(command, 'torus backup prune demo --to /mnt/backups --keep 7 --keep-daily 30')
}

async function runPrune(
  context: Context,
  volume: string | undefined,
  options: PruneOptions
): Promise<void> {
  const { output, confirm } = context
  const repository = await repositoryAt(options)
  const unwanted = await unwantedOf(repository, volume, options)
  if (unwanted.length > 0) {
    const names = unwanted.map(({ name }) => name)
    const some = names.slice(0, 5).join(', ')
    const more = names.length > 5 ? ` and ${names.length - 5} more` : ''
    await confirm(`Backups go for good: ${some}${more}.`)
  }
  const keyring = new BackupKeyring(context, repository, options)
  try {
    const turn = {
      breakLock: options.breakLock ?? false,
      onWaiting: ({ host }: { host: string }): void =>
        output.note(`waiting to see whether the prune on ${host} goes on`)
    }
    const pruned = await prune(repository, unwanted, (manifest) => keyring.of(manifest), turn)
    output.result(pruned, () => {
      const { forgotten, objects, bytes, waitsFor } = pruned
      const gone = `${plural(objects, 'object')} deleted`
      const sum = `${plural(forgotten.length, 'backup')} forgotten, ${gone}`
      const wait = waitsFor.length === 0 ? '' : '; what backups that run now may need stays'
      return `${sum}, ${formatSize(bytes)}${wait}`
    })
  } finally {
    keyring.close()
  }
}

async function unwantedOf(
  repository: Repository,
  volume: string | undefined,
  { keep, keepDaily, backup }: PruneOptions
): Promise<Backup[]> {
  const isRule = keep !== undefined || keepDaily !== undefined
  if (volume === undefined) {
    if (!isRule && backup === undefined) return []
    throw new UsageError('say whose backups are forgotten: backup prune VOLUME …')
  }
  if (backup !== undefined) {
    if (isRule) throw new UsageError('--backup and --keep are two rules: give one')
    return [await repository.find(volume, backup)]
  }
  if (!isRule) throw new UsageError('say what is kept: --keep N, --keep-daily N, or --backup NAME')
  if ((keep ?? 0) + (keepDaily ?? 0) === 0) {
    throw new UsageError('that keeps no backup at all: --backup NAME forgets one')
  }
  return notKept(await repository.backups(volume), { last: keep ?? 0, days: keepDaily ?? 0 })
}
