import type { Arena } from '../core/arena.ts'
import type { Id64 } from '../core/id64.ts'
import type { ExportAccess } from './export-access.ts'
import type { VolumeRequest } from './request.ts'

/** When the next request of a device may begin. Cheap: asked for each. Times are monotonic. */
export interface DeviceAdmission {
  /** Are there limits? Without, `waitMs` and `spend` need not be called. */
  readonly isLimited: boolean
  /** Milliseconds until the next request may begin; 0: now. */
  waitMs(nowMs: number): number
  /** A request that moves so many bytes began. */
  spend(bytes: number): void
  /** Do others want their turns too? Who has requests under way waits then while `isFull`. */
  isShared(nowMs: number): boolean
  readonly isFull: boolean
}

/** An open volume as protocols with a block interface (NBD) use it. */
export interface BlockDevice {
  readonly name: string
  /** Bytes; a resize changes it while the device is open. */
  readonly sizeBytes: number
  readonly readOnly: boolean
  /** Null, or absent: a request may always begin. */
  readonly admission?: DeviceAdmission | null
  /**
   * Starts the request. The caller has checked the range against `sizeBytes`; one that reaches
   * past the end all the same (the volume may shrink between the two) ends with OutOfRange, one
   * on a device that was closed or deleted with Closed, a change of a read-only one with ReadOnly.
   * Call `DeviceSource.ring` after the last submit of a batch.
   */
  submit(request: VolumeRequest): void
  /**
   * Reads the range into `into` from `start` on, if it is at hand: small, aligned, and known to be
   * nowhere but in memory. Returns the milliseconds that took, and counts as a request; below 0:
   * submit one, what is in `into` means nothing. Devices need not have it.
   */
  readNow?(offset: number, length: number, into: Buffer, start: number): number
  /** Ends this open; requests in flight finish first. */
  close(): Promise<void>
}

/** A client that keeps what it wrote, and writes it again where it goes on. */
export interface ClientSession {
  /** 16 hex digits, its own choice, not zero. */
  readonly id: string
  /** It was open before; else it begins. */
  readonly goesOn: boolean
}

/** One client connection, as `torus client list` shows it. The protocol keeps it up to date. */
export interface ClientInfo {
  readonly id: number
  readonly protocol: string
  /** Address of the client, or the path of the unix socket. */
  readonly address: string
  readonly tls: boolean
  readonly connectedAtMs: number
  volume: string
  inFlight: number
  reads: number
  writes: number
  readBytes: number
  writtenBytes: number
}

/** A snapshot that an export stands on. */
export interface SnapshotBase {
  /** Without the volume's. */
  readonly name: string
  /** For `VolumeRequest.since`. */
  readonly layer: Id64
}

/** What a protocol server is given: volumes to open and the memory to move their bytes in. */
export interface DeviceSource {
  readonly arena: Arena
  /** All exports, sorted by name; the protocol compares each client with `access`. */
  list(): Promise<
    readonly {
      name: string
      sizeBytes: number
      readOnly: boolean
      description: string
      /** Absent: everybody may open it. */
      access?: ExportAccess
    }[]
  >
  /** What `list` would say of `volume@snapshot`; null when there is none. */
  findSnapshot?(
    name: string
  ): Promise<{ readonly sizeBytes: number; readonly description: string } | null>
  /** The newest snapshots of a volume, newest first, at most so many. */
  newestSnapshots?(
    volume: string,
    most: number
  ): Promise<readonly { readonly name: string; readonly description: string }[]>
  /** Snapshots since which it can be asked what changed of an export, oldest first. */
  findBases?(name: string): Promise<readonly SnapshotBase[]>
  /**
   * Opens an export for a client.
   * @throws StoreError NotFound, Busy, Forbidden, …; StaleEpoch when `session` may not go on
   */
  open(name: string, options: { readOnly?: boolean; session?: ClientSession }): Promise<BlockDevice>
  /**
   * Submits everything queued by `BlockDevice.submit` since the last call. Requests that are done
   * already may be answered from inside.
   */
  ring(): void
}
