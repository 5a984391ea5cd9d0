import { equal, match, ok } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { withoutSecrets } from '../../src/admin/bundle.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { type AdminFixture, http, startFixture } from '../helpers/admin.ts'

const test = suite<{ fixture: AdminFixture }>('debug bundle')
test.before.each(async (context) => {
  context.fixture = await startFixture()
})
test.after.each((context) => context.fixture.stop())

/** Unpacks with the system's tar, which knows the format better than we do. */
async function unpack(url: string): Promise<Record<string, string>> {
  const answer = await http(`${url}/v1/debug/bundle`)
  equal(answer.status, 200)
  match(String(answer.headers['content-disposition']), /torus-debug-\d{8}T\d{6}\.tar\.gz/)
  const folder = mkdtempSync(join(tmpdir(), 'torus-bundle-'))
  try {
    const archive = join(folder, 'b.tar.gz')
    writeFileSync(archive, answer.bytes)
    const tar = spawnSync('tar', ['xzf', archive, '-C', folder, '--strip-components=1'])
    equal(tar.status, 0, String(tar.stderr))
    const names = readdirSync(folder).filter((name) => name !== 'b.tar.gz')
    return Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name), 'utf8')]))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('the bundle has logs, configuration, metrics and state', async ({ fixture }) => {
  fixture.ring.push('{"level":"info","msg":"hello from the ring"}')
  const files = await unpack(fixture.url)
  const names = ['clients', 'config', 'status', 'system', 'volumes'].map((name) => `${name}.json`)
  for (const name of names) JSON.parse(files[name]!)
  ok(files['log.ndjson']!.includes('hello from the ring'))
  ok(files['metrics.txt']!.includes('torus_build_info'))
})

test('a part that fails leaves the others whole', async ({ fixture }) => {
  fixture.backend.failure = new StoreError(ErrorCode.Closed, 'shutting down')
  const files = await unpack(fixture.url)
  match(files['status.json']!, /not available: .*shutting down/)
  JSON.parse(files['config.json']!)
})

test('secrets that slipped into a log do not leave in a bundle', async ({ fixture }) => {
  const pem = '-----BEGIN PRIVATE KEY-----\nMIIBVQ\n-----END PRIVATE KEY-----'
  fixture.ring.push(JSON.stringify({ msg: `cannot reach https://root:hunter2@etcd:2379/` }))
  fixture.ring.push(JSON.stringify({ headers: 'Authorization: Bearer abc.def-ghi', pem }))
  fixture.ring.push('{"passphrase":"correct horse","token": "t0k3n"} password=swordfish')
  const token = `torus_${'0a'.repeat(8)}_${'Zz9-_'.repeat(8)}abc`
  fixture.ring.push(JSON.stringify({ url: `/v1/volumes?x=${token}` }))
  const log = (await unpack(fixture.url))['log.ndjson']!
  for (const secret of [
    'Zz9',
    'hunter2',
    'abc.def',
    'MIIBVQ',
    'correct horse',
    't0k3n',
    'swordfish'
  ]) {
    ok(!log.includes(secret), `${secret} in ${log}`)
  }
  ok(log.includes('etcd:2379'))
})

test('what is no secret stays', () => {
  const text = '{"msg":"tokens are fine","url":"http://127.0.0.1:4321/","volume":"secretive"}'
  equal(withoutSecrets(text), text)
})

test('the environment is not in the bundle', async ({ fixture }) => {
  process.env['TORUS_BUNDLE_PROBE'] = 'environment-value'
  const files = await unpack(fixture.url)
  Reflect.deleteProperty(process.env, 'TORUS_BUNDLE_PROBE')
  for (const [name, text] of Object.entries(files)) ok(!text.includes('environment-value'), name)
})

test.run()
