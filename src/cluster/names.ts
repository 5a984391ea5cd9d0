import { ErrorCode, StoreError } from '../core/errors.ts'
import { VOLUME_BYTES_MAX, VOLUME_NAME_BYTES_MAX } from '../core/limits.ts'

/**
 * A volume name is 1 to VOLUME_NAME_BYTES_MAX of the characters A–Z a–z 0–9 . _ - and starts with
 * a letter or digit. So it can stand in an NBD URI, a file name, a metadata key and a shell line
 * without quoting; `@` stays free for `volume@snapshot`, `/` for what may come.
 */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/

/** @throws StoreError InvalidArgument */
export function checkVolumeName(name: string): void {
  if (typeof name !== 'string' || name.length === 0) {
    throw new StoreError(ErrorCode.InvalidArgument, 'a volume needs a name')
  }
  if (name.length > VOLUME_NAME_BYTES_MAX) {
    const shown = JSON.stringify(`${name.slice(0, 32)}…`)
    const limit = `above ${VOLUME_NAME_BYTES_MAX}`
    const text = `volume name ${shown} has ${name.length} characters, ${limit}`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  if (!NAME.test(name)) {
    const rule = 'letters, digits, ".", "_" and "-", starting with a letter or digit'
    const text = `volume name ${JSON.stringify(name)} is not made of ${rule}`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
}

/**
 * Sizes are positive multiples of a block; of volumes whose type counts single bytes (`unitBytes`
 * 1) any size, and 0. @throws StoreError InvalidArgument
 */
export function checkVolumeSize(sizeBytes: number, unitBytes: number): void {
  const least = unitBytes === 1 ? 0 : unitBytes
  if (Number.isSafeInteger(sizeBytes) && sizeBytes >= least && sizeBytes % unitBytes === 0) {
    if (sizeBytes <= VOLUME_BYTES_MAX) return
    const text = `volume size ${sizeBytes} is above the limit of ${VOLUME_BYTES_MAX} bytes`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  const text = `volume size ${sizeBytes} is not a positive multiple of ${unitBytes} bytes`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}

const LABEL = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/
const LABELS_MAX = 64
const LABEL_VALUE_MAX = 256
const DESCRIPTION_MAX = 1024

/** @throws StoreError InvalidArgument */
export function checkLabels(labels: Readonly<Record<string, string>>): void {
  const entries = Object.entries(labels)
  if (entries.length > LABELS_MAX) {
    const text = `${entries.length} labels are above the limit of ${LABELS_MAX}`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
  for (const [key, value] of entries) {
    if (LABEL.test(key) && typeof value === 'string' && value.length <= LABEL_VALUE_MAX) continue
    const text = `label ${JSON.stringify(key)} or its value is not valid`
    throw new StoreError(ErrorCode.InvalidArgument, text)
  }
}

/** @throws StoreError InvalidArgument */
export function checkDescription(description: string): void {
  if (typeof description === 'string' && description.length <= DESCRIPTION_MAX) return
  const text = `a description has at most ${DESCRIPTION_MAX} characters`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}
