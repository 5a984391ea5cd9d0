/** The configuration as it came out, for people: what holds, and where it was said. */
import { formatAddress } from './addresses.ts'
import type { ResolvedConfig } from './config.ts'
import { sourceText } from './config-source.ts'
import { optionInfo, optionKeys } from './option-info.ts'
import type { Config, OptionKey } from './options.ts'
import { formatDurationExact, formatSizeExact } from './units.ts'

export interface ConfigEntry {
  /** The external name. */
  readonly name: string
  /** As it would stand in the config file; null where nothing is set. */
  readonly value: unknown
  readonly source: string
  readonly description: string
}

/** Every option with its effective value and where it came from, in the order of the table. */
export function configEntries(resolved: ResolvedConfig): ConfigEntry[] {
  return optionKeys.map((key) => ({
    name: optionInfo[key].name,
    value: externalValue(key, resolved.config),
    source: sourceText(resolved.sources[key]),
    description: optionInfo[key].help
  }))
}

function externalValue(key: OptionKey, config: Config): unknown {
  const value = config[key]
  if (key === 'nbdListen' || key === 'adminListen' || key === 'peerListen') {
    const address = config[key]
    return address === null ? 'off' : formatAddress(address)
  }
  if (key === 'peerAdvertise') return config[key] === null ? null : formatAddress(config[key])
  if (key === 'volumes') {
    return config.volumes.map(({ name, sizeBytes }) => `${name}=${formatSizeExact(sizeBytes)}`)
  }
  if (key === 'nbdSocketMode' || key === 'adminSocketMode') return config[key].toString(8)
  if (typeof value === 'number' && key.endsWith('Bytes')) return formatSizeExact(value)
  if (typeof value === 'number' && key.endsWith('Ms')) {
    return value === 0 ? 'off' : formatDurationExact(value)
  }
  return value
}
