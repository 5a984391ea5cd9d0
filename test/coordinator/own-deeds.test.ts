/** What a peer does to volumes by itself stands in its audit log. */
import { deepStrictEqual } from 'node:assert'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { AuditLog } from '../../src/admin/audit-log.ts'
import { keepSchedules } from '../../src/coordinator/schedule-keeper.ts'
import { ownWitness } from '../../src/coordinator/security.ts'
import { keepTrash } from '../../src/coordinator/trash-keeper.ts'
import { silentLog } from '../../src/core/log.ts'
import { until } from '../helpers/process.ts'
import { openBench, schedulesOf } from '../helpers/volume-bench.ts'

const HOUR = 3_600_000
const NOON = Date.parse('2026-01-31T12:00:00Z')

test('snapshots by a schedule and volumes whose time is over are in the audit log', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'torus-deeds-'))
  const bench = await openBench()
  const { clock, volumes } = bench
  const setClock = (atMs: number): void => {
    clock.wallShiftMs += atMs - clock.wallMs()
  }
  setClock(NOON)
  const audit = await AuditLog.open({ directory: folder, clock, log: silentLog() })
  const schedules = schedulesOf(bench)
  const onDeed = ownWitness(audit)
  const given = { log: silentLog(), clock, isInCharge: () => true, onDeed, everyMs: 5 }
  const ends = [keepSchedules(schedules, given), keepTrash(volumes.trash, given)]
  const told = async (): Promise<string[]> => {
    const entries = await audit.read({ last: 99, after: 0, volume: null })
    return entries.map(({ who, action, volume, details, outcome }) => {
      const { snapshot = '-' } = details ?? {}
      return `${who.kind} ${action} ${volume} ${snapshot} ${outcome}`
    })
  }
  const untilTold = (count: number) =>
    until(async () => (await told()).length >= count, `${count} deeds are told`)

  await volumes.create({ name: 'v', sizeBytes: 4096 })
  await volumes.create({ name: 'gone', sizeBytes: 4096 })
  await volumes.discard('gone')
  await schedules.set('v', [{ everyMs: HOUR, keep: 1 }])
  setClock(NOON + HOUR)
  await untilTold(1)
  setClock(NOON + 2 * HOUR)
  await untilTold(3)
  setClock(NOON + 25 * HOUR)
  await untilTold(5)
  // The trash waits until the clock went well for a while.
  const isToldLater = async (): Promise<boolean> => {
    clock.nowMs += 60_000
    return (await told()).length >= 6
  }
  await until(isToldLater, 'the volume is gone')
  const of = (told: string[], volume: string) => told.filter((line) => line.includes(` ${volume} `))
  deepStrictEqual(of(await told(), 'gone'), ['peer trashExpired gone - ok'])
  deepStrictEqual(of(await told(), 'v'), [
    'peer scheduledSnapshot v auto-2026-01-31T13:00Z ok',
    'peer scheduledSnapshot v auto-2026-01-31T14:00Z ok',
    'peer expiredSnapshot v auto-2026-01-31T13:00Z ok',
    'peer scheduledSnapshot v auto-2026-02-01T13:00Z ok',
    'peer expiredSnapshot v auto-2026-01-31T14:00Z ok'
  ])
  for (const end of ends) await end()
  await audit.close()
  await bench.close()
  rmSync(folder, { recursive: true })
})

test.run()
