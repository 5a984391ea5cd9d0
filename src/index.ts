/**
 * Torus as a library: a data directory opened in this process, its volumes as files, and volume
 * types that plug in.
 *
 *   import { openPeer } from 'torus'
 *
 *   const peer = await openPeer({ dataDir: './data' })
 *   await peer.volumes.create({ name: 'notes', sizeBytes: 64 * 1024 * 1024 })
 *   const file = await peer.volumes.openFile('notes')
 *   await file.writeAt(0, Buffer.from('hello'))
 *   await file.flush()                            // from here on it survives a power cut
 *   console.log((await file.readAt(0, 5)).toString())
 *   await file.close()
 *   await peer.stop()
 *
 * Offsets, lengths and sizes are bytes. A promise of a write resolves when the write is
 * acknowledged: every read sees it. It is durable when a `flush` called after that has resolved.
 * Changes of volumes themselves (create, rename, resize, delete) are durable when they resolve.
 *
 * Every failure that a disk, an operator or a caller can cause is a `StoreError` with a `code`
 * from `ErrorCode`; any other exception is a bug, and what follows it is not to be trusted.
 */
import { type RunningPeer, startPeer } from './coordinator.ts'
import { resolveConfig } from './core/config.ts'
import { createLog } from './core/log.ts'
import { type VolumeType, VolumeTypes } from './volume/volume-types.ts'

export type { RunningPeer } from './coordinator.ts'
export { ErrorCode, errorCodeName, StoreError } from './core/errors.ts'
export { BLOCK_BYTES, VOLUME_BYTES_MAX, VOLUME_NAME_BYTES_MAX } from './core/limits.ts'
export type { BlockDevice } from './volume/block-device.ts'
export type { TorusPlugin } from './volume/plugins.ts'
export { RequestFlag, RequestKind, StatusExtent, VolumeRequest } from './volume/request.ts'
export type { FileExtent, VolumeFile, WriteOptions } from './volume/volume-file.ts'
export type { VolumeCounters, VolumeInfo } from './volume/volume-info.ts'
export type { VolumeDetails, VolumeSettings, VolumeType } from './volume/volume-types.ts'
export type { CreateOptions, OpenOptions } from './volume/volume-options.ts'

export interface OpenPeerOptions {
  /** Made if it does not exist or is empty. One process at a time may have it open. */
  readonly dataDir: string
  /** Bytes that the peer may fill; by default what the filesystem has, less a margin. */
  readonly capacityBytes?: number
  /** Of a new data directory: threads that store its bytes; by default one for each core. */
  readonly shards?: number
  /** Memory for bytes in flight; 64 MiB by default. */
  readonly arenaBytes?: number
  /** `HOST:PORT` to serve NBD on; by default nothing listens. */
  readonly nbdListen?: string
  /** Path of a unix socket to serve NBD on. */
  readonly nbdSocket?: string
  /** Volume types beside `block`. */
  readonly volumeTypes?: readonly VolumeType[]
  /** Modules that export a `TorusPlugin`: paths, or packages. */
  readonly plugins?: readonly string[]
  /** Least severe level that is logged, to standard error; `warn` by default. */
  readonly logLevel?: 'debug' | 'info' | 'warn' | 'error' | 'silent'
}

/**
 * Opens a data directory in this process and starts its threads; recovery from a crash is part of
 * that. Nothing listens unless asked for. `stop` finishes what is in flight, makes everything
 * durable and lets the directory go; without it the process does not end by itself.
 *
 * @throws StoreError Busy when another process has the directory, InvalidArgument for options,
 * Corrupt and UnknownVersion for what is in it, DiskFailure and OutOfSpace for the disk
 */
export async function openPeer(options: OpenPeerOptions): Promise<RunningPeer> {
  const { volumeTypes = [], nbdListen = 'off', logLevel = 'warn', ...flags } = options
  const types = new VolumeTypes()
  for (const type of volumeTypes) types.register(type)
  const off = { adminListen: 'off', adminSocket: 'off' }
  const resolved = resolveConfig({
    flags: { ...flags, nbdListen, logLevel, ...off },
    env: {},
    file: null
  })
  return startPeer(resolved, createLog(resolved.config), types)
}
