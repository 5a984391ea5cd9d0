import { deepEqual, equal, ok } from 'node:assert/strict'
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { type AuditEvent, AuditLog } from '../../src/admin/audit-log.ts'
import { silentLog } from '../../src/core/log.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

const test = suite<{ folder: string }>('audit log')
test.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'torus-audit-'))
})
test.after.each(({ folder }) => rmSync(folder, { recursive: true, force: true }))

const openLog = (folder: string, limits = { fileBytes: 1e6, files: 3 }): Promise<AuditLog> =>
  AuditLog.open({ directory: folder, clock: new ManualClock(), log: silentLog(), limits })

const event = (volume: string, more: Partial<AuditEvent> = {}): AuditEvent => ({
  who: { kind: 'socket' },
  address: 'x',
  action: 'createVolume',
  volume,
  outcome: 'ok',
  ...more
})

const everything = { last: 10_000, after: 0, volume: null }

test('entries come back in order, across a restart, by volume and after a number', async ({
  folder
}) => {
  const first = await openLog(folder)
  for (const volume of ['a', 'b', 'a']) first.record(event(volume))
  await first.close()
  const second = await openLog(folder)
  second.record(event('ä"\n'))
  deepEqual(
    (await second.read(everything)).map(({ n, volume }) => [n, volume]),
    [
      [1, 'a'],
      [2, 'b'],
      [3, 'a'],
      [4, 'ä"\n']
    ]
  )
  const numbers = async (query: object) =>
    (await second.read({ ...everything, ...query })).map(({ n }) => n)
  deepEqual(await numbers({ volume: 'a' }), [1, 3])
  deepEqual(await numbers({ after: 2 }), [3, 4])
  deepEqual(await numbers({ last: 2 }), [3, 4])
  equal(statSync(join(folder, 'audit.log')).mode & 0o777, 0o600)
  await second.close()
})

test('files are bounded in size and number, and reading goes on across them', async ({
  folder
}) => {
  const log = await openLog(folder, { fileBytes: 2000, files: 3 })
  for (let at = 0; at < 100; at++) {
    log.record(event(`volume-${at}`))
    if (at % 5 === 4) await log.read({ ...everything, last: 1 })
  }
  const found = await log.read(everything)
  await log.close()
  deepEqual(readdirSync(folder).sort(), ['audit.log', 'audit.log.1', 'audit.log.2', 'audit.log.3'])
  for (const name of readdirSync(folder)) ok(statSync(join(folder, name)).size <= 2000, name)
  equal(found.at(-1)!.n, 100)
  ok(found.length > 20 && found.length < 100, `${found.length}`)
  deepEqual(
    found.map(({ n }) => n),
    found.map((_, at) => 100 - found.length + 1 + at)
  )
})

test('lines longer than what is read at once come back whole', async ({ folder }) => {
  const log = await openLog(folder)
  const long = 'x'.repeat(150_000)
  for (const text of ['before', long, 'after']) {
    log.record(event('v', { details: { text } }))
  }
  const found = await log.read(everything)
  deepEqual(
    found.map(({ details }) => String(details?.['text']).length),
    [6, 150_000, 5]
  )
  await log.close()
})

test('a line that a crash cut off spoils no other', async ({ folder }) => {
  const first = await openLog(folder)
  first.record(event('a'))
  await first.close()
  appendFileSync(join(folder, 'audit.log'), '{"n":2,"time":"20')
  const second = await openLog(folder)
  second.record(event('b'))
  deepEqual(
    (await second.read(everything)).map(({ n, volume }) => [n, volume]),
    [
      [1, 'a'],
      [2, 'b']
    ]
  )
  await second.close()
  ok(readFileSync(join(folder, 'audit.log'), 'utf8').endsWith('\n'))
})

test('a disk that takes nothing loses entries, which are counted and told later', async ({
  folder
}) => {
  const directory = join(folder, 'audit')
  mkdirSync(directory)
  const log = await openLog(directory, { fileBytes: 300, files: 2 })
  log.record(event('a'))
  await log.read(everything)
  // The next entry needs a new file, and there is something in its way that cannot be replaced.
  mkdirSync(join(directory, 'audit.log.2'))
  appendFileSync(join(directory, 'audit.log.2', 'in-the-way'), '')
  log.record(event('b'.repeat(200)))
  log.record(event('c'))
  await new Promise((resolve) => setTimeout(resolve, 50))
  equal(log.counts().lost, 2)
  rmSync(join(directory, 'audit.log.2'), { recursive: true })
  log.record(event('d'))
  const last = (await log.read(everything)).at(-1)!
  deepEqual([last.volume, last.lostBefore], ['d', 2])
  deepEqual(log.counts(), { written: 2, lost: 2 })
  await log.close()
})

test('nobody waits, and what waits for the disk is bounded', async ({ folder }) => {
  const log = await openLog(folder)
  for (let at = 0; at < 10_050; at++) log.record(event('v'))
  equal(log.counts().lost, 50)
  await log.close()
  equal(log.counts().written, 10_000)
})

test.run()
