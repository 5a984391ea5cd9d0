import { deepEqual, equal, ok } from 'node:assert/strict'
import { connect } from 'node:net'
import { suite } from 'uvu'
import { http } from '../helpers/admin.ts'
import { bearer, createToken, type TwoVolumes, withTwoVolumes } from '../helpers/admin-tokens.ts'

const test = suite<TwoVolumes>('audited requests')
test.before.each(withTwoVolumes)
test.after.each((context) => context.fixture.stop())

test('the audit log tells who changed what, who was refused, and no secret', async ({
  fixture
}) => {
  const { url, socket } = fixture
  const made = await createToken(fixture, { role: 'operator', label: 'night shift' })
  const headers = bearer(made.token)
  const body = { name: 'third', sizeBytes: 8192 }
  await http(`${url}/v1/volumes`, { method: 'POST', headers, body })
  await http(`${url}/v1/volumes/third?force=true`, { method: 'DELETE', headers })
  await http(`${url}/v1/volumes/third`, { method: 'DELETE', headers })
  const secret = Buffer.from('open sesame').toString('base64')
  const unlock = { kind: 'passphrase', secret }
  await http(`${url}/v1/volumes/mine/unlock`, { method: 'POST', headers, body: unlock })
  await http(`${url}/v1/pools`, { method: 'POST', headers, body: {} })
  await http(`${url}/v1/volumes/mine`, { method: 'DELETE' })
  await http(`${url}/v1/volumes/mine`, { headers })
  const answer = await http(`unix:${socket}:/v1/audit`)
  type Told = { who: { kind: string; label?: string }; volume?: string; action: string }
  const told = answer.json.entries.map(
    ({ who, volume, action, outcome }: Told & { outcome: string }) =>
      `${who.label ?? who.kind} ${action} ${volume ?? '-'} ${outcome}`
  )
  const unlocked = told.splice(4, 1)[0]
  equal(unlocked, 'night shift unlockVolume mine ok')
  deepEqual(answer.json.entries[4].details, { slot: 1, kind: 'passphrase' })
  deepEqual(told, [
    'socket createToken - ok',
    'night shift createVolume third ok',
    'night shift deleteVolume third ok',
    'night shift deleteVolume third NotFound',
    'night shift createPool - Forbidden',
    'nobody deleteVolume mine Unauthorized'
  ])
  equal(answer.json.entries[0].details.id, made.id)
  const force = answer.json.entries[2].details
  deepEqual(force, { force: 'true' })
  for (const hidden of [made.token, secret, 'open sesame']) ok(!answer.text.includes(hidden))
  const one = await http(`unix:${socket}:/v1/audit?volume=third&last=1`)
  deepEqual(
    one.json.entries.map(({ outcome }: { outcome: string }) => outcome),
    ['NotFound']
  )
  equal(
    (await http(`unix:${socket}:/v1/audit?after=${one.json.entries[0].n}`)).json.entries.length,
    3
  )
})

test('the audit log of a volume has what made it, and what became of it', async ({ fixture }) => {
  const { url, socket, backend } = fixture
  const ask = (method: string, path: string, body?: unknown) =>
    http(`${url}/v1/${path}`, { method, ...(body === undefined ? {} : { body }) })
  await ask('POST', 'volumes/mine/snapshots/monday/clone', { name: 'kid' })
  await ask('POST', 'volumes/other/rename', { newName: 'kid' })
  await ask('POST', 'tokens', { role: 'volume', volume: 'mine' })
  backend.life.volumes.push({ ...(await backend.volume('mine')), id: '1', name: 'kid' })
  backend.life.volumes.push({ ...(await backend.volume('mine')), id: '2', name: 'last' })
  const headers = bearer((await createToken(fixture, { role: 'operator' })).token)
  await http(`${url}/v1/trash/1`, { method: 'DELETE', headers })
  await http(`${url}/v1/trash`, { method: 'DELETE', headers })
  await http(`${url}/v1/pools/default`, { method: 'POST', headers, body: {} })
  const told = async (volume: string): Promise<string[]> => {
    const { json } = await http(`unix:${socket}:/v1/audit?volume=${volume}`)
    type Told = { action: string; volume?: string; details?: object }
    return json.entries.map(
      ({ action, volume: of = '-', details = {} }: Told) =>
        `${action} ${of} ${JSON.stringify(details)}`
    )
  }
  deepEqual(await told('kid'), [
    'cloneSnapshot mine {"snapshot":"monday","clone":"kid"}',
    'renameVolume other {"newName":"kid"}',
    'deleteTrashed kid {"entry":"1"}'
  ])
  deepEqual(await told('last'), ['emptyTrash - {"names":["last"]}'])
  equal((await told('mine')).length, 2)
  const all = (await http(`unix:${socket}:/v1/audit`)).json.entries
  deepEqual(all.at(-1).details, { name: 'default' })
})

test('who hangs up before the answer is in the audit log all the same', async ({ fixture }) => {
  const { backend, audit, url } = fixture
  const remove = backend.deleteVolume.bind(backend)
  const hungUp = new Promise<void>((resolve) => {
    backend.deleteVolume = async (name, options) => {
      socket.destroy()
      await new Promise((later) => setTimeout(later, 50))
      const deleted = await remove(name, options)
      setTimeout(resolve, 20)
      return deleted
    }
  })
  const request = 'DELETE /v1/volumes/mine HTTP/1.1\r\nHost: localhost\r\n\r\n'
  const socket = connect(Number(new URL(url).port), '127.0.0.1', () => socket.write(request))
  socket.on('error', () => {})
  await hungUp
  const entries = await audit.read({ last: 10, after: 0, volume: 'mine' })
  deepEqual(
    entries.map(({ action, outcome }) => [action, outcome]),
    [['deleteVolume', 'ok']]
  )
})

test.run()
