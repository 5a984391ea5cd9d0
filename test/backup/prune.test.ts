/**
 * Prunes beside backups, in whatever order their operations reach the store: every backup that is
 * listed is whole at every end, and what nothing needs goes.
 */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { RunLock } from '../../src/backup/backup-run.ts'
import { objectKey } from '../../src/backup/objects.ts'
import { PIECE_BYTES } from '../../src/backup/page.ts'
import { notKept, prune } from '../../src/backup/prune.ts'
import { type Backup, Repository } from '../../src/backup/repository.ts'
import { verifyBackups } from '../../src/backup/restore.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
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
  /** By run. */
  readonly contents: Map<string, Buffer>
  number: number
}

/** As `backup create`: lock, base, pieces, manifest; it may be killed on its way. */
async function createOne(world: World, volume: string, dies: boolean): Promise<void> {
  const { random, contents } = world
  const repository = await Repository.open(world.store, true)
  const run = runId(random)
  const lock = await RunLock.put(repository, run, `backup of ${volume}`)
  const base = (await repository.bases(volume))[0] ?? null
  const before = base === null ? Buffer.alloc(SIZE) : contents.get(base.manifest.run)!
  const bytes = changed(before, random)
  const given = { volume, bytes, before, base, run, number: world.number++, lock }
  if (dies) {
    const kill = { ...lock, check: () => Promise.reject(new Error('killed')) } as unknown as RunLock
    await backUp(repository, { ...given, lock: kill }).catch(() => {})
    return
  }
  contents.set(run, bytes)
  await backUp(repository, given).catch((thrown: unknown) => {
    // It was taken for dead.
    if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Closed) throw thrown
  })
}

async function pruneOne(world: World, volume: string): Promise<void> {
  const repository = await Repository.open(world.store, true)
  const unwanted = notKept(await repository.backups(volume), {
    last: world.random.below(3),
    days: 0
  })
  try {
    await prune(repository, unwanted, noKeys)
  } catch (thrown) {
    if (!(thrown instanceof StoreError) || thrown.code !== ErrorCode.Busy) throw thrown
  }
}

async function check(world: World): Promise<Backup[]> {
  world.store.turn = async () => {}
  const repository = await Repository.open(world.store, true)
  const backups = await repository.backups()
  const wanted = backups.map((backup) => ({ backup, keys: null }))
  deepStrictEqual((await verifyBackups(repository, wanted, () => {})).damage, [])
  for (const backup of backups) {
    ok(
      (await restored(repository, backup)).equals(world.contents.get(backup.manifest.run)!),
      backup.name
    )
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
  for (const { manifest } of backups) {
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
  for (let seed = first; seed < first + runs; seed++) {
    const random = new SeededRandom(seed)
    const store = new MemoryBackupStore()
    const world: World = { random, store, contents: new Map(), number: 0 }
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
  }
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

test('one prune at a time; one that died does not hold the next one up', async () => {
  const store = new MemoryBackupStore()
  const repository = await Repository.open(store, true)
  await repository.putLock({ run: 'a'.repeat(16), what: 'prune', host: 'h' })
  await rejects(prune(repository, [], noKeys), failsWith(ErrorCode.Busy))
  store.nowMs += 2 * HOUR_MS
  await prune(repository, [], noKeys)
  strictEqual((await repository.locks()).length, 0)
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
