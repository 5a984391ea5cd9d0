import type { Bases } from '../cluster/bases.ts'
import type { Cluster } from '../cluster/cluster.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import type { Session } from '../cluster/session.ts'
import type { Arena } from '../core/arena.ts'
import type { StoreError } from '../core/errors.ts'
import type { BlockStore } from '../replication/block-store.ts'
import type { ClientSession } from './block-device.ts'
import type { NewSlot, VolumeKeyring } from './volume-keyring.ts'
import type { VolumeSettings, VolumeTypes } from './volume-types.ts'
import type { ExportAccess } from './export-access.ts'
import type { WriterGate } from './writer-gate.ts'

export interface VolumesOptions {
  readonly cluster: Cluster
  readonly session: Session
  readonly store: BlockStore
  readonly arena: Arena
  readonly types?: VolumeTypes
  /** Keys of encrypted volumes; without it there are none. */
  readonly keyring?: VolumeKeyring
  /** The store as encrypted volumes see it, which seals and opens; it comes with the keyring. */
  readonly sealed?: BlockStore
  /** On which layers branches begin, as the shards of this process are told. */
  readonly bases?: Bases
  /** The right to write; by default as in a process that has its metadata for itself. */
  readonly gate?: WriterGate
  /** Ends the connections of a volume's clients: it is deleted by force, or has to move. */
  readonly disconnect?: (volume: string) => void | Promise<void>
  /** The record of a volume that was opened here changed. */
  readonly onChange?: () => void
  /** Something failed that nobody waits for. */
  readonly onTrouble?: (what: string, error: StoreError) => void
  readonly scratchPages?: number
}

export interface CreateOptions {
  /** See src/cluster/names.ts for what a name may be. */
  readonly name: string
  /** A positive multiple of 4096, unless the type says otherwise. Volumes are thin. */
  readonly sizeBytes: number
  /** `block` by default. */
  readonly type?: string
  /** Seals its blocks under a key that this slot opens. */
  readonly encrypt?: NewSlot
  readonly description?: string
  readonly labels?: Readonly<Record<string, string>>
  /** Pool that has its blocks; the default one if none is named. */
  readonly pool?: string
  /** Who may open it over protocols for clients, from the first moment on; everybody. */
  readonly access?: Partial<ExportAccess>
  /** No name leads to it yet. */
  readonly hidden?: VolumeRecord['hidden']
  /** For the type. */
  readonly settings?: VolumeSettings
}

export interface OpenOptions {
  /** Of a client over a protocol. */
  readonly session?: ClientSession
  readonly readOnly?: boolean
  /** Also if another peer serves it: that is asked to let go, and loses it if it does not. */
  readonly takeover?: boolean
  /** The store's own work, which read-only volumes take too. */
  readonly own?: boolean
  /** It goes on by itself after it lost the volume, so nobody has to wait for it. */
  readonly background?: boolean
  /** It goes on with whoever has the volume, and gives way to anyone. */
  readonly yields?: boolean
}

export interface ResizeOptions {
  /** A smaller size is meant. */
  readonly shrink?: boolean
  /** What a shrink does about those who have the volume open. */
  readonly clients?: 'keep' | 'refuse' | 'disconnect'
}
