import { deepEqual, equal, ok } from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { setImmediate as settled } from 'node:timers/promises'
import fc from 'fast-check'
import { suite } from 'uvu'
import type { Role, VolumeUse } from '../../src/admin/access.ts'
import { type AdminFixture, type HttpAnswer, http } from '../helpers/admin.ts'
import { bearer, createToken, type TwoVolumes, withTwoVolumes } from '../helpers/admin-tokens.ts'

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

const test = suite<TwoVolumes>('admin access')
test.before.each(withTwoVolumes)
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
    viewer: (await createToken(fixture, { role: 'viewer' })).token,
    operator: (await createToken(fixture, { role: 'operator' })).token,
    admin: (await createToken(fixture, { role: 'admin' })).token,
    volume: (await createToken(fixture, { role: 'volume', volume: 'mine' })).token,
    readOnly: (await createToken(fixture, { role: 'volume', volume: 'mine', readOnly: true })).token
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
  const { token } = await createToken(fixture, { role: 'volume', volume: 'mine' })
  const head = async (path: string, headers: Readonly<Record<string, string>>) =>
    (await http(`${fixture.url}${path}`, { method: 'HEAD', headers })).status
  equal(await head('/healthz', {}), 200)
  equal(await head('/v1/volumes/mine', {}), 401)
  equal(await head('/v1/volumes/mine', bearer(token)), 200)
  for (const path of ['/v1/volumes/other', '/v1/volumes/absent', '/v1/tokens', '/v1/status']) {
    equal(await head(path, bearer(token)), 403, path)
  }
})

test('loopback is open until the first token, and closed for good from then on', async ({
  fixture
}) => {
  const { url, socket } = fixture
  equal((await http(`${url}/v1/volumes`)).status, 200)
  const { id } = await createToken(fixture, { role: 'viewer' })
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
  const short = await createToken(fixture, { role: 'viewer', expiresInMs: 60_000 })
  const gone = await createToken(fixture, { role: 'viewer' })
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
  const revoked = await createToken(fixture, { role: 'volume', volume: 'mine' })
  const short = await createToken(fixture, { role: 'operator', expiresInMs: 10_000 })
  const kept = await createToken(fixture, { role: 'operator' })
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
  const { token } = await createToken(fixture, { role: 'viewer' })
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
  const { id, token } = await createToken(fixture, { role: 'admin' })
  const options = { method: 'DELETE', headers: bearer(token) }
  equal((await http(`${fixture.url}/v1/tokens/${id}`, options)).status, 400)
  equal((await http(`${fixture.url}/v1/tokens/${'0'.repeat(16)}`, options)).status, 404)
})

const SEED = Number(process.env['SEED'] ?? 20_260_131)

test(`no text but the token itself opens anything (SEED=${SEED})`, async ({ fixture }) => {
  const { id, token } = await createToken(fixture, { role: 'admin' })
  const other = await createToken(fixture, { role: 'viewer' })
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

test.run()
