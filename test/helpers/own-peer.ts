/** A peer in this process, on a data directory of its own. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startPeer } from '../../src/coordinator.ts'
import { resolveConfig } from '../../src/core/config.ts'
import { createLog } from '../../src/core/log.ts'
import type { RunningPeer } from '../../src/index.ts'
import { VolumeTypes } from '../../src/volume/volume-types.ts'

/** `open` starts it, again and again; NBD is off unless `flags` say otherwise. */
export async function withPeer(
  work: (open: () => Promise<RunningPeer>, directory: string) => Promise<void>,
  given: Readonly<Record<string, string | number>> = {}
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'torus-peer-'))
  const options = { dataDir: join(directory, 'data'), shards: 2, capacityBytes: 2 ** 31 }
  const listen = { nbdListen: 'off', adminListen: '127.0.0.1:0', adminSocket: 'off' }
  const flags = { ...options, ...listen, logLevel: 'warn', ...given }
  const resolved = resolveConfig({ flags, env: {}, file: null })
  const peers: RunningPeer[] = []
  try {
    await work(async () => {
      peers.push(await startPeer(resolved, createLog(resolved.config), new VolumeTypes()))
      return peers.at(-1)!
    }, directory)
  } finally {
    await peers.at(-1)?.stop()
    rmSync(directory, { recursive: true, force: true })
  }
}
