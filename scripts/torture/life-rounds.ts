/**
 * Rounds of: make volumes, snapshots and a clone, begin everything at once that ends part of their
 * life (flatten, restore, shrink, delete, empty the trash, …), kill -9 the server in the midst,
 * start it again and compare. Each deed was done or was not; again it is done; what it does not
 * concern has its bytes, and at the end all space is free.
 */
import type { Random } from '../../src/core/clock.ts'
import type { TorusServer } from '../../test/helpers/server.ts'
import { BLOCK_BYTES } from './block-model.ts'
import { below } from './load.ts'
import { NbdClient } from './nbd-client.ts'

const VOLUME_BYTES = 4 * 1024 * 1024
const SMALL_BYTES = 1024 * 1024
const WRITES = 12
const WRITE_BLOCKS_MAX = 64
const FREE_MS_MAX = 30_000
/** Most time from the begin of the deeds to the kill: all are done in this on a busy machine. */
const KILL_MS_MAX = 250
/** On one with nothing else to do they are done sooner; so it is in every other round. */
const SOON_MS_MAX = 40
/** A start that is killed too: it goes on with what was cut off. */
const EARLY_MS_MAX = 1500

export interface LifeOptions {
  readonly server: TorusServer
  readonly random: Random
  readonly goOn: (rounds: number) => boolean
}

export interface LifeReport {
  readonly rounds: number
  /** By deed: how often a restart found it done. */
  readonly done: Readonly<Record<string, number>>
}

interface Deed {
  readonly name: string
  /** Begins it, or does it again. */
  readonly run: () => Promise<void>
  /** Is it done? @throws when it is something between. */
  readonly isDone: () => Promise<boolean>
}

/** An answer of the admin API that is no success. */
class Refused extends Error {
  readonly status: number
  constructor(what: string, status: number, text: string) {
    super(`${what}: ${status} ${text}`)
    this.status = status
  }
}

const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))

/** @throws when something is neither before nor after, or does not get done */
export async function lifeRounds({ server, random, goOn }: LifeOptions): Promise<LifeReport> {
  const done: Record<string, number> = {}
  let rounds = 0
  while (goOn(rounds)) {
    const cast = new Cast(server, random)
    await cast.make()
    const deeds = deedsOf(cast)
    // In another order each time, as the first ones get furthest.
    const order = deeds.map((deed) => ({ deed, at: random.u32() }))
    order.sort((one, other) => one.at - other.at)
    const begun = order.map(({ deed }) => deed.run().catch(() => {}))
    await sleep(below(random, below(random, 2) === 0 ? SOON_MS_MAX : KILL_MS_MAX))
    await server.kill()
    await Promise.all(begun)
    while (below(random, 4) === 0) {
      server.spawn()
      await sleep(below(random, EARLY_MS_MAX))
      await server.kill()
    }
    await server.start()
    for (const { name, run, isDone } of deeds) {
      const isThere = await isDone()
      done[name] = (done[name] ?? 0) + (isThere ? 1 : 0)
      await run().catch((thrown: unknown) => {
        if (!isThere || !(thrown instanceof Refused)) throw thrown
      })
    }
    await cast.check()
    for (const { name, isDone } of deeds) {
      await untilTrue(isDone, `${name}, done again after a kill, is done`)
    }
    await cast.check()
    await cast.end()
    rounds++
  }
  return { rounds, done }
}

async function untilTrue(isTrue: () => Promise<boolean>, what: string): Promise<void> {
  const endMs = performance.now() + FREE_MS_MAX
  while (!(await isTrue())) {
    if (performance.now() > endMs) throw new Error(`not true after a while: ${what}`)
    await sleep(5)
  }
}

function deedsOf(cast: Cast): readonly Deed[] {
  const { bytes } = cast
  const gone = (name: string) => async () => !(await cast.reads(name, bytes.get(name)!))
  return [
    {
      name: 'flatten',
      run: () => cast.ask('POST', 'volumes/flat/flatten'),
      isDone: async () => {
        await cast.mustRead('flat', bytes.get('flat')!)
        return (await cast.get<{ base: unknown }>('volumes/flat/base')).base === null
      }
    },
    {
      name: 'restore',
      run: () => cast.ask('POST', 'volumes/back/snapshots/one/restore', {}),
      isDone: () => cast.isEither('back', bytes.get('back')!, bytes.get('back@one')!)
    },
    {
      name: 'shrink',
      run: () => cast.ask('POST', 'volumes/less/resize', { sizeBytes: SMALL_BYTES, shrink: true }),
      isDone: () => {
        const all = bytes.get('less')!
        return cast.isEither('less', all, all.subarray(0, SMALL_BYTES))
      }
    },
    {
      name: 'delete',
      run: () => cast.ask('DELETE', 'volumes/gone?now=true&force=true'),
      isDone: gone('gone')
    },
    { name: 'trash', run: () => cast.ask('DELETE', 'volumes/bin'), isDone: gone('bin') },
    {
      name: 'empty',
      run: () => cast.ask('DELETE', 'trash/old'),
      isDone: async () => !(await cast.trash()).includes('old')
    },
    {
      name: 'snapshot delete',
      run: () => cast.ask('DELETE', 'volumes/kept/snapshots/two'),
      isDone: gone('kept@two')
    },
    {
      name: 'clone',
      run: () => cast.ask('POST', 'volumes/kept/snapshots/three/clone', { name: 'twin' }),
      isDone: () => cast.reads('twin', bytes.get('kept@three')!)
    }
  ]
}

/** What one round is played with. */
class Cast {
  /** What volumes and snapshots read as, until a deed changes them. */
  readonly bytes: Map<string, Buffer> = new Map()
  readonly #server: TorusServer
  readonly #random: Random

  constructor(server: TorusServer, random: Random) {
    this.#server = server
    this.#random = random
  }

  async make(): Promise<void> {
    for (const name of ['kept', 'back', 'gone', 'less', 'bin', 'old']) {
      await this.ask('POST', 'volumes', { name, sizeBytes: VOLUME_BYTES })
      this.bytes.set(name, Buffer.alloc(VOLUME_BYTES))
      for (const snapshot of name === 'kept' ? ['one', 'two', 'three'] : ['one']) {
        await this.#write(name)
        await this.ask('POST', `volumes/${name}/snapshots`, { name: snapshot })
        this.bytes.set(`${name}@${snapshot}`, Buffer.from(this.bytes.get(name)!))
      }
      await this.#write(name)
    }
    await this.ask('DELETE', 'volumes/old')
    await this.ask('POST', 'volumes/kept/snapshots/one/clone', { name: 'flat' })
    this.bytes.set('flat', Buffer.from(this.bytes.get('kept@one')!))
    await this.#write('flat')
    await this.ask('POST', 'volumes/flat/snapshots', { name: 'one' })
    this.bytes.set('flat@one', Buffer.from(this.bytes.get('flat')!))
    await this.#write('flat')
  }

  /** What no deed concerns. */
  async check(): Promise<void> {
    const kept = ['kept', 'kept@one', 'kept@three', 'flat', 'flat@one', 'back@one', 'less@one']
    for (const name of kept) await this.mustRead(name, this.bytes.get(name)!)
  }

  /** Deletes all there is. @throws when its space is not free a while later */
  async end(): Promise<void> {
    await this.ask('POST', 'volumes/less/resize', { sizeBytes: VOLUME_BYTES })
    const grown = Buffer.alloc(VOLUME_BYTES)
    this.bytes.get('less')!.copy(grown, 0, 0, SMALL_BYTES)
    await this.mustRead('less', grown)
    const trash = await this.trash()
    if (trash.join() !== 'bin') throw new Error(`in the trash is: ${trash.join()}`)
    await this.ask('POST', 'trash/bin/restore', {})
    await this.mustRead('bin', this.bytes.get('bin')!)
    await this.mustRead('bin@one', this.bytes.get('bin@one')!)
    for (const name of ['twin', 'flat', 'kept', 'back', 'less', 'bin']) {
      await this.ask('DELETE', `volumes/${name}?now=true&force=true`)
    }
    const { volumes } = await this.get<{ volumes: { name: string }[] }>('volumes')
    if (volumes.length > 0) throw new Error(`there is still ${JSON.stringify(volumes)}`)
    await untilTrue(async () => (await this.#liveBytes()) === 0, 'all space is free')
  }

  async trash(): Promise<readonly string[]> {
    const { volumes } = await this.get<{ volumes: { name: string }[] }>('trash')
    return volumes.map(({ name }) => name)
  }

  /** Is it after? @throws when it is not before either */
  async isEither(name: string, before: Buffer, after: Buffer): Promise<boolean> {
    const found = await this.#read(name)
    if (found?.equals(after) === true) return true
    if (found?.equals(before) === true) return false
    throw new Error(`${name} is neither what it was nor what it was to be`)
  }

  /** false: it is not there. @throws when it reads otherwise */
  async reads(name: string, wanted: Buffer): Promise<boolean> {
    const found = await this.#read(name)
    if (found === null) return false
    if (!found.equals(wanted)) throw new Error(`${name} reads otherwise than it did`)
    return true
  }

  async mustRead(name: string, wanted: Buffer): Promise<void> {
    if (!(await this.reads(name, wanted))) throw new Error(`${name} is gone`)
  }

  async get<T>(path: string): Promise<T> {
    return (await (await this.#fetch('GET', path)).json()) as T
  }

  async ask(method: string, path: string, body?: object): Promise<void> {
    await (await this.#fetch(method, path, body)).text()
  }

  async #fetch(method: string, path: string, body?: object): Promise<Response> {
    const headers = { 'content-type': 'application/json' }
    const sent = body === undefined ? {} : { body: JSON.stringify(body), headers }
    const answer = await fetch(`${this.#server.adminUrl}/v1/${path}`, { method, ...sent })
    if (!answer.ok) throw new Refused(`${method} ${path}`, answer.status, await answer.text())
    return answer
  }

  async #liveBytes(): Promise<number> {
    return (await this.get<{ peer: { liveBytes: number } }>('status')).peer.liveBytes
  }

  async #read(name: string): Promise<Buffer | null> {
    const [volume = '', snapshot] = name.split('@')
    const path = snapshot === undefined ? '' : `/snapshots/${snapshot}`
    try {
      await this.get(`volumes/${volume}${path}`)
    } catch (thrown) {
      if (thrown instanceof Refused && thrown.status === 404) return null
      throw thrown
    }
    const client = await NbdClient.connect(this.#server.nbdPort, name)
    const bytes = await client.read(0, client.sizeBytes)
    await this.#leave(client)
    return bytes
  }

  async #write(name: string): Promise<void> {
    const client = await NbdClient.connect(this.#server.nbdPort, name)
    const model = this.bytes.get(name)!
    for (let count = 0; count < WRITES; count++) {
      const blocks = 1 + below(this.#random, WRITE_BLOCKS_MAX)
      const start = below(this.#random, VOLUME_BYTES / BLOCK_BYTES - blocks) * BLOCK_BYTES
      const length = blocks * BLOCK_BYTES
      if (below(this.#random, 4) === 0) {
        await client.trim(start, length)
        model.fill(0, start, start + length)
      } else {
        const bytes = Buffer.alloc(length, `${name} ${this.#random.u32()}`)
        await client.write(start, bytes, false)
        bytes.copy(model, start)
      }
    }
    await client.flush()
    await this.#leave(client)
  }

  /** Nobody has a volume open afterwards. */
  async #leave(client: NbdClient): Promise<void> {
    client.destroy()
    await untilTrue(async () => {
      return (await this.get<{ clients: unknown[] }>('clients')).clients.length === 0
    }, 'no client is there')
  }
}
