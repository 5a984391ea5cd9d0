/** Who reads certificates and secrets from files, by the options that name them. */
import { AdminTls } from '../admin/tls.ts'
import { systemClock, systemTimers } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Config } from '../core/options.ts'
import type { NbdServer } from '../nbd/server.ts'
import type { NbdTlsFiles } from '../nbd/tls-context.ts'
import { Credentials, type CredentialUser } from './credentials.ts'
import type { PeerMetadata } from './metadata.ts'
import type { Replication } from './replication.ts'

interface CredentialSides {
  readonly config: Config
  readonly nbd: NbdServer
  readonly metadata: PeerMetadata
  readonly replication: Replication | null
}

/** Follows the files of all of them, until `undo`. */
export async function startCredentials(
  sides: CredentialSides & {
    readonly log: Log
    readonly undo: { add(step: () => void): void }
  }
): Promise<Credentials> {
  const { config, log, undo } = sides
  const adminTls = adminTlsOf(config)
  const clocks = { clock: systemClock, timers: systemTimers }
  const credentials = new Credentials({ ...clocks, adminTls, log })
  undo.add(() => credentials.close())
  for (const user of credentialUsers(sides, adminTls)) credentials.add(user)
  await credentials.start()
  return credentials
}

/** null where NBD is served without TLS. */
export function tlsFilesOf(config: Config): NbdTlsFiles | null {
  const { nbdTls: mode, nbdTlsCert: certFile, nbdTlsKey: keyFile, nbdTlsCa, nbdTlsPskFile } = config
  if (mode === 'off') return null
  if (nbdTlsPskFile !== null) return { mode, pskFile: nbdTlsPskFile }
  if (certFile === null || keyFile === null) return null
  return { mode, certFile, keyFile, ...(nbdTlsCa === null ? {} : { clientCaFile: nbdTlsCa }) }
}

/** null where the admin API talks plain HTTP. */
export function adminTlsOf(config: Config): AdminTls | null {
  const { adminTlsCert: cert, adminTlsKey: key, adminTlsCa: ca } = config
  return cert === null || key === null ? null : new AdminTls({ cert, key, ca })
}

function credentialUsers(
  { config, nbd, metadata, replication }: CredentialSides,
  adminTls: AdminTls | null
): CredentialUser[] {
  const nbdTls = tlsFilesOf(config)
  const security = replication?.security ?? null
  return [
    userOf('nbd', nbdTls === null ? [] : [config.nbdTlsCert, config.nbdTlsCa], {
      others: nbdTls === null ? [] : [config.nbdTlsKey, config.nbdTlsPskFile],
      reload: () => nbd.reloadTls()
    }),
    userOf('admin', [config.adminTlsCert, config.adminTlsCa], {
      others: [config.adminTlsKey],
      reload: () => adminTls?.load()
    }),
    userOf('peer', security === null ? [] : [config.peerTlsCert, config.peerTlsCa], {
      others: security === null ? [] : [config.peerTlsKey, config.clusterSecretFile],
      reload: () => security?.reload()
    }),
    userOf('etcd', [config.etcdCert, config.etcdCa], {
      others: [config.etcdKey, config.etcdPasswordFile],
      reload: () => metadata.reload()
    })
  ]
}

const given = (files: readonly (string | null)[]): string[] => files.filter((file) => file !== null)

function userOf(
  name: string,
  certificates: readonly (string | null)[],
  { others, reload }: { others: readonly (string | null)[]; reload: CredentialUser['reload'] }
): CredentialUser {
  const files = given([...certificates, ...others])
  return { name, certificates: given(certificates), files, reload }
}
