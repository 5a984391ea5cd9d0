import { existsSync } from 'node:fs'
import type { Peer } from './api-client.ts'
import { CommandError } from './errors.ts'

/** Where a peer serves NBD. */
export type NbdAddress =
  | { readonly kind: 'unix'; readonly path: string; readonly tls: boolean }
  | {
      readonly kind: 'tcp'
      readonly host: string
      readonly port: number
      readonly tls: boolean
    }

/** 'nbd://127.0.0.1:10809', 'nbds://…' or 'nbd+unix:///?socket=PATH'; null for anything else. */
export function parseNbdAddress(text: string): NbdAddress | null {
  const match = /^(nbds?)(\+unix)?:\/\/([^/?]*)[^?]*(\?.*)?$/.exec(text)
  if (match === null) return null
  const tls = match[1] === 'nbds'
  if (match[2] !== undefined) {
    const path = /[?&]socket=([^&]+)/.exec(match[4] ?? '')?.[1]
    return path === undefined ? null : { kind: 'unix', path: decodeURIComponent(path), tls }
  }
  const hostPort = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(match[3] ?? '')
  if (hostPort === null) return null
  const host = (hostPort[1] ?? hostPort[2])!
  return { kind: 'tcp', host, port: Number(hostPort[3] ?? 10_809), tls }
}

/** A socket that is here is the shorter way. @throws CommandError when the peer serves no NBD */
export function chooseNbdAddress(peer: Peer): NbdAddress {
  const addresses = peer.nbdAddresses.map(parseNbdAddress).filter((each) => each !== null)
  const socket = addresses.find((each) => each.kind === 'unix' && existsSync(each.path))
  const chosen = socket ?? addresses.find(({ kind }) => kind === 'tcp')
  if (chosen !== undefined) return chosen
  const message = 'the peer serves no NBD that can be reached from here: see its --nbd-listen'
  throw new CommandError('Unavailable', message)
}

/** The URI of a volume, for clients that take one. */
export function volumeUri(address: NbdAddress, volume: string): string {
  const scheme = address.tls ? 'nbds' : 'nbd'
  const name = encodeURIComponent(volume)
  if (address.kind === 'unix') {
    return `${scheme}+unix:///${name}?socket=${encodeURIComponent(address.path)}`
  }
  const host = address.host.includes(':') ? `[${address.host}]` : address.host
  return `${scheme}://${host}:${address.port}/${name}`
}
