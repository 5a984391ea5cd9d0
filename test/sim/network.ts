import type { Process, World } from './world.ts'

/** Something that can be reached: a peer's machine. Boots come and go on it. */
export type Place = string

/** One direction of a connection: messages keep their order and none is lost while it lasts. */
class Pipe {
  lastMs = 0
  isBroken = false
}

/** Delay and partitions between places. */
export class Network {
  readonly #world: World
  /** Directions that carry nothing now, `from>to`. */
  readonly #cut = new Set<string>()
  readonly #waiting = new Map<string, (() => void)[]>()
  /** Extra delay of all that goes to or from a place. */
  readonly slowMs = new Map<Place, number>()

  readonly #lateOneIn: number

  constructor(world: World, lateOneIn: number) {
    this.#world = world
    this.#lateOneIn = lateOneIn
  }

  isCut(from: Place, to: Place): boolean {
    return this.#cut.has(`${from}>${to}`)
  }

  cut(from: Place, to: Place): void {
    this.#cut.add(`${from}>${to}`)
  }

  heal(from: Place, to: Place): void {
    const key = `${from}>${to}`
    if (!this.#cut.delete(key)) return
    const waiting = this.#waiting.get(key) ?? []
    this.#waiting.delete(key)
    for (const send of waiting) send()
  }

  healAll(): void {
    for (const key of [...this.#cut]) {
      const [from = '', to = ''] = key.split('>')
      this.heal(from, to)
    }
    this.slowMs.clear()
  }

  pipe(): Pipe {
    return new Pipe()
  }

  /** Carries `arrive` to a process at `to`; what is cut waits, as TCP does, unless it breaks. */
  send(pipe: Pipe, from: Place, to: Place, process: Process, arrive: () => void): void {
    if (pipe.isBroken) return
    if (this.isCut(from, to)) {
      const key = `${from}>${to}`
      const waiting = this.#waiting.get(key) ?? []
      waiting.push(() => this.send(pipe, from, to, process, arrive))
      this.#waiting.set(key, waiting)
      return
    }
    const slow = (this.slowMs.get(from) ?? 0) + (this.slowMs.get(to) ?? 0)
    const late = this.#world.chance(this.#lateOneIn) ? this.#world.between(5, 300) : 0
    const delay = from === to ? 0.01 : this.#world.between(0.05, 0.6) + slow + late
    pipe.lastMs = Math.max(pipe.lastMs + 0.0001, this.#world.nowMs + delay)
    process.at(pipe.lastMs, () => {
      if (!pipe.isBroken) arrive()
    })
  }
}

export type { Pipe }
