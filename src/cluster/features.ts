/**
 * What all peers of a cluster understand, as a level that only grows. A new version of the program
 * brings a new level where it has formats that older ones cannot read: in files, on the wire
 * between peers, or in the metadata. It writes none of them before an operator raises the level
 * of the cluster (`torus cluster finalize`), which needs every peer to run a version that knows
 * it. Until then the older version can start again; afterwards it refuses.
 */
import { ErrorCode, StoreError } from '../core/errors.ts'
import { LEVEL_MAX, LEVEL_MIN } from '../core/levels.ts'
import { version } from '../core/version.ts'
import type { PeerRecord, SettingsRecord } from './records.ts'

/** By the level that brought it. A number is never used again for something else. */
const levelOf = {
  ...{ 'sealed-blocks': 2, 'fresh-members': 2 },
  ...{ layers: 3, branches: 4, 'split-groups': 4 }
} as const
export type Feature = keyof typeof levelOf

/** Of records that were written before there were levels. */
const LEVEL_FIRST = 1

/** What a program can do, as its peer's record tells others. */
export type Spoken = NonNullable<PeerRecord['speaks']>

export const ownSpoken: Spoken = { version, min: LEVEL_MIN, max: LEVEL_MAX }

export const spokenOf = ({ speaks }: PeerRecord): Spoken =>
  speaks ?? { version: 'unknown', min: LEVEL_FIRST, max: LEVEL_FIRST }

export const levelIn = (settings: SettingsRecord | null): number => settings?.level ?? LEVEL_FIRST

/** Is it switched on at this level? */
export const isIn = (level: number, feature: Feature): boolean => levelOf[feature] <= level

export const rangeText = ({ min, max }: Spoken): string =>
  min === max ? `level ${max}` : `levels ${min} to ${max}`

/** What the levels above `from`, up to `to`, switch on. */
export const featuresBetween = (from: number, to: number): Feature[] =>
  (Object.keys(levelOf) as Feature[]).filter((name) => levelOf[name] > from && levelOf[name] <= to)

/** @throws StoreError UnknownVersion when this program must not run in such a cluster */
export function requireKnownLevel(level: number, where: string): void {
  if (level >= LEVEL_MIN && level <= LEVEL_MAX) return
  const text =
    `the cluster below ${where} is at feature level ${level}, and this program (torus ` +
    `${version}) knows ${rangeText(ownSpoken)}`
  const advice =
    level > LEVEL_MAX
      ? 'it was finalised with a newer version: start that one. Nothing was changed'
      : 'start a version that knows both, and run "torus cluster finalize" first'
  throw new StoreError(ErrorCode.UnknownVersion, `${text}; ${advice}`)
}

/** The level of the cluster as this process knows it: what it is told late is off for longer. */
export class Features {
  readonly #listeners: ((level: number) => void)[] = []
  #level: number

  constructor(level: number) {
    this.#level = level
  }

  get level(): number {
    return this.#level
  }

  has(feature: Feature): boolean {
    return levelOf[feature] <= Math.min(this.#level, LEVEL_MAX)
  }

  /** `what` needs it. @throws StoreError Busy while it is not switched on */
  require(feature: Feature, what: string): void {
    if (this.has(feature)) return
    const text = `${what} needs feature level ${levelOf[feature]} (${feature})`
    const now = `the cluster is at level ${this.#level} so that older versions can start again`
    const advice = 'once every peer runs this version, run "torus cluster finalize"'
    throw new StoreError(ErrorCode.Busy, `${text}, and ${now}: ${advice}`)
  }

  onRaise(listener: (level: number) => void): void {
    this.#listeners.push(listener)
  }

  /** It never goes down: a record that says so is of metadata that was restored. One that this
   * program does not know switches nothing on. */
  note(level: number): void {
    if (level <= this.#level) return
    this.#level = level
    if (level > LEVEL_MAX) return
    for (const listener of this.#listeners) listener(level)
  }
}
