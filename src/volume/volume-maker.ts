import { DEFAULT_POOL } from '../cluster/pools.ts'
import type { VolumeRecord } from '../cluster/records.ts'
import type { NewVolume, VolumeDirectory } from '../cluster/volume-directory.ts'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { withNewKeys } from './new-keys.ts'
import type { VolumeFile } from './volume-file.ts'
import type { VolumeHistory } from './volume-history.ts'
import { detailsOf } from './volume-info.ts'
import type { NewSlot, VolumeKeyring } from './volume-keyring.ts'
import type { CreateOptions } from './volume-options.ts'
import { accessWith } from './volume-settings.ts'
import { ofType, unitOf, type VolumeType, type VolumeTypes } from './volume-types.ts'

export interface MakerParts {
  readonly types: VolumeTypes
  readonly directory: VolumeDirectory
  readonly keyring: VolumeKeyring | null
  readonly history: VolumeHistory
  /** Opens a volume that is being made, for its type to write into. */
  readonly openFor: (name: string) => Promise<VolumeFile>
  /** Removes one whose type could not. */
  readonly removeHalfMade: (name: string) => Promise<void>
}

/** Makes volumes: the record first, then what the type wants in it. */
export class VolumeMaker {
  readonly #parts: MakerParts

  constructor(parts: MakerParts) {
    this.#parts = parts
  }

  /** @throws StoreError InvalidArgument, AlreadyExists, and what the type throws */
  async make(options: CreateOptions): Promise<VolumeRecord> {
    const type = this.#parts.types.get(options.type ?? 'block')
    const { name, sizeBytes, pool, hidden, encrypt, access } = options
    const { description = '', labels = {}, settings = {} } = options
    const asked = { name, sizeBytes, description, labels, settings }
    if (type.prepare === undefined && Object.keys(settings).length > 0) {
      const text = `volume type ${type.name} takes no settings`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
    const spec = {
      ...asked,
      settings: (await ofType(type, () => type.prepare?.(asked))) ?? {},
      type: type.name,
      unitBytes: unitOf(type),
      ...(pool === undefined ? {} : { pool }),
      ...(hidden === undefined ? {} : { hidden }),
      ...(access === undefined ? {} : { access: accessWith({}, access) }),
      ...(encrypt === undefined ? {} : { encrypt })
    }
    if (type.format === undefined) return this.#record(spec)
    return this.#format(type, await this.#record({ ...spec, state: 'creating' }))
  }

  async #record(spec: NewVolume & { encrypt?: NewSlot }): Promise<VolumeRecord> {
    const record = await this.#sealedRecord(spec)
    const { sizeBytes, pool = DEFAULT_POOL, encryption = null } = record
    await this.#parts.history.tell(record, 'created', { sizeBytes, pool, encryption })
    return record
  }

  /** Makes the record of a volume, and keys for one that is to be encrypted. */
  async #sealedRecord({
    encrypt,
    ...spec
  }: NewVolume & { encrypt?: NewSlot }): Promise<VolumeRecord> {
    const { directory, keyring } = this.#parts
    if (encrypt === undefined) return directory.create(spec)
    if (keyring === null) {
      const text = `volume ${spec.name} cannot be encrypted: this process has no keyring`
      throw new StoreError(ErrorCode.Unavailable, text)
    }
    return withNewKeys(
      keyring,
      (family) => keyring.make({ name: spec.name, family }, encrypt),
      (keys) => directory.create({ ...spec, keys })
    )
  }

  async #format(type: VolumeType, record: VolumeRecord): Promise<VolumeRecord> {
    const { directory, openFor, removeHalfMade } = this.#parts
    try {
      const file = await openFor(record.name)
      await ofType(type, () => type.format?.(file, detailsOf(record)))
      await file.flush()
      await file.close()
      return await directory.update(record.id, () => ({ state: 'ready' }))
    } catch (thrown) {
      await removeHalfMade(record.name)
      throw thrown
    }
  }
}
