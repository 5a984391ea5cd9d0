/** What others do at one certain moment of a prune or a backup: src/backup/prune.ts says why. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { BackupKeys } from '../../src/backup/objects.ts'
import { PIECE_BYTES } from '../../src/backup/page.ts'
import { prune } from '../../src/backup/prune.ts'
import { type Backup, Repository, type Unfinished } from '../../src/backup/repository.ts'
import { verifyBackups } from '../../src/backup/restore.ts'
import { RunLock } from '../../src/backup/run-lock.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { backUp, changed, restored, runId } from '../helpers/backup-rig.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { MemoryBackupStore } from '../helpers/memory-backup-store.ts'
import { failsWith } from '../helpers/volume-bench.ts'

const SIZE = 3 * PIECE_BYTES
const DAY_MS = 24 * 3_600_000
const random = new SeededRandom(5)
const noKeys = async () => null
const noPause = { pause: async () => {} }

/** Does something just before an operation takes place for the nth time. */
class MomentStore extends MemoryBackupStore {
  readonly #moments: { what: string; left: number; act: () => Promise<unknown> }[] = []

  before(what: string, act: () => Promise<unknown>, times = 1): void {
    this.#moments.push({ what, left: times, act })
  }

  async #come(what: string): Promise<void> {
    for (const moment of this.#moments) {
      if (what.startsWith(moment.what) && --moment.left === 0) await moment.act()
    }
  }

  override async *list(prefix: string) {
    await this.#come(`list ${prefix}`)
    yield* super.list(prefix)
  }

  override async put(key: string, bytes: Buffer): Promise<void> {
    await this.#come(`put ${key}`)
    await super.put(key, bytes)
  }

  count(prefix: string): number {
    return [...this.objects.keys()].filter((key) => key.startsWith(prefix)).length
  }
}

interface Here {
  readonly store: MomentStore
  readonly repository: Repository
  /** Of volume v, whose content is `bytes`. */
  readonly base: Backup
  readonly bytes: Buffer
}

async function begin(): Promise<Here> {
  const store = new MomentStore()
  const repository = await Repository.open(store, true)
  const bytes = changed(Buffer.alloc(SIZE), random, 20)
  const base = await backUp(repository, { volume: 'v', bytes, run: runId(random), number: 10 })
  return { store, repository, base, bytes }
}

async function requireWhole({ store }: Here, backup: Backup, bytes: Buffer): Promise<void> {
  const repository = await Repository.open(store, false)
  const found = await verifyBackups(repository, [{ backup, keys: null }], () => {})
  deepStrictEqual(found.damage, [])
  ok((await restored(repository, backup)).equals(bytes))
}

/** Whoever holds a lock of that kind is dead, as others see it. */
async function takeForDead(repository: Repository, what: string): Promise<void> {
  for (const lock of await repository.locks()) {
    if (lock.what === what) await repository.takeForDead(lock)
  }
}

/** A run that has all it refers to, and no manifest yet; `end` puts it. */
async function almostDone(
  { repository, bytes }: Here,
  base: Backup | null
): Promise<{ bytes: Buffer; end: () => Promise<Backup> }> {
  const run = runId(random)
  const real = await RunLock.put(repository, run, 'backup of v')
  let goOn: () => void = () => {}
  const told = new Promise<void>((resolve) => (goOn = resolve))
  let arrive: () => void = () => {}
  const arrived = new Promise<void>((resolve) => (arrive = resolve))
  const check = async (): Promise<void> => {
    arrive()
    await told
    await real.check()
  }
  const lock = { check, release: () => real.release() } as unknown as RunLock
  const next = changed(bytes, random, 4)
  const before = base === null ? {} : { base, before: bytes }
  const given = { volume: 'v', bytes: next, run, number: 11, lock, ...before }
  const made = backUp(repository, given)
  await arrived
  const end = (): Promise<Backup> => {
    goOn()
    return made
  }
  return { bytes: next, end }
}

test('a run that begins while objects are listed keeps what it put', async () => {
  const here = await begin()
  let run = null as Awaited<ReturnType<typeof almostDone>> | null
  here.store.before('list objects/', async () => {
    run = await almostDone(here, null)
  })
  await prune(here.repository, [], noKeys)
  await requireWhole(here, await run!.end(), run!.bytes)
})

test('what a run saw just before another forgot it stays for the run', async () => {
  const here = await begin()
  let run = null as Awaited<ReturnType<typeof almostDone>> | null
  // After the locks were looked at, and before what was forgotten is.
  const look = async (): Promise<void> => {
    run = await almostDone(here, here.base)
    await here.repository.forget(here.base)
  }
  here.store.before('list backups/', look)
  await prune(here.repository, [], noKeys)
  const next = await run!.end()
  strictEqual(next.manifest.base, here.base.name)
  await requireWhole(here, next, run!.bytes)
})

test('what is half forgotten is seen by runs until it is gone', async () => {
  const here = await begin()
  await here.store.put('keep', here.store.objects.get(here.base.key)!.bytes)
  await here.repository.forget(here.base)
  // Who forgot it was killed before it went.
  await here.store.put(here.base.key, here.store.objects.get('keep')!.bytes)
  let run = null as Awaited<ReturnType<typeof almostDone>> | null
  here.store.before('list backups/', async () => {
    run = await almostDone(here, here.base)
    await here.store.delete(here.base.key)
  })
  await prune(here.repository, [], noKeys)
  await requireWhole(here, await run!.end(), run!.bytes)
})

test('what is forgotten waits for the runs that may have seen it, and no later ones', async () => {
  const { store, repository, base } = await begin()
  const early = await RunLock.put(repository, runId(random), 'backup of v')
  strictEqual((await prune(repository, [base], noKeys)).objects, 0)
  const late = await RunLock.put(repository, runId(random), 'backup of w')
  await early.release()
  ok((await prune(repository, [], noKeys)).objects > 0)
  deepStrictEqual([store.count('objects/'), store.count('forgotten/')], [0, 0])
  await late.release()
})

test('a backup that cannot be put among the forgotten is not forgotten', async () => {
  const { store, repository, base } = await begin()
  store.before('put forgotten/', async () => {
    throw new Error('the store is full')
  })
  await rejects(prune(repository, [base], noKeys), /the store is full/)
  deepStrictEqual(
    (await repository.backups()).map(({ name }) => name),
    [base.name]
  )
})

test('a prune that was taken for dead deletes nothing', async () => {
  const { store, repository, base } = await begin()
  store.before('list backups/', () => takeForDead(repository, 'prune'))
  const objects = store.count('objects/')
  await rejects(prune(repository, [base], noKeys), failsWith(ErrorCode.Closed))
  strictEqual(store.count('objects/'), objects)
})

test('a prune shows that it had its turn', async () => {
  const { store, repository } = await begin()
  let isBegun: readonly boolean[] = []
  store.before('list objects/', async () => {
    isBegun = (await repository.locks()).map((lock) => lock.isBegun)
  })
  await prune(repository, [], noKeys)
  deepStrictEqual(isBegun, [true])
})

test('a lock that is renewed while its run is taken for dead does not come back', async () => {
  const { store, repository } = await begin()
  const lock = await RunLock.put(repository, runId(random), 'backup of v')
  store.before('put locks/', () => takeForDead(repository, 'backup of v'))
  await rejects(lock.check(), failsWith(ErrorCode.Closed))
  strictEqual(store.count('locks/'), 0)
  await lock.release()
})

test('a run that is taken for dead before or while it ends makes no backup', async () => {
  const { store, repository, bytes, base } = await begin()
  const dies = async (moment: string): Promise<void> => {
    const run = runId(random)
    const lock = await RunLock.put(repository, run, 'backup of v')
    store.before(moment, () => takeForDead(repository, 'backup of v'))
    const given = { volume: 'v', bytes: changed(bytes, random, 9), run, number: 12, lock }
    await rejects(backUp(repository, given), failsWith(ErrorCode.Closed))
    await lock.release()
  }
  let manifests = 0
  store.before('put backups/', async () => manifests++)
  await dies('put objects/')
  strictEqual(manifests, 0, 'nobody saw one')
  await dies('put backups/')
  strictEqual(manifests, 1)
  deepStrictEqual(
    (await repository.backups()).map(({ name }) => name),
    [base.name]
  )
})

test('nobody stands on a backup, or on what is unfinished, of a run that is dead', async () => {
  const { repository, base, store } = await begin()
  const bases = async (): Promise<number> => {
    let count = 0
    for await (const _ of repository.bases('v')) count++
    return count
  }
  strictEqual(await bases(), 1)
  await putUnfinished(repository, 'v', 20)
  const [before] = (await repository.unfinished()).good
  await repository.takeForDead({ run: before!.manifest.run, key: 'locks/none' })
  strictEqual((await repository.unfinished()).good.length, 1, 'it was put while the run lived')
  await repository.putUnfinished(before!.manifest, null)
  deepStrictEqual(await repository.unfinished(), { good: [], bad: [before!.key] })
  await prune(repository, [], noKeys)
  strictEqual(store.count('unfinished/'), 0)
  await repository.takeForDead({ run: base.manifest.run, key: 'locks/none' })
  strictEqual(await bases(), 0)
})

/** Leaves what a run that is killed in its midst leaves. */
async function putUnfinished(
  repository: Repository,
  volume: string,
  number: number
): Promise<{ bytes: Buffer; unfinished: Unfinished }> {
  const bytes = Buffer.alloc(SIZE, number)
  const run = runId(random)
  const real = await RunLock.put(repository, run, `backup of ${volume}`)
  let checks = 0
  const check = async (): Promise<void> => {
    if (++checks > 2) throw new Error('killed')
    await real.check()
  }
  const lock = { check } as unknown as RunLock
  const given = { volume, bytes, run, number, lock, checkpointMs: 0 }
  await rejects(backUp(repository, given), /killed/)
  await real.release()
  const [unfinished] = (await repository.unfinished(volume)).good
  return { bytes, unfinished: unfinished! }
}

test('what is unfinished goes with a later backup of its volume, or with time', async () => {
  const { store, repository } = await begin()
  const left = async (): Promise<string[]> => {
    await prune(repository, [], noKeys, noPause)
    const { good } = await repository.unfinished()
    return good.map(({ manifest }) => `${manifest.volume} ${manifest.createdAt.slice(14, 19)}`)
  }
  await putUnfinished(repository, 'w', 5)
  deepStrictEqual(await left(), ['w 00:05'], 'the backup is of another volume')
  await putUnfinished(repository, 'v', 5)
  deepStrictEqual(await left(), ['w 00:05'], 'a later backup is there')
  await putUnfinished(repository, 'v', 20)
  deepStrictEqual(await left(), ['v 00:20', 'w 00:05'], 'the backup is older')
  store.nowMs += 13 * DAY_MS
  strictEqual((await left()).length, 2)
  store.nowMs += 2 * DAY_MS
  deepStrictEqual(await left(), [])
})

test('a backup takes with it what is unfinished up to it, and nothing later', async () => {
  const here = await begin()
  const { repository } = here
  const mine = await putUnfinished(repository, 'v', 20)
  await putUnfinished(repository, 'v', 30)
  const given = { volume: 'v', bytes: mine.bytes, number: 20, unfinished: mine.unfinished }
  const made = await backUp(repository, { ...given, run: runId(random) })
  await requireWhole(here, made, mine.bytes)
  const { good } = await repository.unfinished()
  deepStrictEqual(
    good.map(({ manifest }) => manifest.createdAt.slice(14, 19)),
    ['00:30']
  )
})

test('a run that is taken for dead ends where it puts down what it has', async () => {
  const { store, repository } = await begin()
  const dies = async (moment: string, times: number): Promise<number> => {
    const run = runId(random)
    const lock = await RunLock.put(repository, run, 'backup of w')
    store.before(moment, () => takeForDead(repository, 'backup of w'), times)
    const bytes = Buffer.alloc(SIZE)
    for (let piece = 0; piece < 3; piece++) bytes.fill(run[piece]!, piece * PIECE_BYTES)
    const given = { volume: 'w', bytes, run, number: 1, lock, checkpointMs: 0 }
    await rejects(backUp(repository, given), failsWith(ErrorCode.Closed))
    await lock.release()
    return store.count('unfinished/')
  }
  strictEqual(await dies('put objects/', 1), 0, 'it was dead before')
  let objects = -1
  store.before('put unfinished/', async () => (objects = store.count('objects/')))
  strictEqual(await dies('put unfinished/', 1), 1)
  strictEqual(store.count('objects/'), objects, 'it put no more')
  strictEqual((await repository.unfinished()).good.length, 0)
})

test('what sealed backups need is known by their keys alone', async () => {
  const { store, repository } = await begin()
  const keys = new BackupKeys(Buffer.alloc(32, 7))
  const keySlots = { family: 'f'.repeat(16), slots: [] }
  const bytes = changed(Buffer.alloc(SIZE), random, 20)
  const given = { volume: 's', bytes, run: runId(random), number: 2, keys, keySlots }
  const sealed = await backUp(repository, given)
  const again = await Repository.open(store, false)
  const keysOf = async (of: { volume: string }) => (of.volume === 's' ? keys : null)
  strictEqual((await prune(again, [], keysOf)).objects, 0)
  ok((await restored(again, sealed, keys)).equals(bytes))
  const objects = store.count('objects/')
  const without = await Repository.open(store, false)
  await rejects(prune(without, [], noKeys), failsWith(ErrorCode.Forbidden))
  strictEqual(store.count('objects/'), objects)
})

test.run()
