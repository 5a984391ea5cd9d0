import { follow } from '../metadata/follow.ts'
import type { Entry } from '../metadata/store.ts'
import type { Cluster } from './cluster.ts'
import { formatId64, parseId64 } from './ids.ts'
import { decodeRecord } from './records.ts'

/** The layer on which a branch begins. */
export interface Base {
  readonly familyHigh: number
  readonly familyLow: number
  readonly layerHigh: number
  readonly layerLow: number
}

/** A branch that has no base any more. */
export interface CutBranch {
  readonly family: string
  readonly layerHigh: number
}

/**
 * On which layers branches begin, as the metadata has it. That never changes but once: a branch
 * loses its base when nobody reads anything through it any more.
 */
export class Bases {
  readonly #cluster: Cluster
  /** By the end of the key: family, and the branch. */
  readonly #known = new Map<string, Base | null>()
  #cuts: string[] = []
  #stopFollowing: (() => void) | null = null

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  /** From now on most are known before somebody asks. */
  start(): void {
    const { keys, store, timers } = this.#cluster
    const onPut = (entry: Entry): void => this.#note(entry)
    const onDelete = (key: string): void => this.#forget(this.#nameIn(key))
    const following = follow(store, keys.allBases, { onPut, onDelete }, timers)
    this.#stopFollowing = () => following.stop()
  }

  close(): void {
    this.#stopFollowing?.()
  }

  /** null: it begins on none; undefined: that is not known here yet. */
  find(familyHigh: number, familyLow: number, layerHigh: number): Base | null | undefined {
    return this.#known.get(nameOf(familyHigh, familyLow, layerHigh))
  }

  /** The same, asked for where it is not known. @throws StoreError Unavailable */
  async get(familyHigh: number, familyLow: number, layerHigh: number): Promise<Base | null> {
    const known = this.find(familyHigh, familyLow, layerHigh)
    return known === undefined ? this.fetch(familyHigh, familyLow, layerHigh) : known
  }

  /** As the metadata has it now. @throws StoreError Unavailable */
  async fetch(familyHigh: number, familyLow: number, layerHigh: number): Promise<Base | null> {
    const { keys, store } = this.#cluster
    const name = nameOf(familyHigh, familyLow, layerHigh)
    const entry = await store.get(keys.allBases + name)
    if (entry === null) this.#forget(name)
    else this.#note(entry)
    return this.#known.get(name)!
  }

  /** What the metadata has is known when this resolves. @throws StoreError Unavailable */
  async refresh(): Promise<void> {
    const entries = await this.#cluster.readAll(this.#cluster.keys.allBases)
    const names = new Set(entries.map(({ key }) => this.#nameIn(key)))
    // A record that is made meanwhile was not known before.
    for (const [name, base] of [...this.#known]) {
      if (base !== null && !names.has(name)) await this.fetch(...idsIn(name))
    }
    for (const entry of entries) this.#note(entry)
  }

  /** Those that had a base and have none since the last call. */
  takeCuts(): CutBranch[] {
    return this.#cuts.splice(0).map((name) => {
      const [, , layerHigh] = idsIn(name)
      return { family: name.split('/')[0]!, layerHigh }
    })
  }

  #note({ key, value }: Entry): void {
    const record = decodeRecord('base', key, value)
    const name = this.#nameIn(key)
    const family = parseId64(record.family)
    const layer = parseId64(record.layer)
    this.#known.set(name, {
      ...{ familyHigh: family.high, familyLow: family.low },
      ...{ layerHigh: layer.high, layerLow: layer.low }
    })
  }

  #forget(name: string): void {
    if (this.#known.get(name)) this.#cuts.push(name)
    this.#known.set(name, null)
  }

  #nameIn(key: string): string {
    return key.slice(this.#cluster.keys.allBases.length)
  }
}

const nameOf = (familyHigh: number, familyLow: number, layerHigh: number): string =>
  `${formatId64(familyHigh, familyLow)}/${formatId64(layerHigh, 0).slice(0, 8)}`

function idsIn(name: string): [familyHigh: number, familyLow: number, layerHigh: number] {
  const [family, branch] = name.split('/') as [string, string]
  const { high, low } = parseId64(family)
  return [high, low, parseId64(`${branch}00000000`).high]
}
