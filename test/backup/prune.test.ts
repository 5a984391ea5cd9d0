/**
 * Prunes beside backups, in whatever order their operations reach the store: every backup that is
 * listed is whole at every end, and what nothing needs goes.
 */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { test } from 'uvu'
import { objectKey } from '../../src/backup/objects.ts'
import { PIECE_BYTES } from '../../src/backup/page.ts'
import { notKept, prune } from '../../src/backup/prune.ts'
import { type Backup, Repository } from '../../src/backup/repository.ts'
import { verifyBackups } from '../../src/backup/restore.ts'
import { RunLock } from '../../src/backup/run-lock.ts'
import { ErrorCode, type StoreError } from '../../src/core/errors.ts'
import { ownProcess } from '../../src/core/own-process.ts'
import { backUp, changed, restored, runId } from '../helpers/backup-rig.ts'
import { SeededRandom } from '../helpers/manual-clock.ts'
import { MemoryBackupStore } from '../helpers/memory-backup-store.ts'
import { failsWith } from '../helpers/volume-bench.ts'

const SIZE = 3 * PIECE_BYTES
const HOUR_MS = 3_600_000
const noKeys = async () => null

/** Lets operations through one at a time, in an order of its own. */
class Turns {
  readonly #random: SeededRandom
  readonly #waiting: (() => void)[] = []
  #running = 0

  constructor(random: SeededRandom) {
    this.#random = random
  }

  wait(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  async all(work: readonly (() => Promise<unknown>)[]): Promise<void> {
    const failures: unknown[] = []
    this.#running = work.length
    for (const each of work) {
      void each()
        .catch((thrown: unknown) => failures.push(thrown))
        .finally(() => this.#running--)
    }
    while (this.#running > 0) {
      await new Promise(setImmediate)
      const at = this.#random.below(Math.max(1, this.#waiting.length))
      for (const go of this.#waiting.splice(at, 1)) go()
    }
    if (failures.length > 0) throw failures[0]
  }
}

interface World {
  readonly random: SeededRandom
  readonly store: MemoryBackupStore
  /** By snapshot. */
  readonly contents: Map<string, Buffer>
  number: number
  /** Backups that went on with one that had died. */
  resumed: number
}

/** Dies after some steps: nothing of it reaches the store any more. */
function killed(lock: RunLock, steps: number): RunLock {
  let left = steps
  const check = async (): Promise<void> => {
    if (left-- === 0) throw new Error('killed')
    await lock.check()
  }
  return { check, release: () => lock.release() } as unknown as RunLock
}

/** As `backup create`: lock, turn, base, pieces, manifest; it may be killed on its way. */
async function createOne(world: World, volume: string, dies: boolean): Promise<void> {
  const { random, contents } = world
  const repository = await Repository.open(world.store, true)
  const run = runId(random)
  const lock = await RunLock.put(repository, run, `backup of ${volume}`)
  const isOver = await lock.takeTurn(soon(world)).then(
    () => false,
    (thrown: unknown) => lock.release().then(() => isRefusal(thrown))
  )
  if (isOver) return
  const base = await newest(repository, volume)
  const [left] = (await repository.unfinished(volume)).good
  const since = base?.manifest.snapshot.id ?? null
  const before = base === null ? Buffer.alloc(SIZE) : contents.get(base.manifest.snapshot.id)!
  const from = left?.manifest.progress.since === since ? left : null
  if (from !== null) world.resumed++
  const bytes = from === null ? changed(before, random) : contents.get(from.manifest.snapshot.id)!
  const given = { volume, bytes, before, base, run, number: world.number++, lock, unfinished: from }
  contents.set(from?.manifest.snapshot.id ?? run, bytes)
  const way = dies ? { lock: killed(lock, random.below(6)) } : { lock }
  const checkpointMs = random.below(2) === 0 ? 0 : 1_000_000
  await backUp(repository, { ...given, ...way, checkpointMs }).catch((thrown: unknown) => {
    if (dies && (thrown as Error).message === 'killed') return
    // It was taken for dead.
    if (!isRefusal(thrown)) throw thrown
  })
}

/** Looks pass quickly. */
const soon = ({ store }: World) => ({
  pause: async (ms: number): Promise<void> => {
    store.nowMs += ms
  }
})

/** Busy, or taken for dead. @throws what it is else */
function isRefusal(thrown: unknown): boolean {
  const { code } = thrown as StoreError
  if (code === ErrorCode.Busy || code === ErrorCode.Closed) return true
  throw thrown
}

async function newest(repository: Repository, volume: string): Promise<Backup | null> {
  for await (const backup of repository.bases(volume)) return backup
  return null
}

async function pruneOne(world: World, volume: string): Promise<void> {
  const repository = await Repository.open(world.store, true)
  const unwanted = notKept(await repository.backups(volume), {
    last: world.random.below(3),
    days: 0
  })
  await prune(repository, unwanted, noKeys, soon(world)).catch(isRefusal)
}

const contentOf = ({ contents }: World, { manifest }: Backup): Buffer =>
  contents.get(manifest.snapshot.id)!

async function check(world: World): Promise<Backup[]> {
  world.store.turn = async () => {}
  const repository = await Repository.open(world.store, true)
  const backups = await repository.backups()
  const wanted = backups.map((backup) => ({ backup, keys: null }))
  deepStrictEqual((await verifyBackups(repository, wanted, () => {})).damage, [])
  for (const backup of backups) {
    ok((await restored(repository, backup)).equals(contentOf(world, backup)), backup.name)
  }
  return backups
}

/** With no run alive: only what backups need is left. */
async function checkTidy(world: World): Promise<void> {
  world.store.nowMs += 2 * HOUR_MS
  const repository = await Repository.open(world.store, true)
  await prune(repository, [], noKeys)
  const backups = await check(world)
  const needed = new Set<string>()
  const { good } = await repository.unfinished()
  for (const { manifest } of [...backups, ...good]) {
    for (const ref of manifest.pages) {
      if (ref === null) continue
      needed.add(objectKey(ref))
      for (const piece of (await repository.page(ref, null)).refs())
        needed.add(objectKey(piece.ref))
    }
  }
  const left = [...world.store.objects.keys()].filter((key) => key.startsWith('objects/'))
  deepStrictEqual(left.sort(), [...needed].sort())
  for (const folder of ['locks/', 'forgotten/']) {
    ok(
      [...world.store.objects.keys()].every((key) => !key.startsWith(folder)),
      folder
    )
  }
}

const first = Number(process.env['SEED'] ?? 1)
const runs = Number(process.env['RUNS'] ?? 15)

test(`backups stay whole beside prunes, whatever comes first (SEED=${first})`, async () => {
  let resumed = 0
  for (let seed = first; seed < first + runs; seed++) {
    const random = new SeededRandom(seed)
    const store = new MemoryBackupStore()
    const world: World = { random, store, contents: new Map(), number: 0, resumed: 0 }
    await createOne(world, 'v', false)
    for (let round = 0; round < 3; round++) {
      const turns = new Turns(random)
      store.turn = () => turns.wait()
      const work: (() => Promise<unknown>)[] = []
      for (const volume of ['v', 'v', 'w']) {
        if (random.below(4) > 0) {
          const dies = random.below(5) === 0
          work.push(() => createOne(world, volume, dies))
        }
      }
      for (let prunes = 1 + random.below(2); prunes > 0; prunes--) {
        work.push(() => pruneOne(world, random.below(3) > 0 ? 'v' : 'w'))
      }
      const later = random.below(3) === 0 ? random.below(30) : -1
      work.push(async () => {
        for (let i = 0; i < later; i++) await turns.wait()
        // Whoever runs looks as if it had died.
        if (later >= 0) store.nowMs += 2 * HOUR_MS
      })
      await turns.all(work)
      await check(world)
    }
    await checkTidy(world)
    resumed += world.resumed
  }
  ok(resumed > 0, 'some went on with what another left')
})

test('what a run that goes on may stand on stays until it is over', async () => {
  const store = new MemoryBackupStore()
  const repository = await Repository.open(store, true)
  const random = new SeededRandom(3)
  const bytes = changed(Buffer.alloc(SIZE), random, 9)
  const base = await backUp(repository, { volume: 'v', bytes, run: runId(random), number: 1 })
  const run = runId(random)
  const lock = await RunLock.put(repository, run, 'backup of v')
  const pruned = await prune(repository, [base], noKeys)
  deepStrictEqual([pruned.forgotten, pruned.objects, pruned.waitsFor], [[base.name], 0, [run]])
  strictEqual((await repository.backups()).length, 0)
  strictEqual((await prune(repository, [], noKeys)).objects, 0)
  const given = { volume: 'v', before: bytes, base, run, number: 2, lock }
  const next = await backUp(repository, { ...given, bytes: changed(bytes, random, 1) })
  await prune(repository, [], noKeys)
  const found = await verifyBackups(repository, [{ backup: next, keys: null }], () => {})
  deepStrictEqual(found.damage, [])
})

test('a run that was taken for dead takes its manifest back', async () => {
  const store = new MemoryBackupStore()
  const repository = await Repository.open(store, true)
  const random = new SeededRandom(4)
  const run = runId(random)
  const lock = await RunLock.put(repository, run, 'backup of v')
  const bytes = changed(Buffer.alloc(SIZE), random)
  store.nowMs += 2 * HOUR_MS
  await prune(repository, [], noKeys)
  const late = backUp(repository, { volume: 'v', bytes, run, number: 1, lock })
  await rejects(late, failsWith(ErrorCode.Closed))
  strictEqual((await repository.backups()).length, 0)
})

const other = { run: 'a'.repeat(16), what: 'prune', host: 'h', isBegun: true }

test('one prune at a time; one that died does not hold the next one up', async () => {
  const store = new MemoryBackupStore()
  const repository = await Repository.open(store, true)
  await repository.putLock(other)
  let looks = 0
  const renewing = async (): Promise<void> => {
    looks++
    store.nowMs += 2000
    await repository.putLock(other)
  }
  await rejects(prune(repository, [], noKeys, { pause: renewing }), failsWith(ErrorCode.Busy))
  strictEqual(looks, 1)
  const silent = async (): Promise<void> => {
    looks++
    store.nowMs += 2000
  }
  await prune(repository, [], noKeys, { pause: silent })
  ok(looks > 40 && looks < 60, `waited for ${looks} looks`)
  strictEqual((await repository.locks()).length, 0)
  strictEqual(await repository.isDead(other.run), true)
})

test('a run whose process is gone is dead at once, and one whose lock is broken', async () => {
  const store = new MemoryBackupStore()
  const repository = await Repository.open(store, true)
  const { pid } = spawnSync(process.execPath, ['--version'])
  const never = async (): Promise<void> => {
    throw new Error('waited')
  }
  const take = async (breakLock: boolean): Promise<void> => {
    const lock = await RunLock.put(repository, runId(new SeededRandom(7)), 'prune')
    await lock.takeTurn({ pause: never, breakLock }).finally(() => lock.release())
  }
  await repository.putLock({ ...other, process: { ...ownProcess()!, pid } })
  await take(false)
  await repository.putLock({ ...other, run: 'b'.repeat(16), process: ownProcess() })
  await rejects(take(false), /waited/)
  await take(true)
  strictEqual((await repository.locks()).length, 0)
})

test('of two that begin at once one goes on', async () => {
  const store = new MemoryBackupStore()
  const repository = await Repository.open(store, true)
  const random = new SeededRandom(11)
  const locks = await Promise.all(
    [1, 2, 3].map(() => RunLock.put(repository, runId(random), 'prune'))
  )
  const pause = async (): Promise<void> => {
    store.nowMs += 1000
    await new Promise(setImmediate)
  }
  const ended = await Promise.allSettled(
    locks.map((lock) =>
      lock.takeTurn({ pause }).catch(async (thrown: unknown) => {
        await lock.release()
        throw thrown
      })
    )
  )
  const won = ended.map(({ status }) => status).filter((status) => status === 'fulfilled')
  strictEqual(won.length, 1)
  for (const lock of locks) await lock.release()
})

test('a store whose lists are late is refused', async () => {
  const store = new MemoryBackupStore()
  const repository = await Repository.open(store, true)
  store.list = async function* () {}
  await rejects(prune(repository, [], noKeys), /does not list what was just put/)
})

test('the last ones are kept, and the last one of each day', () => {
  const at = (day: number, hour: number) =>
    ({
      name: `${day}.${hour}`,
      manifest: { createdAt: `2026-01-0${day}T0${hour}:00:00Z` }
    }) as Backup
  const all = [at(1, 1), at(1, 2), at(2, 1), at(3, 1), at(3, 2), at(3, 3)]
  const gone = (last: number, days: number) => notKept(all, { last, days }).map(({ name }) => name)
  deepStrictEqual(gone(2, 0), ['1.1', '1.2', '2.1', '3.1'])
  deepStrictEqual(gone(1, 2), ['1.1', '1.2', '3.1', '3.2'])
  deepStrictEqual(gone(9, 0), [])
})

test.run()
