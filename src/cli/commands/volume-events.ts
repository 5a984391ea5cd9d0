import type { Command } from 'commander'
import { formatSize } from '../../core/units.ts'
import { action, withExamples } from '../context.ts'
import type { VolumeEvent } from '../life-api.ts'

export function addEvents(parent: Command): void {
  const command = parent
    .command('events')
    .description('what happened to a volume, its newest events last')
    .argument('<volume>', 'its name')
    .action(
      action<[string], object>(async ({ api, output }, [name]) => {
        const events = await api.life.events(name)
        output.result(events, () =>
          events.length === 0
            ? `nothing is known of what happened to ${name}`
            : output.table(['WHEN', 'WHAT', 'PEER', 'DETAILS'], events.map(rowOf))
        )
      })
    )
  withExamples(command, 'torus volume events demo', 'torus volume events demo --json')
}

const rowOf = ({ at, kind, peer, details, count, lastAt }: VolumeEvent): string[] => [
  at.slice(0, 19).replace('T', ' '),
  kind,
  peer.slice(0, 8),
  [...Object.entries(details).map(detailText), ...againText(count, lastAt)].join(' ')
]

const againText = (count: number, lastAt: string): string[] =>
  count === 1 ? [] : [`(${count} times, last ${lastAt.slice(0, 19).replace('T', ' ')})`]

/** Descriptions may hold anything: no control character reaches the terminal. */
function detailText([name, value]: [string, VolumeEvent['details'][string]]): string {
  const isSize = typeof value === 'number' && (/Bytes$/.test(name) || /^(from|to)$/.test(name))
  const text = isSize ? formatSize(value).replace(' ', '') : String(value)
  return `${name}=${text.replaceAll(/\p{C}/gu, '?')}`
}
