import { z } from 'zod'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { BLOCK_BYTES } from '../core/limits.ts'
import type { BlockDevice } from './block-device.ts'
import type { VolumeFile } from './volume-file.ts'

/** What a type keeps about a volume: plain JSON. */
export type VolumeSettings = Readonly<Record<string, z.core.util.JSONType>>

/** What a type may know about a volume. */
export interface VolumeDetails {
  readonly name: string
  readonly sizeBytes: number
  readonly description: string
  readonly labels: Readonly<Record<string, string>>
  readonly settings: VolumeSettings
}

/**
 * A kind of volume: what its bytes mean and how programs use it. A volume is a durable address
 * space with thin, checksummed blocks; its type adds meaning through the file primitives of
 * `VolumeFile`, or serves the plain blocks. Types plug in through `VolumeTypes.register`, or from
 * a module that `--plugin` names.
 */
export interface VolumeType {
  /** Stands in the volume's record: lower-case letters, digits and `-`, starting with a letter. */
  readonly name: string
  /** One line, for people. */
  readonly description: string
  /**
   * Sizes are multiples of this: BLOCK_BYTES (the default) or 1. With 1 a volume may be empty and
   * grow by appends of any length.
   */
  readonly sizeUnitBytes?: number
  /**
   * Checks the settings of a new volume and returns them complete. Throws StoreError
   * InvalidArgument for what it does not take. Without it only empty settings are taken.
   */
  prepare?(volume: VolumeDetails): VolumeSettings
  /**
   * Writes what a new volume needs before anybody opens it. If it throws, or the process dies, the
   * volume is removed again.
   */
  format?(file: VolumeFile, volume: VolumeDetails): Promise<void>
  /**
   * What `Volumes.openTyped` gives to programs: anything, made on `file`. Whoever closes it closes
   * `file`, which is the type's from here on; if `open` throws it is closed for it.
   */
  open?(file: VolumeFile, volume: VolumeDetails): Promise<unknown>
  /**
   * What protocols with a block interface (NBD) get: `device`, which is the volume's plain bytes,
   * or something around it. Without it the type is not served as a block device.
   */
  attach?(device: BlockDevice, volume: VolumeDetails): BlockDevice | Promise<BlockDevice>
}

const callable = z.custom<(...given: never) => unknown>(
  (value) => typeof value === 'function',
  'must be a function'
)

const volumeTypeSchema = z.object({
  name: z
    .string()
    .regex(/^[a-z][a-z0-9-]{0,31}$/, 'must be lower-case letters, digits and "-", 32 at most'),
  description: z.string().min(1).max(256),
  sizeUnitBytes: z.literal([1, BLOCK_BYTES]).optional(),
  prepare: callable.optional(),
  format: callable.optional(),
  open: callable.optional(),
  attach: callable.optional()
})

const blockType: VolumeType = {
  name: 'block',
  description: 'a virtual disk',
  attach: (device) => device
}

/** The volume types that this process knows; `block` is always there. */
export class VolumeTypes {
  readonly #types = new Map<string, VolumeType>([[blockType.name, blockType]])

  /**
   * Adds a type. `type` may come from another program's module, so its shape is checked.
   * @throws StoreError InvalidArgument, AlreadyExists
   */
  register(type: VolumeType): void {
    const result = volumeTypeSchema.safeParse(type)
    if (!result.success) {
      const text = `not a volume type: ${describeIssues(result.error)}`
      throw new StoreError(ErrorCode.InvalidArgument, text, { cause: result.error })
    }
    if (type.open === undefined && type.attach === undefined) {
      const text = `volume type ${type.name} has neither open nor attach: nobody could use it`
      throw new StoreError(ErrorCode.InvalidArgument, text)
    }
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
    const known = this.names.join(', ')
    const text = `volume type ${JSON.stringify(name)} is not known here (known: ${known})`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }

  /** Sorted. */
  get names(): readonly string[] {
    return [...this.#types.keys()].sort()
  }
}

/** `volumeTypes[0].name: must be …; …` */
export const describeIssues = (error: z.ZodError): string =>
  error.issues
    .map(({ path, message }) => {
      const where = path.map((part) =>
        typeof part === 'number' ? `[${part}]` : `.${String(part)}`
      )
      return `${where.join('').replace(/^\./, '') || 'value'}: ${message}`
    })
    .join('; ')

/** What a type from outside throws is a failure of it, not a bug of ours. */
export async function ofType<T>(type: VolumeType, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    if (cause instanceof StoreError) throw cause
    const reason = cause instanceof Error ? cause.message : String(cause)
    const text = `volume type ${type.name} failed: ${reason}`
    throw new StoreError(ErrorCode.Unavailable, text, { cause })
  }
}

export const unitOf = (type: VolumeType): number => type.sizeUnitBytes ?? BLOCK_BYTES
