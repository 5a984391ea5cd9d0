import { deepEqual, equal, match, ok, rejects } from 'node:assert/strict'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { httpStatusOf } from '../../src/admin/errors.ts'
import { startAdmin } from '../../src/admin/server.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { LogRing, silentLog } from '../../src/core/log.ts'
import { type AdminFixture, http, makeSecurity, startFixture } from '../helpers/admin.ts'
import { FakeBackend, fakeClient, fakeShard } from '../helpers/fake-backend.ts'

const GIB = 1024 ** 3
const test = suite<{ fixture: AdminFixture }>('admin server')
test.before.each(async (context) => {
  context.fixture = await startFixture()
})
test.after.each(async (context) => {
  await context.fixture.stop()
})

test('a volume is created, shown, renamed, resized and deleted, over both transports', async ({
  fixture
}) => {
  const { url, socket } = fixture
  for (const base of [url, `unix:${socket}:`]) {
    const body = { name: 'demo', sizeBytes: GIB }
    const created = await http(`${base}/v1/volumes`, { method: 'POST', body })
    equal(created.status, 201, created.text)
    equal(created.json.type, 'block')
    equal((await http(`${base}/v1/volumes/demo`)).json.sizeBytes, GIB)
    const rename = { method: 'POST', body: { newName: 'other' } }
    equal((await http(`${base}/v1/volumes/demo/rename`, rename)).json.name, 'other')
    const resize = { method: 'POST', body: { sizeBytes: 2 * GIB } }
    equal((await http(`${base}/v1/volumes/other/resize`, resize)).json.sizeBytes, 2 * GIB)
    const list = (await http(`${base}/v1/volumes`)).json.volumes
    deepEqual(
      list.map(({ name }: { name: string }) => name),
      ['other']
    )
    const deleted = await http(`${base}/v1/volumes/other`, { method: 'DELETE' })
    equal(deleted.status, 200)
    equal(deleted.json.name, 'other')
    equal((await http(`${base}/v1/volumes/other`)).status, 404)
  }
})

test('a name may hold anything that percent-encoding can carry', async ({ fixture }) => {
  const name = `ä/?#%${'x'.repeat(100)}`
  await fixture.backend.createVolume({ name, sizeBytes: 4096, type: 'block', description: '' })
  const answer = await http(`${fixture.url}/v1/volumes/${encodeURIComponent(name)}`)
  equal(answer.json?.name, name, answer.text)
})

test('a bad request is refused with the field, and changes nothing', async ({ fixture }) => {
  const bodies: [unknown, RegExp][] = [
    [{ sizeBytes: 4096 }, /name: /],
    [{ name: '', sizeBytes: 4096 }, /^name "": must not be empty/],
    [{ name: 'x'.repeat(129), sizeBytes: 4096 }, /^name "x+": .*128/],
    [{ name: 'a' }, /sizeBytes: /],
    [{ name: 'a', sizeBytes: 0 }, /^sizeBytes 0: must be .*4KiB to 4PiB$/],
    [{ name: 'a', sizeBytes: -4096 }, /^sizeBytes -4096: /],
    [{ name: 'a', sizeBytes: 4097 }, /^sizeBytes 4097: .*4096/],
    [{ name: 'a', sizeBytes: 2 ** 60 }, /^sizeBytes \d+: .*4PiB/],
    [{ name: 'a', sizeBytes: '1GiB' }, /^sizeBytes "1GiB": /],
    [{ name: 'a', sizeBytes: 4096, extra: 1 }, /extra/],
    [[], /expected/i],
    ['text', /expected/i],
    [null, /name: |expected/i]
  ]
  for (const [body, pattern] of bodies) {
    const answer = await http(`${fixture.url}/v1/volumes`, { method: 'POST', body })
    equal(answer.status, 400, JSON.stringify(body))
    equal(answer.json.error.code, 'InvalidArgument')
    match(answer.json.error.message, pattern)
  }
  equal(fixture.backend.volumesByName.size, 0)
})

test('a shrink must be asked for, and a volume with clients is deleted only by force', async ({
  fixture
}) => {
  const { backend, url } = fixture
  const volume = await backend.createVolume({
    name: 'demo',
    sizeBytes: GIB,
    type: 'block',
    description: ''
  })
  backend.volumesByName.set('demo', { ...volume, clients: 2 })
  const smaller = { sizeBytes: 4096 }
  const path = `${url}/v1/volumes/demo`
  equal((await http(`${path}/resize`, { method: 'POST', body: smaller })).status, 400)
  const asked = { ...smaller, shrink: true }
  equal((await http(`${path}/resize`, { method: 'POST', body: asked })).status, 200)
  const refused = await http(path, { method: 'DELETE' })
  equal(refused.status, 409)
  equal(refused.json.error.code, 'Busy')
  equal((await http(`${path}?force=maybe`, { method: 'DELETE' })).status, 400)
  equal((await http(`${path}?force=true`, { method: 'DELETE' })).status, 200)
})

test('every error code has a status, and its name and message reach the client', async ({
  fixture
}) => {
  for (const [name, code] of Object.entries(ErrorCode)) {
    if (code === ErrorCode.Ok) continue
    ok(httpStatusOf[code] >= 400 && httpStatusOf[code] < 600, name)
    fixture.backend.failure = new StoreError(code, `because of ${name}`)
    const answer = await http(`${fixture.url}/v1/status`)
    equal(answer.status, httpStatusOf[code])
    deepEqual(answer.json, { error: { code: name, message: `because of ${name}` } })
  }
})

test('a bug behind the API is answered without its insides', async ({ fixture }) => {
  fixture.backend.failure = new TypeError('secret insides')
  const answer = await http(`${fixture.url}/v1/status`)
  equal(answer.status, 500)
  equal(answer.json.error.code, 'Internal')
  ok(!answer.text.includes('insides'))
})

test('unknown paths and methods are told apart', async ({ fixture }) => {
  const unknown = await http(`${fixture.url}/v1/nothing`)
  equal(unknown.status, 404)
  equal(unknown.json.error.code, 'NotFound')
  const wrong = await http(`${fixture.url}/v1/volumes/demo`, { method: 'PUT' })
  equal(wrong.status, 405)
  equal(wrong.headers['allow'], 'GET, DELETE, POST')
  equal((await http(`${fixture.url}/v1/tasks/dance`)).status, 400)
  equal((await http(`${fixture.url}/v1/clients/x`, { method: 'DELETE' })).status, 400)
})

test('bodies that are too large, not JSON or of another type are refused', async ({ fixture }) => {
  const large = { name: 'a'.repeat(100_000), sizeBytes: 4096 }
  const path = `${fixture.url}/v1/volumes`
  equal((await http(path, { method: 'POST', body: large })).status, 413)
  const headers = { 'content-type': 'text/plain' }
  const other = await http(path, { method: 'POST', body: {}, headers })
  equal(other.status, 415)
  match(other.json.error.message, /must be JSON.*"content-type: application\/json"/)
  const none = await rawRequest(
    fixture.url,
    `POST /v1/volumes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n` +
      `content-length: 2\r\n\r\n{}`
  )
  match(none, /^HTTP\/1\.1 415.*"content-type: application\/json/s)
  // Nobody waits for eight megabytes where only names and numbers come in.
  const bytes = await rawRequest(
    fixture.url,
    `POST /v1/volumes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n` +
      `content-type: Application/Octet-Stream\r\ncontent-length: 8000000\r\n\r\n{}`
  )
  match(bytes, /^HTTP\/1\.1 400.*"content-type: application\/json/s)
  const proto = '{"__proto__": {"x": 1}, "name": "a", "sizeBytes": 4096}'
  const raw = await rawRequest(
    fixture.url,
    `POST /v1/volumes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n` +
      `content-type: application/json\r\ncontent-length: ${proto.length}\r\n\r\n${proto}`
  )
  match(raw, /^HTTP\/1\.1 400/)
})

test('clients are listed and disconnected', async ({ fixture }) => {
  fixture.backend.clients.push(fakeClient(1, 'demo'), fakeClient(2, 'demo'))
  equal((await http(`${fixture.url}/v1/clients`)).json.clients.length, 2)
  equal((await http(`${fixture.url}/v1/clients/2`, { method: 'DELETE' })).status, 204)
  deepEqual(fixture.backend.calls, ['disconnect 2'])
  equal((await http(`${fixture.url}/v1/clients/2`, { method: 'DELETE' })).status, 404)
})

test('tasks are started, watched and stopped', async ({ fixture }) => {
  const { backend, url } = fixture
  backend.shardList = [
    fakeShard(0, { scrubActive: 1, scrubBytesTotal: 100, scrubBytesDone: 40, scrubErrors: 1 }),
    fakeShard(1, { scrubBytesTotal: 100, scrubBytesDone: 100, scrubRounds: 2 })
  ]
  const started = await http(`${url}/v1/tasks/scrub/start`, { method: 'POST' })
  equal(started.status, 202)
  const { active, bytesTotal, bytesDone, errors, completed } = started.json
  deepEqual([active, bytesTotal, bytesDone, errors, completed], [true, 200, 140, 1, 2])
  equal((await http(`${url}/v1/tasks/scrub`)).json.shards[1].active, false)
  equal((await http(`${url}/v1/tasks/scrub/stop`, { method: 'POST' })).status, 200)
  deepEqual(backend.calls, ['start scrub', 'stop scrub'])
})

test('a checkpoint is over when every shard has written one since', async ({ fixture }) => {
  const { backend, url } = fixture
  backend.shardList = [fakeShard(0, { appendedLsn: 10 }), fakeShard(1, { appendedLsn: 5 })]
  const active = async () => (await http(`${url}/v1/tasks/checkpoint`)).json.active
  equal(await active(), false)
  await http(`${url}/v1/tasks/checkpoint/start`, { method: 'POST' })
  equal(await active(), true)
  backend.shardList = [fakeShard(0, { appendedLsn: 10, checkpointLsn: 10 }), backend.shards()[1]!]
  equal(await active(), true)
  backend.shardList = [backend.shards()[0]!, fakeShard(1, { appendedLsn: 7, checkpoints: 1 })]
  equal(await active(), false)
})

test('health is about the process, readiness about its clients', async ({ fixture }) => {
  equal((await http(`${fixture.url}/healthz`)).json.status, 'ok')
  equal((await http(`${fixture.url}/readyz`)).status, 200)
  fixture.backend.readyAnswer = { ready: false, reasons: ['shard 1 is recovering'] }
  const answer = await http(`${fixture.url}/readyz`)
  equal(answer.status, 503)
  deepEqual(answer.json.reasons, ['shard 1 is recovering'])
  equal((await http(`${fixture.url}/healthz`, { method: 'HEAD' })).status, 200)
})

test('the configuration is listed with its sources', async ({ fixture }) => {
  const { entries } = (await http(`${fixture.url}/v1/config`)).json
  const dataDir = entries.find(({ name }: { name: string }) => name === 'data-dir')
  deepEqual([dataDir.value, dataDir.source], [fixture.folder, 'flag --data-dir'])
})

test('pages of other sites are refused on TCP, whatever way they take', async ({ fixture }) => {
  const { url, socket } = fixture
  const port = new URL(url).port
  const status = async (headers: Record<string, string>) =>
    (await http(`${url}/v1/status`, { headers })).status
  equal(await status({ host: `evil.example:${port}` }), 403)
  equal(await status({ origin: 'https://evil.example' }), 403)
  equal(await status({ origin: 'null' }), 403)
  equal(await status({ 'sec-fetch-site': 'cross-site' }), 403)
  equal(await status({ host: `localhost:${port}` }), 200)
  equal(await status({ host: `127.0.0.1:${port}`, origin: `http://127.0.0.1:${port}` }), 200)
  equal(await status({ host: `[::1]:${port}` }), 200)
  const unix = await http(`unix:${socket}:/v1/status`, { headers: { host: 'anything' } })
  equal(unix.status, 200)
})

test('the socket belongs to its owner alone', ({ fixture }) => {
  equal(statSync(fixture.socket).mode & 0o777, 0o600)
})

test('a client that sends nothing or nonsense disturbs nobody', async ({ fixture }) => {
  const silent = connect(Number(new URL(fixture.url).port), '127.0.0.1')
  silent.on('error', () => {})
  match(await rawRequest(fixture.url, 'NBDMAGIC\0\0\0\r\n\r\n'), /^HTTP\/1\.1 400/)
  const headers = { 'x-long': 'y'.repeat(20_000) }
  equal((await http(`${fixture.url}/healthz`, { headers })).status, 431)
  equal((await http(`${fixture.url}/healthz`)).status, 200)
  silent.destroy()
})

test('a socket left by a killed process is replaced, one in use or a file is not', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'torus-admin-'))
  const security = await makeSecurity(folder)
  const log = silentLog()
  const common = { ...security, log, ring: new LogRing(1), configEntries: [], listen: null }
  const start = (socket: string) =>
    startAdmin({ ...common, backend: new FakeBackend(), socket, processMetrics: false })
  const stale = join(folder, 'stale.sock')
  const holder = createServer().listen(stale)
  await new Promise((resolve) => holder.once('listening', resolve))
  await rejects(start(stale), /in use by another process/)
  // Node removes the name when it closes a listener; a killed process does not, so a name stays.
  const file = join(folder, 'file')
  writeFileSync(file, '')
  await rejects(start(file), /is not a socket/)
  await new Promise((resolve) => holder.close(resolve))
  const left = await leaveSocket(folder)
  const server = await start(left)
  equal((await http(`unix:${left}:/healthz`)).status, 200)
  await server.stop()
  rmSync(folder, { recursive: true })
})

test('a port in use is told by its name', async ({ fixture }) => {
  const port = Number(new URL(fixture.url).port)
  const { tokens, audit } = fixture
  const options = {
    tokens,
    audit,
    backend: new FakeBackend(),
    log: silentLog(),
    ring: new LogRing(1),
    configEntries: [],
    listen: { host: '127.0.0.1', port },
    socket: null,
    processMetrics: false
  }
  await rejects(startAdmin(options), new RegExp(`127.0.0.1:${port} is in use`))
})

/** A socket file that nobody listens on: made by a process that was killed. */
async function leaveSocket(folder: string): Promise<string> {
  const { spawn } = await import('node:child_process')
  const path = join(folder, 'left.sock')
  const script = `require('net').createServer().listen(${JSON.stringify(path)},()=>console.log(1))`
  const child = spawn(process.execPath, ['-e', script])
  await new Promise((resolve) => child.stdout.once('data', resolve))
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('close', resolve))
  return path
}

function rawRequest(url: string, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1', () => socket.write(text))
    let answer = ''
    socket.on('data', (part) => {
      answer += part
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(answer))
    socket.setTimeout(5000, () => socket.destroy())
  })
}

test.run()
