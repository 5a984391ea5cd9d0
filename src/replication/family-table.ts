import type { FamilyIo } from './family-io.ts'

/** The families that a gateway serves. Requests come in runs of one family: that one is at hand. */
export class FamilyTable {
  readonly #byHigh = new Map<number, FamilyIo[]>()
  #last: FamilyIo | null = null

  find(high: number, low: number): FamilyIo | null {
    const last = this.#last
    if (last !== null && last.low === low && last.high === high) return last
    for (const family of this.#byHigh.get(high) ?? []) {
      if (family.low !== low) continue
      this.#last = family
      return family
    }
    return null
  }

  add(family: FamilyIo): void {
    const list = this.#byHigh.get(family.high) ?? []
    list.push(family)
    this.#byHigh.set(family.high, list)
  }

  remove(family: FamilyIo): void {
    const list = this.#byHigh.get(family.high) ?? []
    const at = list.indexOf(family)
    if (at >= 0) list.splice(at, 1)
    if (list.length === 0) this.#byHigh.delete(family.high)
    if (this.#last === family) this.#last = null
  }

  *all(): Iterable<FamilyIo> {
    for (const list of this.#byHigh.values()) yield* list
  }
}
