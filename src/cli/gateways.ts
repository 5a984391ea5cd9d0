import { readFileSync } from 'node:fs'
import { InvalidArgumentError } from 'commander'
import type { RemoteVolumeOptions } from '../nbd/remote-volume.ts'
import { CommandError } from './errors.ts'
import { type NbdAddress, parseNbdAddress } from './nbd-address.ts'
import { systemReason } from '../core/system-reason.ts'

/** Files of TLS towards gateways. */
export interface TlsOptions {
  readonly tlsCa?: string
  readonly tlsCert?: string
  readonly tlsKey?: string
}

/** 'h1,h2:10810,nbds://h3' -> addresses, for commander. */
export function gatewaysArgument(text: string): NbdAddress[] {
  return text.split(',').map((each) => {
    const address = parseNbdAddress(/^nbds?(\+unix)?:/.test(each) ? each : `nbd://${each}`)
    if (address !== null && !/\s/.test(each)) return address
    throw new InvalidArgumentError(`"${each}" is not like HOST, HOST:PORT or nbds://HOST`)
  })
}

export const gatewayText = (address: NbdAddress): string =>
  address.kind === 'unix'
    ? `nbd${address.tls ? 's' : ''}+unix:///?socket=${encodeURIComponent(address.path)}`
    : `nbd${address.tls ? 's' : ''}://${hostOf(address.host)}:${address.port}`

const hostOf = (host: string): string => (host.includes(':') ? `[${host}]` : host)

/** With files of certificates every gateway is asked for TLS. @throws CommandError */
export function gatewaysOf(
  addresses: readonly NbdAddress[],
  options: TlsOptions
): RemoteVolumeOptions['gateways'] {
  const { tlsCa, tlsCert, tlsKey } = options
  const files = tlsCa === undefined ? null : { ca: read(tlsCa), ...pairOf(tlsCert, tlsKey) }
  return addresses.map((address) => {
    if (address.tls && files === null) {
      const message = `${gatewayText(address)} asks for TLS: say whom to trust, --tls-ca`
      throw new CommandError('InvalidArgument', message)
    }
    const { kind } = address
    const endpoint =
      kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port }
    return { endpoint, tls: files }
  })
}

function pairOf(
  cert: string | undefined,
  key: string | undefined
): { cert?: Buffer; key?: Buffer } {
  if (cert === undefined && key === undefined) return {}
  if (cert !== undefined && key !== undefined) return { cert: read(cert), key: read(key) }
  throw new CommandError('InvalidArgument', '--tls-cert and --tls-key belong together')
}

function read(path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (cause) {
    const text = `${path} cannot be read: ${systemReason(cause)}`
    throw new CommandError('InvalidArgument', text, { cause })
  }
}
