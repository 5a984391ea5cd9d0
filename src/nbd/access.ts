/** Which exports a client may know of. */
import { BlockList, isIP } from 'node:net'
import { type ExportAccess, UNIX_ADDRESS } from '../volume/export-access.ts'

/** What a connection has shown so far. */
export interface ExportClient {
  /** IP address; null for a unix socket. */
  readonly address: string | null
  /** Of its verified certificate, in lower case; none before TLS. */
  readonly names: readonly string[]
}

export function mayOpen({ addresses, tlsNames }: ExportAccess, client: ExportClient): boolean {
  const named = tlsNames.length === 0 || tlsNames.some((name) => isOf(client, name))
  return named && (addresses.length === 0 || isFrom(client, addresses))
}

const isOf = ({ names }: ExportClient, name: string): boolean => names.includes(name.toLowerCase())

function isFrom({ address }: ExportClient, addresses: readonly string[]): boolean {
  if (address === null) return addresses.includes(UNIX_ADDRESS)
  // How a listener for both families shows IPv4.
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '')
  const family = isIP(plain) === 6 ? 'ipv6' : 'ipv4'
  const list = new BlockList()
  for (const each of addresses) {
    const [network = '', prefix] = each.split('/')
    const kind = isIP(network) === 6 ? 'ipv6' : 'ipv4'
    if (isIP(network) === 0 || kind !== family) continue
    if (prefix === undefined) list.addAddress(network, kind)
    else list.addSubnet(network, Number(prefix), kind)
  }
  return isIP(plain) !== 0 && list.check(plain, family)
}
