/** A volume in words. */
import { formatDurationExact, formatSize } from '../core/units.ts'
import type { Volume } from './api-client.ts'
import type { Output } from './output.ts'

/** Not known while a shard is not serving. */
const usedFact = ({ usedBytes }: Volume): [string, string][] =>
  usedBytes === null ? [] : [['used', formatSize(usedBytes)]]

/** As `volume set --unavailable` takes it. */
const unavailableText = ({ unavailableMs }: Volume): string =>
  unavailableMs === null ? 'wait' : `error:${formatDurationExact(unavailableMs)}`

/** Who may open it, as `volume set` takes it. */
function accessText({ access }: Volume): string {
  const { addresses, tlsNames, readOnly, listSnapshots } = access
  const names = tlsNames.length > 0 ? `, with a certificate or key of ${tlsNames.join(',')}` : ''
  const listed = listSnapshots ? ', snapshots listed' : ''
  return `${addresses.join(',') || 'any address'}${names}${readOnly ? ', read-only' : ''}${listed}`
}

const labelsFact = ({ labels }: Volume): [string, string][] => {
  const all = Object.entries(labels).map(([key, value]) => `${key}=${value}`)
  return all.length === 0 ? [] : [['labels', all.join(' ')]]
}

const limitsFact = ({ limits: { iops, iopsBurst, bandwidth } }: Volume): [string, string][] => {
  const burst = iopsBurst === null ? '' : ` (burst ${iopsBurst})`
  const all = [
    ...(iops === null ? [] : [`${iops} requests/s${burst}`]),
    ...(bandwidth === null ? [] : [`${formatSize(bandwidth)}/s`])
  ]
  return all.length === 0 ? [] : [['limits', all.join(', ')]]
}

export const volumeFacts = (
  volume: Volume,
  output: Output,
  space: [string, string][] = []
): string =>
  output.facts([
    ['name', volume.name],
    ['type', volume.type],
    ['pool', volume.pool],
    ['size', `${formatSize(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    ...(space.length > 0 ? space : usedFact(volume)),
    ['read-only', volume.readOnly ? 'yes' : 'no'],
    ['unavailable', unavailableText(volume)],
    ['NBD', accessText(volume)],
    ...limitsFact(volume),
    ['encryption', volume.encryption ?? 'none'],
    ['clients', String(volume.clients)],
    ['created', volume.createdAt],
    ['family', volume.family],
    ...labelsFact(volume),
    ...(volume.description === '' ? [] : [['description', volume.description] as const])
  ])
