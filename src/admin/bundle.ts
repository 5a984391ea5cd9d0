import { cpus, freemem, release, totalmem, uptime } from 'node:os'
import type { LogRing } from '../core/log.ts'
import type { MetricsRegistry } from '../core/metrics.ts'
import { version } from '../core/version.ts'
import type { AdminBackend } from './backend.ts'
import { RawAnswer } from './route.ts'
import { type ArchiveEntry, tarGzip } from './tar.ts'

export interface BundleSources {
  readonly backend: AdminBackend
  readonly registry: MetricsRegistry
  readonly ring: LogRing
  configEntries(): readonly unknown[]
}

/**
 * What a bug report needs, as one archive. A part that cannot be had is replaced by the reason:
 * a bundle is most wanted when something is broken.
 */
export async function debugBundle(sources: BundleSources): Promise<RawAnswer> {
  const { backend, registry, ring } = sources
  const now = new Date()
  const parts: Record<string, () => Promise<unknown>> = {
    'system.json': async () => systemFacts(now),
    'config.json': async () => sources.configEntries(),
    'status.json': () => backend.status(),
    'volumes.json': () => backend.listVolumes(),
    'clients.json': async () => backend.listClients(),
    'metrics.txt': () => registry.text(),
    'log.ndjson': async () => ring.lines().join('\n')
  }
  const stamp = now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '')
  const entries: ArchiveEntry[] = []
  for (const [name, make] of Object.entries(parts)) {
    const text = withoutSecrets(await textOf(make))
    entries.push({ name: `torus-debug-${stamp}/${name}`, text })
  }
  const archive = tarGzip(entries, now.getTime())
  return new RawAnswer('application/gzip', archive, `torus-debug-${stamp}.tar.gz`)
}

async function textOf(make: () => Promise<unknown>): Promise<string> {
  try {
    const value = await make()
    return typeof value === 'string' ? value : `${JSON.stringify(value, null, 2)}\n`
  } catch (error) {
    return `not available: ${String(error)}\n`
  }
}

/** Nothing of the environment but facts: variables are where secrets live. */
const systemFacts = (now: Date): unknown => ({
  time: now.toISOString(),
  torus: version,
  versions: process.versions,
  platform: `${process.platform} ${process.arch} ${release()}`,
  processors: cpus().length,
  processor: cpus()[0]?.model ?? '',
  memoryBytes: totalmem(),
  memoryFreeBytes: freemem(),
  machineUptimeSeconds: uptime(),
  processUptimeSeconds: process.uptime(),
  process: process.memoryUsage(),
  resources: process.resourceUsage()
})

const PRIVATE_KEY = /-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)/gs
const URL_PASSWORD = /:\/\/[^/@\s"]+@/g
const BEARER = /\b(bearer|basic)\s+[\w.~+/=-]+/gi
const TOKEN = /\btorus_[0-9a-f]{16}_[\w-]+/g
const SECRET_NAMES = 'password|passphrase|secret|token|authorization|data_?key'
const NAMED_SECRET = new RegExp(
  `("?\\b(?:${SECRET_NAMES})"?\\s*[:=]\\s*)("[^"]*"|[^\\s,"}]+)`,
  'gi'
)

/**
 * The second fence: what the parts hold is meant to be free of secrets, but messages of other
 * programs (a failed URL, a dumped header) end up in logs too.
 */
export const withoutSecrets = (text: string): string =>
  text
    .replaceAll(PRIVATE_KEY, '[redacted private key]')
    .replaceAll(URL_PASSWORD, '://[redacted]@')
    .replaceAll(BEARER, '$1 [redacted]')
    .replaceAll(TOKEN, '[redacted token]')
    .replaceAll(NAMED_SECRET, '$1"[redacted]"')
