import { BranchDirectory, type NewClone } from '../cluster/branches.ts'
import type { Cluster } from '../cluster/cluster.ts'
import type { HiddenVolumes } from '../cluster/hidden-volumes.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import { SnapshotDirectory } from '../cluster/snapshots.ts'
import type { VolumeDirectory } from '../cluster/volume-directory.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { withNewKeys } from './new-keys.ts'
import type { VolumeHistory } from './volume-history.ts'
import type { VolumeKeyring } from './volume-keyring.ts'

/** A volume that stands on a snapshot. */
export interface Child {
  readonly name: string
  readonly id: string
  /** Name of the snapshot. */
  readonly snapshot: string
  readonly createdAt: string
  /** It can be restored until it is deleted for good, and counts until then. */
  readonly inTrash: boolean
  readonly isFlattening: boolean
}

/** By their names. */
export interface CloneBase {
  readonly volume: string
  readonly snapshot: string
}

export interface ClonesParts {
  readonly cluster: Cluster
  readonly directory: VolumeDirectory
  readonly hidden: HiddenVolumes
  readonly history: VolumeHistory
  readonly keyring: VolumeKeyring | null
}

export type CloneOptions = Omit<NewClone, 'keys'>

/**
 * Volumes that begin as what a snapshot shows. A clone costs nothing when it is made and keeps only
 * what is written to it; until it is flattened the snapshot has to stay.
 */
export class Clones {
  readonly #parts: ClonesParts
  readonly #branches: BranchDirectory
  readonly #snapshots: SnapshotDirectory

  constructor(parts: ClonesParts) {
    this.#parts = parts
    this.#branches = new BranchDirectory(parts.cluster)
    this.#snapshots = new SnapshotDirectory(parts.cluster)
  }

  /**
   * @throws StoreError NotFound (also for a volume in the trash), AlreadyExists, InvalidArgument,
   * Busy (feature level), Forbidden for a volume of before that level, LimitReached, Locked
   */
  async clone(volume: string, snapshot: string, options: CloneOptions): Promise<VolumeRecord> {
    const { history } = this.#parts
    const source = await this.#find(volume)
    const made = await this.#make(source, snapshot, options)
    await history.tell(source, 'cloned', { snapshot, to: made.name })
    await history.tell(made, 'created', {
      sizeBytes: made.sizeBytes,
      from: `${volume}@${snapshot}`
    })
    return made
  }

  /** Of one snapshot, or of all of the volume. @throws StoreError NotFound */
  async children(volume: string, snapshot: string | null): Promise<Child[]> {
    const { directory } = this.#parts
    const record = await this.#find(volume)
    const all = await this.#snapshots.list(record.id)
    const wanted = snapshot === null ? null : await this.#snapshots.get(record, snapshot)
    const children: Child[] = []
    for (const { volume: id, snapshot: on } of record.clones ?? []) {
      if (wanted !== null && on !== wanted.id) continue
      const clone = await directory.find(id)
      if (clone === null) continue
      children.push({
        ...{ name: clone.name, id, createdAt: clone.createdAt },
        snapshot: all.find((each) => each.id === on)?.name ?? on,
        inTrash: clone.hidden !== undefined,
        isFlattening: clone.flatten !== undefined
      })
    }
    return children
  }

  /** null: it stands on no other. */
  async baseOf({ base }: VolumeRecord): Promise<CloneBase | null> {
    if (base === undefined) return null
    const parent = await this.#parts.directory.find(base.volume)
    const all = await this.#snapshots.list(base.volume)
    const snapshot = all.find(({ id }) => id === base.snapshot)?.name ?? base.snapshot
    return { volume: parent?.name ?? base.volume, snapshot }
  }

  async #find(name: string): Promise<VolumeRecord> {
    const { directory, hidden } = this.#parts
    return directory.get(name).catch(async (thrown: unknown) => {
      if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.NotFound) throw thrown
      const all = await hidden.list()
      const gone = all.some((each) => each.name === name && each.hidden.why === 'deleted')
      if (!gone) throw thrown
      const advice = `"torus volume trash restore ${name}" comes first`
      throw new StoreError(ErrorCode.NotFound, `volume ${name} is in the trash: ${advice}`)
    })
  }

  async #make(
    source: VolumeRecord,
    snapshot: string,
    options: CloneOptions
  ): Promise<VolumeRecord> {
    const { keyring } = this.#parts
    const clone = (spec: NewClone): Promise<VolumeRecord> =>
      this.#branches.clone(source.id, snapshot, spec)
    if (source.encryption === undefined) return clone(options)
    if (keyring === null) {
      const text = `volume ${source.name} is encrypted, and this process has no keys`
      throw new StoreError(ErrorCode.Unavailable, text)
    }
    return withNewKeys(
      keyring,
      (family) => keyring.clone(source, { name: options.name, family }),
      (keys) => clone({ ...options, keys })
    )
  }
}
