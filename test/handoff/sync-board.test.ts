import { deepStrictEqual, ok, strictEqual, throws } from 'node:assert/strict'
import fc from 'fast-check'
import { suite } from 'uvu'
import { UNSYNCED_FILES_MAX } from '../../src/core/limits.ts'
import {
  ROWS,
  RowState,
  STATE,
  SYNC_BOARD_WORDS,
  SYNCED,
  SyncBoard
} from '../../src/handoff/sync-board.ts'
import { type Fdatasync, SyncRounds } from '../../src/handoff/sync-rounds.ts'

const test = suite('sync board')

const eio = (): Error => Object.assign(new Error('EIO: i/o error'), { errno: -5, code: 'EIO' })

/** Both sides over one memory, with syncs that return when they are told to. */
function sides(syncHere: (descriptor: number) => void = () => {}) {
  const shared = new SharedArrayBuffer(SYNC_BOARD_WORDS * 4)
  const syncing: { descriptor: number; done: (error: Error | null) => void }[] = []
  const sync: Fdatasync = (descriptor, done) => syncing.push({ descriptor, done })
  const board = new SyncBoard(shared, new SharedArrayBuffer(4), syncHere)
  const rounds = new SyncRounds(shared, { sync })
  rounds.resume()
  return { shared, board, rounds, syncing }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const flushed = (rounds: SyncRounds): Promise<number> =>
  new Promise((resolve) => rounds.flush(resolve))

test('a flush with nothing unsynced needs no sync', async () => {
  const { rounds, syncing } = sides()
  strictEqual(await flushed(rounds), 0)
  strictEqual(syncing.length, 0)
})

test('what is durable is bounded by the oldest unsynced batch of any file', async () => {
  const { board, rounds, syncing } = sides()
  board.appended(10, 100)
  board.appended(11, 101)
  board.appended(10, 102)
  strictEqual(board.durableLsn(), 99)
  const done = flushed(rounds)
  await turn()
  deepStrictEqual(
    syncing.map((sync) => sync.descriptor),
    [10, 11]
  )
  board.appended(11, 103) // after the sync of 11 began
  syncing[0]!.done(null)
  strictEqual(board.durableLsn(), 100)
  syncing[1]!.done(null)
  strictEqual(board.durableLsn(), 101)
  strictEqual(await done, 0)
  const second = flushed(rounds)
  await turn()
  strictEqual(syncing.length, 3)
  syncing[2]!.done(null)
  strictEqual(await second, 0)
  strictEqual(board.durableLsn(), 103)
})

test('log sequence numbers beyond 32 bits are told apart', async () => {
  const { board, rounds, syncing } = sides()
  const lsn = 2 ** 40 - 1
  board.appended(5, lsn)
  board.appended(5, lsn + 2 ** 31)
  strictEqual(board.durableLsn(), lsn - 1)
  const done = flushed(rounds)
  await turn()
  board.appended(5, lsn + 2 ** 31 + 7)
  syncing[0]!.done(null)
  strictEqual(await done, 0)
  strictEqual(board.durableLsn(), lsn + 2 ** 31)
})

test('flushes of one turn share a sync, and later ones share the next', async () => {
  const { board, rounds, syncing } = sides()
  board.appended(5, 1)
  const first = [flushed(rounds), flushed(rounds)]
  await turn()
  strictEqual(syncing.length, 1)
  board.appended(5, 2)
  const second = [flushed(rounds), flushed(rounds), flushed(rounds)]
  await turn()
  strictEqual(syncing.length, 1)
  syncing[0]!.done(null)
  deepStrictEqual(await Promise.all(first), [0, 0])
  await turn()
  strictEqual(syncing.length, 2)
  syncing[1]!.done(null)
  deepStrictEqual(await Promise.all(second), [0, 0, 0])
})

test('a file that is being synced stays pinned until the sync returns', async () => {
  const { board, rounds, syncing } = sides()
  board.appended(5, 1)
  ok(!board.isIdle(5))
  const done = flushed(rounds)
  await turn()
  ok(!board.isIdle(5))
  syncing[0]!.done(null)
  ok(board.isIdle(5))
  board.untrack(5)
  strictEqual(await done, 0)
  throws(() => {
    board.appended(5, 2)
    board.untrack(5)
  }, /only an idle file/)
})

test('a worker that asks for a sync gets one', async () => {
  const { board, rounds, syncing } = sides()
  board.appended(5, 1)
  board.requestSync()
  rounds.poll()
  await turn()
  strictEqual(syncing.length, 1)
  board.requestSync() // during a round: runs after it
  rounds.poll()
  board.appended(5, 2)
  syncing[0]!.done(null)
  await turn()
  rounds.poll()
  await turn()
  strictEqual(syncing.length, 2)
  syncing[1]!.done(null)
  strictEqual(board.durableLsn(), 2)
})

test('a sync that fails is for ever, on both sides', async () => {
  const { board, rounds, syncing } = sides()
  board.appended(5, 1)
  board.appended(6, 2)
  const done = flushed(rounds)
  await turn()
  syncing[0]!.done(eio())
  syncing[1]!.done(null)
  ok((await done) !== 0)
  strictEqual(board.failure(), 'EIO')
  strictEqual(board.durableLsn(), 0)
  ok((await flushed(rounds)) !== 0)
  strictEqual(syncing.length, 2) // a sync that would succeed now would prove nothing
  board.syncNow()
  strictEqual(board.durableLsn(), 0)
  ok(!board.isIdle(5))
  await new Promise<void>((resolve) => rounds.hold(resolve))
  rounds.clear()
  strictEqual(rounds.failure, 'EIO')
})

test('a sync that fails is told to the worker once, which has to record it', async () => {
  const { board, rounds, syncing } = sides()
  let told = 0
  rounds.onRequested = () => told++
  board.appended(5, 1)
  const done = flushed(rounds)
  await turn()
  syncing[0]!.done(eio())
  ok((await done) !== 0)
  ok((await flushed(rounds)) !== 0)
  strictEqual(told, 1)
})

test('a sync that fails in the worker fails flushes too', async () => {
  const { board, rounds } = sides(() => {
    throw eio()
  })
  board.appended(5, 1)
  board.syncNow()
  strictEqual(board.failure(), 'EIO')
  ok((await flushed(rounds)) !== 0)
  throws(() => board.syncHandle(7), /sync failed: EIO/)
  strictEqual(board.durableLsn(), 0)
})

test('what the worker synced itself is not synced again', async () => {
  const synced: number[] = []
  const { board, rounds, syncing } = sides((descriptor) => synced.push(descriptor))
  board.appended(5, 1)
  board.appended(6, 2)
  board.syncHandle(5)
  strictEqual(board.durableLsn(), 1)
  board.syncNow()
  deepStrictEqual(synced, [5, 6])
  strictEqual(board.durableLsn(), 2)
  strictEqual(await flushed(rounds), 0)
  strictEqual(syncing.length, 0)
})

test('a flush waits for a sync that the worker runs itself', async () => {
  const { shared, board, rounds, syncing } = sides()
  board.appended(5, 1)
  board.appended(6, 2)
  const state = ROWS + STATE
  const words = new Int32Array(shared)
  Atomics.store(words, state, RowState.SyncingHere) // as in the worker's thread, just now
  const answered: string[] = []
  const first = flushed(rounds).then((error) => answered.push(`first ${error}`))
  await turn()
  deepStrictEqual(
    syncing.map((sync) => sync.descriptor),
    [6]
  )
  const second = flushed(rounds).then((error) => answered.push(`second ${error}`))
  syncing[0]!.done(null)
  await new Promise((resolve) => setTimeout(resolve, 5))
  deepStrictEqual(answered, [])
  Atomics.store(words, state, RowState.Idle) // it ended without having covered the append
  while (syncing.length < 2) await turn()
  strictEqual(syncing[1]!.descriptor, 5)
  syncing[1]!.done(null)
  await Promise.all([first, second])
  deepStrictEqual(answered, ['first 0', 'second 0'])
})

test('a row whose sync has not quite returned is not given away', () => {
  const { shared, board } = sides()
  board.appended(5, 1)
  const words = new Int32Array(shared)
  Atomics.store(words, ROWS + STATE, RowState.Syncing)
  Atomics.store(words, ROWS + SYNCED, 1)
  ok(!board.isIdle(5))
  Atomics.store(words, ROWS + STATE, RowState.Idle)
  ok(board.isIdle(5))
})

test('a full board makes room by syncing, and drops what is durable', () => {
  let syncs = 0
  const { board } = sides(() => syncs++)
  for (let file = 0; file < UNSYNCED_FILES_MAX; file++) board.appended(100 + file, 1 + file)
  strictEqual(syncs, 0)
  board.appended(999, 1000)
  strictEqual(syncs, UNSYNCED_FILES_MAX)
  strictEqual(board.durableLsn(), 999)
})

test('a flush waits while the worker is being replaced', async () => {
  const { board, rounds, syncing } = sides()
  board.appended(5, 1)
  const running = flushed(rounds)
  await turn()
  let quiet = false
  rounds.hold(() => {
    quiet = true
  })
  let answered = false
  const waiting = flushed(rounds).then((error) => {
    answered = true
    return error
  })
  await turn()
  ok(!quiet) // a sync of the dead worker's file is still running
  syncing[0]!.done(null)
  strictEqual(await running, 0)
  await turn()
  ok(quiet && !answered)
  rounds.clear()
  rounds.resume()
  strictEqual(await waiting, 0)
  strictEqual(syncing.length, 1)
})

const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)

test(`no flush is answered before its appends are synced (SEED=${seed})`, async () => {
  const step = fc.oneof(
    fc.record({ append: fc.integer({ min: 1, max: 4 }) }),
    fc.constant({ flush: true } as const),
    fc.record({ finish: fc.nat({ max: 3 }) }),
    fc.record({ close: fc.integer({ min: 1, max: 4 }) })
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const { board, rounds, syncing } = sides()
      // What each file has, and what of it is durable. A sync takes what is there when it starts.
      const appended = new Map<number, number>()
      const durable = new Map<number, number>()
      const started: { descriptor: number; covers: number; done: () => void }[] = []
      let lsn = 0
      let waiting = 0
      const takeSyncs = (): void => {
        for (const { descriptor, done } of syncing.splice(0)) {
          const covers = appended.get(descriptor) ?? 0
          started.push({ descriptor, covers, done: () => done(null) })
        }
      }
      for (const action of steps) {
        if ('append' in action) {
          board.appended(action.append, ++lsn)
          appended.set(action.append, lsn)
        } else if ('flush' in action) {
          const needs = new Map(appended)
          waiting++
          rounds.flush((error) => {
            waiting--
            strictEqual(error, 0)
            for (const [file, upTo] of needs) ok((durable.get(file) ?? 0) >= upTo)
          })
        } else if ('finish' in action) {
          const [sync] = started.splice(action.finish % Math.max(1, started.length), 1)
          if (sync === undefined) continue
          durable.set(sync.descriptor, Math.max(durable.get(sync.descriptor) ?? 0, sync.covers))
          sync.done()
        } else if (board.isIdle(action.close)) {
          strictEqual(durable.get(action.close) ?? 0, appended.get(action.close) ?? 0)
        }
        for (const [file, upTo] of appended) {
          if ((durable.get(file) ?? 0) < upTo) ok(board.durableLsn() < upTo)
        }
        await turn()
        takeSyncs()
      }
      for (let rest = 0; rest < 4; rest++) {
        for (const sync of started.splice(0)) {
          durable.set(sync.descriptor, Math.max(durable.get(sync.descriptor) ?? 0, sync.covers))
          sync.done()
        }
        await turn()
        takeSyncs()
      }
      strictEqual(waiting, 0)
    }),
    { seed, numRuns: 200 }
  )
})

test.run()
