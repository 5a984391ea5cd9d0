import { ErrorCode, StoreError } from '../core/errors.ts'
import type { BlockDevice } from './block-device.ts'

/** What a type may know about a volume. */
export interface VolumeDetails {
  readonly name: string
  readonly sizeBytes: number
  readonly labels: Readonly<Record<string, string>>
  readonly settings: Readonly<Record<string, unknown>>
}

/** A kind of volume. Types plug in through `VolumeTypes`. */
export interface VolumeType {
  readonly name: string
  readonly description: string
  /**
   * What protocols with a block interface (NBD) get for a volume of this type: `device`, which is
   * the volume's plain bytes, or something around it. Without it the type is not served so.
   */
  attach?(device: BlockDevice, details: VolumeDetails): BlockDevice | Promise<BlockDevice>
}

const blockType: VolumeType = {
  name: 'block',
  description: 'a virtual disk',
  attach: (device) => device
}

/** The volume types that this process knows. */
export class VolumeTypes {
  readonly #types = new Map<string, VolumeType>([[blockType.name, blockType]])

  register(type: VolumeType): void {
    if (this.#types.has(type.name)) {
      throw new StoreError(ErrorCode.AlreadyExists, `volume type ${type.name} is there already`)
    }
    this.#types.set(type.name, type)
  }

  find(name: string): VolumeType | null {
    return this.#types.get(name) ?? null
  }

  /** @throws StoreError InvalidArgument */
  get(name: string): VolumeType {
    const type = this.#types.get(name)
    if (type !== undefined) return type
    const known = [...this.#types.keys()].join(', ')
    const text = `volume type ${JSON.stringify(name)} is not known here (known: ${known})`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }

  get names(): readonly string[] {
    return [...this.#types.keys()]
  }
}
