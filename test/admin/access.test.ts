import { deepEqual, equal, ok } from 'node:assert/strict'
import { connect } from 'node:net'
import { PassThrough } from 'node:stream'
import { setImmediate as settled } from 'node:timers/promises'
import fc from 'fast-check'
import { suite } from 'uvu'
import type { Role, VolumeUse } from '../../src/admin/access.ts'
import type { CreatedToken, TokenCreate } from '../../src/admin/audit-schemas.ts'
import { type AdminFixture, type HttpAnswer, http, startFixture } from '../helpers/admin.ts'
import { ManualClock } from '../helpers/manual-clock.ts'

/**
 * What every operation needs, said here once more: a route that is new, or needs something else
 * than before, fails until somebody decided.
 */
const decided: Record<string, readonly [Role, VolumeUse]> = {
  getHealth: ['anyone', 'no'],
  getReady: ['anyone', 'no'],
  getStatus: ['viewer', 'no'],
  getPeer: ['viewer', 'any'],
  listShards: ['viewer', 'no'],
  getTask: ['viewer', 'no'],
  getMetrics: ['viewer', 'no'],
  listCertificates: ['viewer', 'no'],
  getOpenApi: ['viewer', 'any'],
  getCluster: ['viewer', 'no'],
  getClusterSettings: ['viewer', 'no'],
  getWaitingGroups: ['viewer', 'no'],
  listPeers: ['viewer', 'no'],
  listPools: ['viewer', 'no'],
  getPool: ['viewer', 'no'],
  getRing: ['viewer', 'no'],
  listVolumes: ['viewer', 'any'],
  getVolume: ['viewer', 'see'],
  listKeySlots: ['viewer', 'see'],
  listVolumeEvents: ['viewer', 'see'],
  listSnapshots: ['viewer', 'see'],
  getSnapshot: ['viewer', 'see'],
  createSnapshot: ['operator', 'change'],
  changeSnapshot: ['operator', 'change'],
  deleteSnapshot: ['operator', 'no'],
  getSchedule: ['viewer', 'see'],
  getVolumeSpace: ['viewer', 'see'],
  setSchedule: ['operator', 'no'],
  removeSchedule: ['operator', 'no'],
  restoreSnapshot: ['operator', 'no'],
  cloneSnapshot: ['operator', 'no'],
  listSnapshotChildren: ['viewer', 'no'],
  listVolumeChildren: ['viewer', 'no'],
  getVolumeBase: ['viewer', 'no'],
  flattenVolume: ['operator', 'no'],
  exportVolume: ['operator', 'change'],
  diffVolume: ['viewer', 'see'],
  beginIncrement: ['operator', 'no'],
  getIncrement: ['viewer', 'no'],
  writeIncrement: ['operator', 'no'],
  finishIncrement: ['operator', 'no'],
  listImports: ['viewer', 'no'],
  getImport: ['viewer', 'no'],
  beginImport: ['operator', 'no'],
  writeImport: ['operator', 'no'],
  finishImport: ['operator', 'no'],
  abandonImport: ['operator', 'no'],
  listTrash: ['viewer', 'no'],
  restoreVolume: ['operator', 'no'],
  deleteTrashed: ['operator', 'no'],
  emptyTrash: ['operator', 'no'],
  listClients: ['viewer', 'any'],
  getConfig: ['operator', 'no'],
  disconnectClient: ['operator', 'no'],
  startTask: ['operator', 'no'],
  stopTask: ['operator', 'no'],
  changePeer: ['operator', 'no'],
  createVolume: ['operator', 'no'],
  deleteVolume: ['operator', 'no'],
  renameVolume: ['operator', 'no'],
  changeVolume: ['operator', 'change'],
  resizeVolume: ['operator', 'no'],
  takeVolume: ['operator', 'change'],
  unlockVolume: ['operator', 'change'],
  lockVolume: ['operator', 'change'],
  rekeyVolume: ['operator', 'change'],
  addKeySlot: ['operator', 'change'],
  rotateKeySlot: ['operator', 'change'],
  revokeKeySlot: ['admin', 'no'],
  getBackupKey: ['operator', 'no'],
  exportVolumeKeys: ['admin', 'no'],
  importVolumeKeys: ['admin', 'no'],
  changeClusterSettings: ['admin', 'no'],
  acceptLoss: ['admin', 'no'],
  finalizeCluster: ['admin', 'no'],
  addPeer: ['admin', 'no'],
  replacePeer: ['admin', 'no'],
  removePeer: ['admin', 'no'],
  createPool: ['admin', 'no'],
  changePool: ['admin', 'no'],
  getMetadataBackup: ['admin', 'no'],
  getDebugBundle: ['admin', 'no'],
  listTokens: ['admin', 'no'],
  createToken: ['admin', 'no'],
  revokeToken: ['admin', 'no'],
  listAudit: ['admin', 'no']
}

interface Operation {
  readonly id: string
  readonly method: string
  readonly path: string
}

interface Context {
  fixture: AdminFixture
  clock: ManualClock
}

const test = suite<Context>('admin access')
test.before.each(async (context) => {
  context.clock = new ManualClock()
  context.fixture = await startFixture({ clock: context.clock, timers: context.clock })
  for (const name of ['mine', 'other']) {
    await context.fixture.backend.createVolume({
      name,
      sizeBytes: 4096,
      type: 'block',
      description: ''
    })
  }
})
test.after.each((context) => context.fixture.stop())

async function operationsOf({ socket }: AdminFixture): Promise<Operation[]> {
  const document = (await http(`unix:${socket}:/openapi.json`)).json
  type Methods = Record<string, { operationId: string }>
  return Object.entries(document.paths as Record<string, Methods>).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { operationId }]) => ({
      id: operationId,
      method: method.toUpperCase(),
      path
    }))
  )
}

async function create(
  { socket }: AdminFixture,
  token: Partial<TokenCreate>
): Promise<CreatedToken> {
  const answer = await http(`unix:${socket}:/v1/tokens`, { method: 'POST', body: token })
  equal(answer.status, 201, answer.text)
  return answer.json
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

/** A request of this operation about the volume `name`; what it names otherwise is nowhere. */
const ask = (
  { url }: AdminFixture,
  { method, path }: Operation,
  name: string,
  headers: Readonly<Record<string, string>>
): Promise<HttpAnswer> => {
  const place = path
    .replace('{name}', name)
    .replace('{task}', 'scrub')
    .replace(/\{\w+\}/, '9'.repeat(16))
  const body = method === 'POST' ? { none: 'such field' } : undefined
  return http(`${url}${place}`, { method, headers, ...(body === undefined ? {} : { body }) })
}

test('every operation says whom it is for, as decided here', async ({ fixture }) => {
  const document = (await http(`unix:${fixture.socket}:/openapi.json`)).json
  const said: Record<string, readonly [string, string]> = {}
  for (const { id, method, path } of await operationsOf(fixture)) {
    const operation = document.paths[path][method.toLowerCase()]
    said[id] = [operation['x-torus-role'] ?? 'anyone', operation['x-torus-volume-tokens'] ?? 'no']
    deepEqual(operation.security, said[id]![0] === 'anyone' ? [] : [{ token: [] }], id)
  }
  deepEqual(said, decided)
})

test('every route lets in those for whom it is, and nobody else', async ({ fixture }) => {
  const texts = {
    none: null,
    viewer: (await create(fixture, { role: 'viewer' })).token,
    operator: (await create(fixture, { role: 'operator' })).token,
    admin: (await create(fixture, { role: 'admin' })).token,
    volume: (await create(fixture, { role: 'volume', volume: 'mine' })).token,
    readOnly: (await create(fixture, { role: 'volume', volume: 'mine', readOnly: true })).token
  }
  const order: readonly string[] = ['anyone', 'viewer', 'operator', 'admin']
  const mayPass = (who: keyof typeof texts, operation: Operation, name: string): boolean => {
    const [role, use] = decided[operation.id]!
    if (role === 'anyone') return true
    if (who === 'none') return false
    if (who !== 'volume' && who !== 'readOnly') return order.indexOf(who) >= order.indexOf(role)
    if (use === 'any') return true
    if (name !== 'mine' || use === 'no') return false
    return use === 'see' || who === 'volume'
  }
  for (const operation of await operationsOf(fixture)) {
    for (const [who, token] of Object.entries(texts)) {
      for (const name of ['mine', 'other', 'absent']) {
        const headers = token === null ? {} : bearer(token)
        const { status, text } = await ask(fixture, operation, name, headers)
        const what = `${operation.id} of ${name} by ${who}: ${status} ${text.slice(0, 200)}`
        const passes = mayPass(who as keyof typeof texts, operation, name)
        const refused = who === 'none' ? 401 : 403
        if (passes) ok(status !== 401 && status !== 403 && status !== 429, what)
        else equal(status, refused, what)
      }
    }
  }
})

test('HEAD needs what GET needs', async ({ fixture }) => {
  const { token } = await create(fixture, { role: 'volume', volume: 'mine' })
  const head = async (path: string, headers: Readonly<Record<string, string>>) =>
    (await http(`${fixture.url}${path}`, { method: 'HEAD', headers })).status
  equal(await head('/healthz', {}), 200)
  equal(await head('/v1/volumes/mine', {}), 401)
  equal(await head('/v1/volumes/mine', bearer(token)), 200)
  for (const path of ['/v1/volumes/other', '/v1/volumes/absent', '/v1/tokens', '/v1/status']) {
    equal(await head(path, bearer(token)), 403, path)
  }
})

test('a token of one volume is shown nothing of others', async ({ fixture }) => {
  const { token } = await create(fixture, { role: 'volume', volume: 'mine', readOnly: true })
  const headers = bearer(token)
  const { fakeClient } = await import('../helpers/fake-backend.ts')
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
  const viewer = await create(fixture, { role: 'viewer' })
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
    volume: (await create(fixture, { role: 'volume', volume: 'mine' })).token,
    operator: (await create(fixture, { role: 'operator' })).token
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

test('loopback is open until the first token, and closed for good from then on', async ({
  fixture
}) => {
  const { url, socket } = fixture
  equal((await http(`${url}/v1/volumes`)).status, 200)
  const { id } = await create(fixture, { role: 'viewer' })
  const refused = await http(`${url}/v1/volumes`)
  equal(refused.status, 401)
  equal(refused.headers['www-authenticate'], 'Bearer')
  equal(refused.json.error.code, 'Unauthorized')
  for (const path of ['/healthz', '/readyz']) equal((await http(`${url}${path}`)).status, 200)
  equal((await http(`unix:${socket}:/v1/tokens/${id}`, { method: 'DELETE' })).status, 204)
  equal((await http(`${url}/v1/volumes`)).status, 401)
  equal((await http(`unix:${socket}:/v1/volumes`)).status, 200)
})

test('a token ends when it expires or is revoked, and reads like any wrong one then', async ({
  fixture,
  clock
}) => {
  const short = await create(fixture, { role: 'viewer', expiresInMs: 60_000 })
  const gone = await create(fixture, { role: 'viewer' })
  const status = (token: string) => http(`${fixture.url}/v1/status`, { headers: bearer(token) })
  equal((await status(short.token)).status, 200)
  equal((await status(gone.token)).status, 200)
  await http(`unix:${fixture.socket}:/v1/tokens/${gone.id}`, { method: 'DELETE' })
  const revoked = await status(gone.token)
  equal(revoked.status, 401)
  await clock.advance(60_000)
  const expired = await status(short.token)
  const wrong = await http(`${fixture.url}/v1/status`, { headers: { authorization: 'Basic eDp5' } })
  equal(expired.status, 401)
  // The second failure within its wait.
  deepEqual([wrong.status, wrong.json.error.code], [429, 'Busy'])
  equal(revoked.text, expired.text)
})

test('a long answer ends with the token of who asked', async ({ fixture, clock }) => {
  const { life } = fixture.backend
  const ask = async (token: string) => {
    const sent = new PassThrough()
    sent.write('TORUSVOL')
    life.export = async () => sent
    const answer = http(`${fixture.url}/v1/volumes/mine/export`, { headers: bearer(token) })
    const ended = answer.then(
      ({ text }) => text,
      ({ code }) => code
    )
    while (sent.readableFlowing !== true) await settled()
    return { sent, ended }
  }
  const revoked = await create(fixture, { role: 'volume', volume: 'mine' })
  const short = await create(fixture, { role: 'operator', expiresInMs: 10_000 })
  const kept = await create(fixture, { role: 'operator' })
  const first = await ask(revoked.token)
  const second = await ask(short.token)
  const third = await ask(kept.token)
  await clock.advance(5_000)
  equal(first.sent.destroyed, false)
  await http(`unix:${fixture.socket}:/v1/tokens/${revoked.id}`, { method: 'DELETE' })
  await clock.advance(1_000)
  deepEqual([first.sent.destroyed, second.sent.destroyed], [true, false])
  equal(await first.ended, 'ECONNRESET')
  await clock.advance(5_000)
  deepEqual([second.sent.destroyed, third.sent.destroyed], [true, false])
  equal(await second.ended, 'ECONNRESET')
  third.sent.end()
  equal(await third.ended, 'TORUSVOL')
})

test('guessing slows down by address, and locks no holder of a token out', async ({
  fixture,
  clock
}) => {
  const { token } = await create(fixture, { role: 'viewer' })
  const status = async (text: string) =>
    (await http(`${fixture.url}/v1/status`, { headers: bearer(text) })).status
  equal(await status('torus_x'), 401)
  equal(await status('torus_x'), 429)
  equal(await status(token), 200)
  equal((await http(`${fixture.url}/v1/status`)).status, 401)
  await clock.advance(1100)
  equal(await status('torus_x'), 401)
  await clock.advance(1100)
  equal(await status('torus_x'), 429)
  const text = (await http(`${fixture.url}/metrics`, { headers: bearer(token) })).text
  ok(text.includes('torus_admin_refusals_total{reason="wrong"} 2'), text)
  ok(text.includes('torus_admin_refusals_total{reason="limited"} 2'), text)
  ok(text.includes('torus_admin_refusals_total{reason="missing"} 1'), text)
  ok(text.includes('torus_tokens 1'), text)
})

test('who asks cannot revoke the token that asks', async ({ fixture }) => {
  const { id, token } = await create(fixture, { role: 'admin' })
  const options = { method: 'DELETE', headers: bearer(token) }
  equal((await http(`${fixture.url}/v1/tokens/${id}`, options)).status, 400)
  equal((await http(`${fixture.url}/v1/tokens/${'0'.repeat(16)}`, options)).status, 404)
})

const SEED = Number(process.env['SEED'] ?? 20_260_131)

test(`no text but the token itself opens anything (SEED=${SEED})`, async ({ fixture }) => {
  const { id, token } = await create(fixture, { role: 'admin' })
  const other = await create(fixture, { role: 'viewer' })
  const secret = token.slice(token.lastIndexOf(id) + id.length + 1)
  const near = [
    ...[token.slice(0, -1), `${token}A`, token.slice(1), token.toUpperCase(), `${token}=`],
    ...[`torus_${other.id}_${secret}`, `torus_${'0'.repeat(16)}_${secret}`, `torus_${id}_`],
    ...[`torus_required_${secret}`, `torus___proto___${secret}`, secret, id, ''],
    `torus_${id}_${Buffer.from(secret, 'base64url').toString('base64')}`,
    // The last character has two bits that decode to nothing.
    ...[...'ABCDEFGHIJ'].map((last) => token.slice(0, -1) + last).filter((text) => text !== token)
  ]
  const mutated = fc
    .tuple(fc.nat(token.length - 1), fc.constantFrom(...'ABab01-_'))
    .map(([at, letter]) => token.slice(0, at) + letter + token.slice(at + 1))
    .filter((text) => text !== token)
  const header = fc.oneof(
    fc.constantFrom(...near, `x${token}`).map((text) => `Bearer ${text}`),
    mutated.map((text) => `Bearer ${text}`),
    fc.constantFrom(`Basic ${token}`, token, `Bearer ${token} ${token}`, `Bearer\t${token}`),
    fc.string({ maxLength: 80 }).map((text) => `Bearer ${encodeURIComponent(text)}`),
    fc.nat(9000).map((length) => `Bearer ${'A'.repeat(length)}`)
  )
  await fc.assert(
    fc.asyncProperty(header, async (authorization) => {
      const { status } = await http(`${fixture.url}/v1/tokens`, { headers: { authorization } })
      ok(status === 401 || status === 429, `${authorization}: ${status}`)
    }),
    { seed: SEED, numRuns: 200 }
  )
  const huge = await http(`${fixture.url}/v1/tokens`, { headers: bearer('A'.repeat(17_000)) })
  equal(huge.status, 431)
  equal((await http(`${fixture.url}/v1/tokens`, { headers: bearer(token) })).status, 200)
})

test('the audit log tells who changed what, who was refused, and no secret', async ({
  fixture
}) => {
  const { url, socket } = fixture
  const made = await create(fixture, { role: 'operator', label: 'night shift' })
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
  const headers = bearer((await create(fixture, { role: 'operator' })).token)
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
