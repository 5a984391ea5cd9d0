import { deepEqual, equal, ok } from 'node:assert/strict'
import { suite } from 'uvu'
import { http } from '../helpers/admin.ts'
import { bearer, createToken, type TwoVolumes, withTwoVolumes } from '../helpers/admin-tokens.ts'
import { fakeClient } from '../helpers/fake-backend.ts'

const test = suite<TwoVolumes>('tokens of one volume')
test.before.each(withTwoVolumes)
test.after.each((context) => context.fixture.stop())

test('a token of one volume is shown nothing of others', async ({ fixture }) => {
  const { token } = await createToken(fixture, { role: 'volume', volume: 'mine', readOnly: true })
  const headers = bearer(token)
  const served = ['mine', 'other', 'mine@monday', 'mine2', 'other@mine']
  fixture.backend.clients.push(...served.map((volume, at) => fakeClient(at + 1, volume)))
  const names = (await http(`${fixture.url}/v1/volumes`, { headers })).json.volumes
  deepEqual(
    names.map(({ name }: { name: string }) => name),
    ['mine']
  )
  const clients = (await http(`${fixture.url}/v1/clients`, { headers })).json.clients
  deepEqual(
    clients.map(({ id }: { id: number }) => id),
    [1, 3]
  )
  // What happened to it may have to do with another one.
  const known = { at: '', lastAt: '', peer: '', count: 1 }
  fixture.backend.life.told = [
    { ...known, kind: 'created', details: { sizeBytes: 4096, from: 'other@monday' } },
    { ...known, kind: 'cloned', details: { snapshot: 'mine', to: 'other' } },
    { ...known, kind: 'renamed', details: { from: 'before', to: 'mine' } }
  ]
  const seen = async (by: Readonly<Record<string, string>>): Promise<unknown[]> => {
    const answer = await http(`${fixture.url}/v1/volumes/mine/events`, { headers: by })
    return answer.json.events.map(({ details }: { details: object }) => details)
  }
  deepEqual(await seen(headers), [
    { sizeBytes: 4096 },
    { snapshot: 'mine' },
    { from: 'before', to: 'mine' }
  ])
  const viewer = await createToken(fixture, { role: 'viewer' })
  const all = fixture.backend.life.told.map(({ details }) => details)
  deepEqual(await seen(bearer(viewer.token)), all)
  // One that is there reads as one that is not.
  const there = await http(`${fixture.url}/v1/volumes/other`, { headers })
  const absent = await http(`${fixture.url}/v1/volumes/absent`, { headers })
  deepEqual([there.status, there.text], [absent.status, absent.text])
  // Neither does another spelling of the path help.
  for (const path of ['mine%2F..%2Fother', 'mine/../other', '%6Fther', 'mine%00']) {
    const { status } = await http(`${fixture.url}/v1/volumes/${path}`, { headers })
    ok(status === 403 || status === 404, `${path}: ${status}`)
  }
})

test('a token of one volume lifts nothing that operators set about it', async ({ fixture }) => {
  const texts = {
    volume: (await createToken(fixture, { role: 'volume', volume: 'mine' })).token,
    operator: (await createToken(fixture, { role: 'operator' })).token
  }
  const send = (who: keyof typeof texts, path: string, body: object) =>
    http(`${fixture.url}/v1/volumes/mine${path}`, {
      ...{ method: 'POST', headers: bearer(texts[who]), body }
    })
  const withheld: readonly [string, object, string][] = [
    ['', { access: { addresses: [] } }, 'access'],
    ['', { access: { readOnly: false } }, 'access'],
    ['', { limits: { iops: null }, description: 'mine' }, 'limits'],
    ['', { readOnly: false }, 'readOnly: false'],
    ['', { labels: { 'torus.applied': '0', tier: 'gold' } }, 'labels.torus.applied'],
    ['', { access: {}, limits: {} }, 'access, limits'],
    ['/snapshots', { name: 'one', labels: { 'torus.backup': 'x' } }, 'labels.torus.backup'],
    ['/snapshots/monday', { protected: false }, 'protected: false']
  ]
  const before = (await http(`${fixture.url}/v1/volumes/mine`, { headers: bearer(texts.volume) }))
    .json
  for (const [path, body, fields] of withheld) {
    const { status, json } = await send('volume', path, body)
    const what = `a token of the role volume:mine may not set ${fields}: that is for operators`
    deepEqual([status, json.error], [403, { code: 'Forbidden', message: what }])
  }
  const after = await http(`${fixture.url}/v1/volumes/mine`, { headers: bearer(texts.volume) })
  deepEqual(after.json, before)
  for (const [path, body] of withheld) {
    ok((await send('operator', path, body)).status !== 403, JSON.stringify(body))
  }
  const given = { description: 'mine', labels: { tier: 'gold' }, unavailableMs: 5000 }
  equal((await send('volume', '', { ...given, readOnly: true })).status, 200)
  equal((await send('volume', '/resize', { sizeBytes: 8192 })).status, 403)
  const told = (await http(`unix:${fixture.socket}:/v1/audit?volume=mine`)).json.entries
  const refused = told.filter(({ outcome }: { outcome: string }) => outcome === 'Forbidden')
  equal(refused.length, withheld.length + 1)
  deepEqual(refused[0].details, { access: { addresses: [] } })
  const headers = bearer(texts.operator)
  const { text } = await http(`${fixture.url}/metrics`, { headers })
  ok(text.includes(`torus_admin_refusals_total{reason="role"} ${withheld.length + 1}`), text)
})

test.run()
