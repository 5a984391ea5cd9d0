/** What options must be together; each one alone was checked before. */
import { join } from 'node:path'
import { formatAddress, isLoopback, isWildcard } from './addresses.ts'
import { type Source, sourceText } from './config-source.ts'
import { ErrorCode, StoreError } from './errors.ts'
import { optionInfo } from './option-info.ts'
import { type Config, type OptionKey, SEGMENT_BYTES_MIN } from './options.ts'
import { formatSizeExact } from './units.ts'

/** Bytes of `sockaddr_un.sun_path` on Linux, less the final zero. */
const SOCKET_PATH_BYTES_MAX = 107
/** Three of them are kept for compaction; with a few more it has a choice of victims. */
const SEGMENTS_PER_SHARD_MIN = 8

const invalid = (message: string): StoreError => new StoreError(ErrorCode.InvalidArgument, message)

/** Rules between options, and defaults that follow from others. */
export function completeConfig(
  values: Config,
  sources: Readonly<Record<OptionKey, Source>>,
  warnings: string[]
): Config {
  for (const key of ['nbdListen', 'adminListen'] as const) {
    const address = values[key]
    if (address === null || isLoopback(address.host) || values.insecure) continue
    if (asksWho(values, key)) continue
    throw invalid(
      `${optionInfo[key].name} ${formatAddress(address)} (from ${sourceText(sources[key])}) ` +
        `can be reached from other machines and nobody has to log in: listen on 127.0.0.1 or a ` +
        `unix socket, use TLS (${
          key === 'nbdListen'
            ? '--nbd-tls require with --nbd-tls-ca or --nbd-tls-psk-file'
            : '--admin-tls-cert, with tokens or --admin-tls-ca and --admin-tls-admins'
        }), or accept that with --insecure`
    )
  }
  checkCapacity(values, sources)
  requireNbdTlsRules(values)
  requireEtcdRules(values, sources)
  requirePeerRules(values, warnings)
  requireAdminRules(values)
  for (const key of ['nbdSocket', 'adminSocket'] as const) {
    const path = values[key]
    if (path === null || Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) continue
    throw invalid(
      `${optionInfo[key].name} ${path} has ${Buffer.byteLength(path)} bytes, and the path of a ` +
        `unix socket at most ${SOCKET_PATH_BYTES_MAX}`
    )
  }
  if (sources.adminSocket.kind !== 'default') return values
  const adminSocket = join(values.dataDir, 'admin.sock')
  if (Buffer.byteLength(adminSocket) <= SOCKET_PATH_BYTES_MAX) return { ...values, adminSocket }
  warnings.push(
    `no admin socket: ${adminSocket} is longer than ${SOCKET_PATH_BYTES_MAX} bytes; ` +
      `choose a shorter one with --admin-socket`
  )
  return values
}

/** The size of segments may be unknown as yet: then the smallest there is. */
function checkCapacity(values: Config, sources: Readonly<Record<OptionKey, Source>>): void {
  const { capacityBytes, segmentBytes, shards } = values
  if (capacityBytes === null) return
  const each = Math.floor(capacityBytes / (shards ?? 1))
  const segments = Math.floor(each / (segmentBytes ?? SEGMENT_BYTES_MIN))
  if (segments >= SEGMENTS_PER_SHARD_MIN) return
  const size = formatSizeExact(segmentBytes ?? SEGMENT_BYTES_MIN)
  const of = segmentBytes === null ? `the smallest, ${size}` : `segment-size ${size}`
  throw invalid(
    `capacity ${formatSizeExact(capacityBytes)} (from ${sourceText(sources.capacityBytes)}) ` +
      `gives a shard ${segments} segments of ${of}; it needs ${SEGMENTS_PER_SHARD_MIN}` +
      `${shards === null ? '' : `, and there are ${shards} shards`}`
  )
}

function requireNbdTlsRules(values: Config): void {
  const { nbdTls, nbdTlsCert, nbdTlsKey, nbdTlsCa, nbdTlsPskFile } = values
  const certificates = nbdTlsCert ?? nbdTlsKey ?? nbdTlsCa
  if (nbdTls === 'off') {
    if ((certificates ?? nbdTlsPskFile) === null) return
    throw invalid(
      'nbd-tls is off although certificates or keys are given: set it to allow or require'
    )
  }
  if (nbdTlsPskFile !== null) {
    if (certificates === null) return
    throw invalid('nbd-tls-psk-file is given instead of nbd-tls-cert, -key and -ca, not with them')
  }
  if (nbdTlsCert !== null && nbdTlsKey !== null) return
  throw invalid(`nbd-tls ${nbdTls} needs nbd-tls-cert and nbd-tls-key, or nbd-tls-psk-file`)
}

function requireEtcdRules(values: Config, sources: Readonly<Record<OptionKey, Source>>): void {
  const { etcd, etcdCa, etcdCert, etcdKey, etcdUser, etcdPasswordFile } = values
  const files = ['etcdCa', 'etcdCert', 'etcdKey', 'etcdUser', 'etcdPasswordFile'] as const
  const given = files.find((key) => values[key] !== null)
  if (etcd.length === 0 && values.join) throw invalid('join means nothing without etcd')
  if (etcd.length === 0 && given !== undefined) {
    const from = sourceText(sources[given])
    throw invalid(`${optionInfo[given].name} (from ${from}) means nothing without etcd`)
  }
  const secure = etcd.some((url) => url.startsWith('https:'))
  if (!secure && (etcdCa ?? etcdCert ?? etcdKey) !== null) {
    throw invalid('etcd certificates are given, but etcd is reached by http: write https://')
  }
  if ((etcdCert === null) !== (etcdKey === null)) {
    throw invalid('etcd-cert and etcd-key are only given together')
  }
  if ((etcdUser === null) !== (etcdPasswordFile === null)) {
    throw invalid('etcd-user and etcd-password-file are only given together')
  }
}

/** Who connects to `peerListen` proves that it is of the cluster: it needs no `insecure`. */
function requirePeerRules(values: Config, warnings: string[]): void {
  const { peerTlsCa, peerTlsCert, peerTlsKey, peerListen, peerAdvertise, etcd } = values
  if (peerListen === null && peerAdvertise !== null) {
    throw invalid('peer-advertise means nothing without peer-listen')
  }
  if (peerListen !== null && peerAdvertise === null && isWildcard(peerListen.host)) {
    throw invalid(
      `peer-listen ${formatAddress(peerListen)} is no address that others can connect to: ` +
        'add --peer-advertise HOST:PORT'
    )
  }
  const given = [peerTlsCa, peerTlsCert, peerTlsKey].filter((file) => file !== null).length
  if (given === 1 || given === 2) {
    throw invalid('peer-tls-ca, peer-tls-cert and peer-tls-key are only given together')
  }
  if (peerListen !== null && etcd.length === 0) {
    warnings.push('peer-listen means nothing without etcd: nobody listens there')
    return
  }
  if (peerListen === null || isLoopback(peerListen.host) || given > 0) return
  warnings.push(
    `peer-listen ${formatAddress(peerListen)} can be reached from other machines, and with a ` +
      'cluster secret alone who is in between can read and change what peers send: use ' +
      'certificates (--peer-tls-ca, -cert, -key; torus tls init) unless the network is trusted'
  )
}

/** Nobody comes in without a certificate of the operator's authority, or a token over TLS. */
const asksWho = (values: Config, key: 'nbdListen' | 'adminListen'): boolean =>
  key === 'nbdListen'
    ? values.nbdTls === 'require' && (values.nbdTlsCa ?? values.nbdTlsPskFile) !== null
    : values.adminTlsCert !== null

function requireAdminRules(values: Config): void {
  const { adminTlsCert, adminTlsKey, adminTlsCa, adminTlsAdmins, adminListen } = values
  if ((adminTlsCert === null) !== (adminTlsKey === null)) {
    throw invalid('admin-tls-cert and admin-tls-key are only given together')
  }
  if (adminTlsCa !== null && adminTlsCert === null) {
    throw invalid('admin-tls-ca needs admin-tls-cert and admin-tls-key')
  }
  if (adminTlsCa === null && adminTlsAdmins.length > 0) {
    throw invalid('admin-tls-admins needs admin-tls-ca')
  }
  if (adminListen === null && adminTlsCert !== null) {
    throw invalid('admin-tls-cert means nothing without admin-listen')
  }
}
