/** What works on a data directory without a server: `check` and `reshard`. */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { BLOCK_BYTES, SHARDS_MAX } from '../../core/limits.ts'
import { formatSize, plural } from '../../core/units.ts'
import type { CheckReport } from '../../shard/check.ts'
import type { Problem } from '../../shard/problem.ts'
import { countArgument } from '../arguments.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError, UsageError } from '../errors.ts'

interface OfflineOptions {
  readonly dataDir: string
}

interface ReshardOptions extends OfflineOptions {
  readonly shards: number
  readonly acceptLoss?: boolean
}

/** A broken disk may have millions; the first ones tell enough, and all are counted. */
const PROBLEMS_SHOWN_MAX = 1000

export function addOfflineCommands(program: Command): void {
  const check = program
    .command('check')
    .description('offline: read every record and compare every checksum; changes nothing')
    .requiredOption('--data-dir <DIR>', 'data directory of a peer that does not run')
    .action(action<[], OfflineOptions>((context, _, options) => runCheck(context, options)))
  withExamples(
    check,
    'torus check --data-dir /var/lib/torus',
    'torus check --data-dir D --json | jq .damagedLiveBlocks'
  )
  const reshard = program
    .command('reshard')
    .description('offline: change the number of shards; goes on where it was interrupted')
    .requiredOption('--data-dir <DIR>', 'data directory of a peer that does not run')
    .requiredOption('--shards <N>', 'the new number', countArgument)
    .option('--accept-loss', 'leave blocks out that cannot be read, instead of stopping')
    .action(action<[], ReshardOptions>((context, _, options) => runReshard(context, options)))
  withExamples(reshard, 'torus reshard --data-dir /var/lib/torus --shards 8')
}

function existing(dataDir: string): string {
  const directory = resolve(dataDir)
  if (existsSync(join(directory, 'superblock'))) return directory
  const why = existsSync(directory) ? 'it has no superblock' : 'it does not exist'
  throw new CommandError('NotFound', `${dataDir} is no data directory of Torus: ${why}`)
}

async function runCheck({ output }: Context, { dataDir }: OfflineOptions): Promise<void> {
  const directory = existing(dataDir)
  const { checkDirectory } = await import('../../shard/check.ts')
  const { DirectoryLock } = await import('../../coordinator/lock.ts')
  const lock = DirectoryLock.acquireShared(directory)
  const problems: (Problem & { readonly shard: number })[] = []
  const bar = output.progress('check', formatSize)
  let report: CheckReport
  try {
    report = checkDirectory(directory, {
      // Shards are about the same size, so the ones to come count like this one.
      onProgress: ({ shard, shards, bytesDone, bytesTotal }) =>
        bar.update(shard * bytesTotal + bytesDone, shards * bytesTotal),
      onProblem: (problem) => {
        if (problems.length < PROBLEMS_SHOWN_MAX) problems.push(problem)
      }
    })
  } finally {
    bar.stop()
    lock.release()
  }
  const summary =
    `checked ${report.shards} shards: ${report.segments} segments, ${report.records} records, ` +
    plural(report.blocks, 'block')
  output.result({ ...report, found: problems }, () =>
    [...problems.map((problem) => problemText(problem.shard, problem)), summary].join('\n')
  )
  if (report.problems === 0) return
  throw new CommandError(
    'Corrupt',
    `${report.problems} problems, ${report.damagedLiveBlocks} live blocks are damaged`
  )
}

function problemText(shard: number, { kind, file, offset, detail, block }: Problem): string {
  const place = file === '' ? '' : ` ${file} at ${offset}`
  if (block === undefined) return `shard ${shard} ${kind}${place}: ${detail}`
  const { family, layer, chunk } = block
  const name = `family ${family}, layer ${layer}, chunk ${chunk}, block ${block.block}`
  return `shard ${shard} ${kind}${place}: ${detail} (${name})`
}

async function runReshard(context: Context, options: ReshardOptions): Promise<void> {
  const { output, confirm } = context
  const { dataDir, shards, acceptLoss = false } = options
  if (shards < 1 || shards > SHARDS_MAX) {
    throw new UsageError(`--shards ${shards}: must be 1 to ${SHARDS_MAX}`)
  }
  const directory = existing(dataDir)
  if (acceptLoss) await confirm(`Blocks of ${dataDir} that cannot be read are given up.`)
  const { reshardDirectory } = await import('../../shard/reshard.ts')
  const { shardOfChunk } = await import('../../placement/hash.ts')
  const { DirectoryLock } = await import('../../coordinator/lock.ts')
  const lock = DirectoryLock.acquire(directory)
  const bar = output.progress('reshard', (blocks) => formatSize(blocks * BLOCK_BYTES))
  const problems: Problem[] = []
  try {
    reshardDirectory(directory, shards, {
      shardOf: shardOfChunk,
      acceptLoss,
      onProgress: ({ phase, shard, shards: all, blocksDone, blocksTotal }) => {
        if (phase === 'copying') bar.update(shard * blocksTotal + blocksDone, all * blocksTotal)
      },
      onProblem: (problem) => {
        if (problems.length < PROBLEMS_SHOWN_MAX) problems.push(problem)
      }
    })
  } finally {
    bar.stop()
    for (const problem of problems) output.note(`${problem.kind}: ${problem.detail}`)
    lock.release()
  }
  output.result(
    { dataDir: directory, shards, problems },
    () => `${dataDir} has ${shards} shards now; serve it without --shards`
  )
}
