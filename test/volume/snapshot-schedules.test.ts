/** Snapshots that are taken by themselves, under a clock that moves when told to. */
import { deepStrictEqual, ok, rejects, strictEqual } from 'node:assert'
import { test } from 'uvu'
import type { SnapshotRecord } from '../../src/cluster/records.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import {
  dueSnapshot,
  expiredSnapshots,
  type ScheduleRule
} from '../../src/volume/schedule-rules.ts'
import { RequestKind } from '../../src/volume/request.ts'
import { SnapshotSchedules } from '../../src/volume/snapshot-schedules.ts'
import { until } from '../helpers/process.ts'
import { ask, type Bench, failsWith, openBench, schedulesOf } from '../helpers/volume-bench.ts'

const MIB = 1024 * 1024
const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** Noon of a Saturday. */
const NOON = Date.parse('2026-01-31T12:00:00Z')

const setClock = ({ clock }: Bench, atMs: number): void => {
  clock.wallShiftMs += atMs - clock.wallMs()
}

const namesOf = async ({ volumes }: Bench, volume: string = 'v'): Promise<string[]> =>
  (await volumes.snapshots.list(volume)).map(({ name }) => name)

/** A volume that has a schedule, set at 12:10. */
async function begin(rules: ScheduleRule[], bench?: Bench) {
  const opened = bench ?? (await openBench())
  setClock(opened, NOON + 10 * MINUTE)
  await opened.volumes.create({ name: 'v', sizeBytes: MIB })
  const schedules = schedulesOf(opened)
  await schedules.start()
  await schedules.set('v', rules)
  const at = async (atMs: number): Promise<void> => {
    setClock(opened, atMs)
    await schedules.look()
  }
  return { bench: opened, schedules, at }
}

test('a snapshot is taken in each interval of UTC, once, and named by its time', async () => {
  const { bench, schedules, at } = await begin([{ everyMs: HOUR, keep: 24 }])
  await at(NOON + 59 * MINUTE)
  deepStrictEqual(await namesOf(bench), [])
  await at(NOON + HOUR + 3000)
  await at(NOON + HOUR + 8000)
  deepStrictEqual(await namesOf(bench), ['auto-2026-01-31T13:00Z'])
  await at(NOON + 2 * HOUR)
  deepStrictEqual(await namesOf(bench), ['auto-2026-01-31T13:00Z', 'auto-2026-01-31T14:00Z'])
  const shown = await schedules.show('v')
  deepStrictEqual(
    [shown?.nextAt, shown?.doneUntil, shown?.snapshots],
    ['2026-01-31T15:00:00.000Z', '2026-01-31T14:00:00.000Z', 2]
  )
  // One that somebody deletes is not taken again.
  await bench.volumes.snapshots.delete('v', 'auto-2026-01-31T14:00Z')
  await at(NOON + 2 * HOUR + MINUTE)
  strictEqual((await namesOf(bench)).length, 1)
  deepStrictEqual(
    (await bench.volumes.events('v')).map(({ kind }) => kind),
    ['created', 'scheduled']
  )
  await schedules.close()
  await bench.close()
})

test('of intervals that were missed one is made up for, and the history tells of all', async () => {
  const first = await begin([
    { everyMs: HOUR, keep: 24 },
    { everyMs: DAY, keep: 7 }
  ])
  await first.at(NOON + HOUR)
  await first.schedules.close()
  await first.bench.close()
  // The next process, a day later.
  const bench = await openBench({ tables: first.bench.tables, store: first.bench.store, boot: 2 })
  setClock(bench, NOON + DAY + 20 * MINUTE)
  const schedules = schedulesOf(bench)
  await schedules.start()
  for (let i = 0; i < 3; i++) await schedules.look()
  deepStrictEqual(await namesOf(bench), ['auto-2026-01-31T13:00Z', 'auto-2026-02-01T12:20Z'])
  const told = (await bench.volumes.events('v')).filter(({ kind }) => kind === 'snapshotMissed')
  deepStrictEqual(
    told.map(({ details }) => details),
    [{ missed: 23, since: '2026-01-31T14:00:00.000Z', taken: 'auto-2026-02-01T12:20Z' }]
  )
  await schedules.close()
  await bench.close()
})

test('who is late by moments missed nothing', () => {
  const doneUntil = new Date(NOON).toISOString()
  const rules = [{ everyMs: HOUR, keep: 1 }]
  strictEqual(dueSnapshot({ rules, doneUntil }, NOON + HOUR + 4 * MINUTE)?.missed, 0)
  strictEqual(dueSnapshot({ rules, doneUntil }, NOON + HOUR + 5 * MINUTE)?.missed, 1)
  strictEqual(dueSnapshot({ rules, doneUntil }, NOON + 2 * HOUR)?.missed, 1)
  strictEqual(dueSnapshot({ rules, doneUntil }, NOON + HOUR - 1), null)
  // Weeks begin on Mondays.
  const weeks = [{ everyMs: 7 * DAY, keep: 1 }]
  const monday = Date.parse('2026-02-02T00:00:00Z')
  strictEqual(dueSnapshot({ rules: weeks, doneUntil }, monday - 1), null)
  strictEqual(dueSnapshot({ rules: weeks, doneUntil }, monday)?.dueMs, monday)
  // A clock that was a year ahead does not stop it for a year.
  const ahead = { rules, doneUntil: new Date(NOON + 365 * DAY).toISOString() }
  strictEqual(dueSnapshot(ahead, NOON + HOUR + MINUTE)?.dueMs, NOON + HOUR)
})

test('each rule keeps its last, and nothing else goes', () => {
  const rules = [
    { everyMs: HOUR, keep: 3 },
    { everyMs: DAY, keep: 2 }
  ]
  const record = (dueMs: number, more: Partial<SnapshotRecord> = {}): SnapshotRecord => {
    const due = new Date(dueMs).toISOString()
    const name = `auto-${due}`
    const known = {
      v: 1,
      id: '1'.repeat(16),
      volume: '2'.repeat(16),
      layer: '3'.repeat(16)
    } as const
    const rest = { sizeBytes: 4096, description: '', labels: {}, createdAt: due }
    return { ...known, ...rest, name, scheduled: { due, name }, ...more }
  }
  const day = Math.floor(NOON / DAY) * DAY
  const all: SnapshotRecord[] = []
  for (let dueMs = day - 2 * DAY; dueMs <= day + 5 * HOUR; dueMs += HOUR) all.push(record(dueMs))
  const hand = [
    record(day - DAY + 1, { protected: true }),
    record(day - DAY + 2, { name: 'renamed' }),
    { ...record(day - DAY + 3), scheduled: undefined }
  ]
  const gone = new Set(expiredSnapshots(rules, [...all, ...hand], NOON).map(({ name }) => name))
  const kept = all.filter(({ name }) => !gone.has(name)).map(({ createdAt }) => createdAt)
  const expected = [day - DAY, day, day + 3 * HOUR, day + 4 * HOUR, day + 5 * HOUR]
  deepStrictEqual(
    kept,
    expected.map((dueMs) => new Date(dueMs).toISOString())
  )
  ok(hand.every(({ name }) => !gone.has(name)))
})

test('a clock that was ahead leaves what is taken when it is right again', async () => {
  const { bench, schedules, at } = await begin([{ everyMs: HOUR, keep: 2 }])
  await at(NOON + HOUR)
  for (const days of [3, 8, 20]) await at(NOON + days * DAY)
  for (let hour = 2; hour <= 5; hour++) await at(NOON + hour * HOUR)
  deepStrictEqual(await namesOf(bench), [
    'auto-2026-02-08T12:00Z',
    'auto-2026-02-20T12:00Z',
    'auto-2026-01-31T16:00Z',
    'auto-2026-01-31T17:00Z'
  ])
  // Their time comes: they are as the others.
  await at(NOON + 21 * DAY)
  deepStrictEqual(await namesOf(bench), ['auto-2026-02-20T12:00Z', 'auto-2026-02-21T12:00Z'])
  await schedules.close()
  await bench.close()
})

test('what is open, protected or has a name of its own outlives its time', async () => {
  const { bench, schedules, at } = await begin([{ everyMs: HOUR, keep: 1 }])
  const { snapshots } = bench.volumes
  await snapshots.create('v', 'auto-2026-01-31T12:11Z')
  await at(NOON + HOUR)
  await snapshots.rename('v', 'auto-2026-01-31T13:00Z', 'mine')
  await at(NOON + 2 * HOUR)
  await snapshots.change('v', 'auto-2026-01-31T14:00Z', { protected: true })
  await at(NOON + 3 * HOUR)
  const reader = await bench.volumes.openFile('v@auto-2026-01-31T15:00Z')
  await at(NOON + 4 * HOUR)
  const expected = ['auto-2026-01-31T12:11Z', 'mine', 'auto-2026-01-31T14:00Z']
  deepStrictEqual(await namesOf(bench), [
    ...expected,
    'auto-2026-01-31T15:00Z',
    'auto-2026-01-31T16:00Z'
  ])
  await reader.close()
  await at(NOON + 5 * HOUR)
  deepStrictEqual(await namesOf(bench), [...expected, 'auto-2026-01-31T17:00Z'])
  await schedules.remove('v')
  await at(NOON + 9 * HOUR)
  strictEqual((await namesOf(bench)).length, 4)
  strictEqual(await schedules.show('v'), null)
  await schedules.close()
  await bench.close()
})

test('of two that try at once one takes it, and who crashed half-way is made up for', async () => {
  const { bench, schedules, at } = await begin([{ everyMs: HOUR, keep: 9 }])
  const other = schedulesOf(bench)
  await other.start()
  setClock(bench, NOON + HOUR)
  await Promise.all([schedules.look(), other.look()])
  deepStrictEqual(await namesOf(bench), ['auto-2026-01-31T13:00Z'])
  // It fails when everything but the last transaction is done.
  const { snapshots } = bench.volumes
  const finish = snapshots.directory.finish
  snapshots.directory.finish = () => Promise.reject(new StoreError(ErrorCode.Unavailable, 'no'))
  const failures: string[] = []
  const third = new SnapshotSchedules({
    cluster: bench.cluster,
    volumes: bench.volumes,
    isInCharge: () => true,
    trouble: (what) => failures.push(what)
  })
  await third.start()
  setClock(bench, NOON + 2 * HOUR)
  await third.look()
  await third.look()
  snapshots.directory.finish = finish
  deepStrictEqual([failures.length, await namesOf(bench)], [1, ['auto-2026-01-31T13:00Z']])
  await at(NOON + 2 * HOUR + MINUTE)
  deepStrictEqual(await namesOf(bench), ['auto-2026-01-31T13:00Z', 'auto-2026-01-31T14:01Z'])
  const told = (await bench.volumes.events('v')).filter(({ kind }) => kind === 'snapshotFailed')
  deepStrictEqual(
    told.map(({ details, count }) => [details['why'], count]),
    [['Unavailable', 1]]
  )
  for (const each of [schedules, other, third]) await each.close()
  await bench.close()
})

test('who serves a volume takes them, or else who is in charge', async () => {
  const bench = await openBench()
  let isInCharge = false
  const parts = { cluster: bench.cluster, isInCharge: () => isInCharge, trouble: () => {} }
  const schedules = new SnapshotSchedules({ ...parts, volumes: bench.volumes })
  setClock(bench, NOON + MINUTE)
  await bench.volumes.create({ name: 'v', sizeBytes: MIB })
  await schedules.start()
  await schedules.set('v', [{ everyMs: HOUR, keep: 9 }])
  const { family, id } = await bench.volumes.show('v')
  setClock(bench, NOON + HOUR)
  const look = async (): Promise<number> => {
    await schedules.look()
    return (await namesOf(bench)).length
  }
  if (!bench.volumes.isWritten(id)) strictEqual(await look(), 0)
  isInCharge = true
  const { keys } = bench.cluster
  const writer = { v: 1, gateway: 'b'.repeat(32), bootId: 'b'.repeat(32), writerEpoch: 1 }
  const key = keys.writer(family)
  await bench.metadata.transact({
    success: [{ put: key, value: Buffer.from(JSON.stringify(writer)) }]
  })
  strictEqual(await look(), 0)
  await bench.metadata.transact({ success: [{ delete: key }] })
  strictEqual(await look(), 1)
  // A volume in the trash has none taken, and goes on when it is restored.
  await bench.volumes.discard('v')
  setClock(bench, NOON + 2 * HOUR)
  await schedules.look()
  await bench.volumes.trash.restore('v')
  strictEqual((await namesOf(bench)).length, 1)
  await until(async () => (await look()) === 2, 'the volume is followed')
  await schedules.close()
  await bench.close()
})

test('snapshots of a locked volume come and go without its key', async () => {
  const before = await openBench()
  const encrypt = { kind: 'passphrase', secret: Buffer.from('open sesame'), label: '' } as const
  await before.volumes.create({ name: 'secret', sizeBytes: MIB, encrypt })
  const { clock } = before
  const schedules = schedulesOf(before)
  await schedules.start()
  await schedules.set('secret', [{ everyMs: HOUR, keep: 1 }])
  const write = async (bench: Bench): Promise<void> => {
    const device = await bench.volumes.open('secret', {})
    const data = Buffer.alloc(4096, 1)
    strictEqual((await ask(bench, device, { kind: RequestKind.Write, data })).error, 0)
    await device.close()
  }
  await write(before)
  await before.volumes.lock('secret')
  const namesIn = async ({ volumes }: Bench) => {
    return (await volumes.snapshots.list('secret')).map(({ name }) => name)
  }
  clock.wallShiftMs += HOUR
  await schedules.look()
  const names = await namesIn(before)
  strictEqual(names.length, 1)
  await schedules.close()
  await before.metadata.close()
  // Nor does a process that was never told the key.
  const again = await openBench({
    tables: before.tables,
    store: before.store,
    arena: before.arena,
    boot: 2
  })
  again.clock.wallShiftMs = clock.wallShiftMs + HOUR
  const later = schedulesOf(again)
  await later.start()
  await later.look()
  const [kept = '', ...others] = await namesIn(again)
  deepStrictEqual(others, [])
  ok(kept !== names[0] && kept !== '', 'the one before it had its time')
  await rejects(write(again), failsWith(ErrorCode.Locked))
  const record = await again.volumes.withEncrypted('secret', async (volume) => volume)
  await again.keyring.unlock(record, encrypt, null)
  await write(again)
  await later.close()
  await again.close()
})

test('a schedule that cannot be is refused by name', async () => {
  const { bench, schedules } = await begin([{ everyMs: HOUR, keep: 24 }])
  const refused: [ScheduleRule[], RegExp][] = [
    [[{ everyMs: 0, keep: 1 }], /every 0 is too often: 1m/],
    [[{ everyMs: 30_000, keep: 1 }], /every 30s is too often/],
    [[{ everyMs: 90_000, keep: 1 }], /whole number of minutes/],
    [[{ everyMs: 400 * DAY, keep: 1 }], /too rare/],
    [[{ everyMs: HOUR, keep: 0 }], /keep 0/],
    [[{ everyMs: HOUR, keep: 3000 }], /2048 snapshots at most/],
    [[...Array(2)].map(() => ({ everyMs: HOUR, keep: 1 })), /same --every/],
    [[], /1 to 8 rules/]
  ]
  for (const [rules, why] of refused) {
    await rejects(schedules.set('v', rules), (thrown: Error) => {
      return failsWith(ErrorCode.InvalidArgument)(thrown) && why.test(thrown.message)
    })
  }
  await rejects(
    schedules.set('nobody', [{ everyMs: HOUR, keep: 1 }]),
    failsWith(ErrorCode.NotFound)
  )
  deepStrictEqual((await schedules.show('v'))?.rules, [{ everyMs: HOUR, keep: 24 }])
  await schedules.close()
  await bench.close()
})

test.run()
