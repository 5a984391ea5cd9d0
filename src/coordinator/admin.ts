/** The admin API of a running peer, with the metrics of all its parts. */
import { type AdminServer, startAdmin } from '../admin/server.ts'
import type { ResolvedConfig } from '../core/config.ts'
import { type ConfigEntry, configEntries } from '../core/config-entries.ts'
import type { LogOutput } from '../core/log.ts'
import { optionInfo } from '../core/option-info.ts'
import { registerNbdMetrics } from '../nbd/register-metrics.ts'
import type { NbdServer } from '../nbd/server.ts'
import type { PeerBackend } from './backend.ts'
import type { Credentials } from './credentials.ts'
import type { DataDirectory } from './data-directory.ts'
import type { PeerMetadata } from './metadata.ts'
import { registerMetadataMetrics } from './metadata-metrics.ts'
import type { Security } from './security.ts'

/** What is left to the data directory and the filesystem, as it came out. */
function effectiveEntries(resolved: ResolvedConfig, directory: DataDirectory): ConfigEntry[] {
  const { shards, segmentBytes } = directory.superblock
  const chosen = { shards, segmentBytes, capacityBytes: directory.capacityBytes }
  const config = { ...resolved.config, ...chosen }
  const fixed: readonly string[] = [optionInfo.shards.name, optionInfo.segmentBytes.name]
  return configEntries({ ...resolved, config }).map((entry) =>
    fixed.includes(entry.name) && entry.source === 'default'
      ? { ...entry, source: 'data directory' }
      : entry
  )
}

/** Listens for the admin API, and stops with what is undone. */
export async function startAdminServer(given: {
  readonly resolved: ResolvedConfig
  readonly directory: DataDirectory
  readonly output: LogOutput
  readonly backend: PeerBackend
  readonly security: Security
  readonly credentials: Credentials
  readonly nbd: NbdServer
  readonly metadata: PeerMetadata
  readonly undo: { add(step: () => Promise<void>): void }
}): Promise<AdminServer> {
  const { resolved, directory, output, backend, security, credentials, nbd, metadata, undo } = given
  const { adminListen, adminSocket, adminSocketMode, adminTlsAdmins } = resolved.config
  const admin = await startAdmin({
    backend,
    ...security,
    log: output.log,
    ring: output.ring,
    configEntries: effectiveEntries(resolved, directory),
    listen: adminListen,
    tls: credentials.adminTls,
    tlsAdmins: adminTlsAdmins,
    socket: adminSocket,
    socketMode: adminSocketMode,
    registerMetrics: (registry) => {
      registerNbdMetrics(registry, () => nbd.snapshot())
      registerMetadataMetrics(registry, metadata)
    }
  })
  undo.add(() => admin.stop())
  return admin
}
