import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import { action, type Context, withExamples } from '../context.ts'
import { UsageError } from '../errors.ts'
import type { ChangedExtent } from '../stream-api.ts'
import { snapshotNameOf } from './snapshot.ts'

export function addDiff(parent: Command): void {
  const command = parent
    .command('diff')
    .description('what was written or given up since a snapshot; no data is read')
    .argument('<volume@older>', 'the snapshot to compare with')
    .argument('[volume@newer]', 'a later one, or the volume as it is now')
    .action(
      action<[string, string | undefined], object>((context, [older, newer]) =>
        diff(context, older, newer)
      )
    )
  withExamples(
    command,
    'torus volume diff demo@monday demo@tuesday',
    'torus volume diff demo@monday demo --json'
  )
}

async function diff({ api, output }: Context, older: string, newer?: string): Promise<void> {
  const [volume, from] = snapshotNameOf(older)
  const [other, snapshot] = newer?.includes('@') ? snapshotNameOf(newer) : [newer ?? volume]
  if (other !== volume) throw new UsageError(`${older} and ${newer} are of different volumes`)
  const { sizeBytes, extents } = await api.streams.diff(volume, from, snapshot)
  const to = snapshot === undefined ? volume : `${volume}@${snapshot}`
  const dataBytes = bytesOf(extents, 'data')
  const zeroBytes = bytesOf(extents, 'zeroes')
  const totals = { from: older, to, sizeBytes, dataBytes, zeroBytes }
  output.result({ ...totals, extents }, () => {
    const sum = `${formatSize(dataBytes)} of data, ${formatSize(zeroBytes)} of zeroes`
    if (extents.length === 0) return `nothing changed from ${older} to ${to}`
    const rows = extents.map(({ offset, length, kind }) => [`${offset}`, `${length}`, kind])
    return `${output.table(['OFFSET', 'LENGTH', 'KIND'], rows, 'rrl')}\n${sum}`
  })
}

const bytesOf = (extents: readonly ChangedExtent[], wanted: string): number =>
  extents.reduce((sum, { length, kind }) => (kind === wanted ? sum + length : sum), 0)
