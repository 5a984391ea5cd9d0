/** Backup stores: a directory and S3 answer alike, and say in words what is wrong. */
import { deepStrictEqual, ok, rejects, strictEqual, throws } from 'node:assert'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { DirectoryStore } from '../../src/backup/directory-store.ts'
import { S3Client, type S3Place } from '../../src/backup/s3-client.ts'
import { S3Profile } from '../../src/backup/s3-credentials.ts'
import { S3Store } from '../../src/backup/s3-store.ts'
import { type BackupStore, openStore } from '../../src/backup/store.ts'
import { ErrorCode, type StoreError } from '../../src/core/errors.ts'
import { type Fault, type FakeS3, s3Credentials, startFakeS3 } from '../helpers/fake-s3.ts'
import { makeCertificates } from '../helpers/certificates.ts'
import { Scratch } from '../helpers/images.ts'
import { failsWith } from '../helpers/volume-bench.ts'

async function withDirectory(work: (path: string) => Promise<void>): Promise<void> {
  const path = mkdtempSync(join(tmpdir(), 'torus-store-'))
  try {
    await work(path)
  } finally {
    rmSync(path, { recursive: true, force: true })
  }
}

async function withS3(work: (s3: FakeS3, store: S3Store) => Promise<void>): Promise<void> {
  const s3 = await startFakeS3()
  try {
    await work(s3, storeOf(s3))
  } finally {
    await s3.close()
  }
}

const placeOf = ({ endpoint }: Pick<FakeS3, 'endpoint'>, more: Partial<S3Place> = {}): S3Place => ({
  ...{ endpoint, region: 'eu-central-1', bucket: 'bucket', prefix: 'my backups/one' },
  ...{ credentials: () => s3Credentials, retryMs: 1, addressing: null, ca: null, ...more }
})

const storeOf = (s3: Pick<FakeS3, 'endpoint'>, more: Partial<S3Place> = {}): S3Store =>
  new S3Store(placeOf(s3, more))

async function keysOf(store: BackupStore, prefix: string): Promise<string[]> {
  const keys: string[] = []
  for await (const { key, bytes, modifiedMs } of store.list(prefix)) {
    strictEqual(bytes, key.length)
    ok(modifiedMs > 1e12)
    keys.push(key)
  }
  return keys.sort()
}

async function contract(store: BackupStore): Promise<void> {
  strictEqual(await store.get('a/b'), null)
  deepStrictEqual(await keysOf(store, 'a/'), [])
  const keys = ['a/b', 'a/c/d.1', 'a/c/e', 'ab/f', 'a/c/é g&h', 'a/i', 'a/j', 'b']
  for (const key of keys) await store.put(key, Buffer.alloc(key.length, key[0]))
  deepStrictEqual(await keysOf(store, ''), [...keys].sort())
  deepStrictEqual(await keysOf(store, 'a/'), keys.filter((key) => key.startsWith('a/')).sort())
  deepStrictEqual(await keysOf(store, 'a/c/'), ['a/c/d.1', 'a/c/e', 'a/c/é g&h'].sort())
  deepStrictEqual(await store.get('a/c/é g&h'), Buffer.alloc(9, 'a'))
  await store.put('b', Buffer.from('x'))
  await store.put('b', Buffer.from('x'))
  deepStrictEqual(await store.get('b'), Buffer.from('x'))
  strictEqual(await store.putIfAbsent('b', Buffer.from('y')), false)
  strictEqual(await store.putIfAbsent('k', Buffer.from('y')), true)
  deepStrictEqual(
    [await store.get('b'), await store.get('k')],
    [Buffer.from('x'), Buffer.from('y')]
  )
  await store.delete('b')
  await store.delete('b')
  strictEqual(await store.get('b'), null)
}

test('a directory is a store, and leaves nothing unfinished', () =>
  withDirectory(async (path) => {
    await contract(new DirectoryStore(join(path, 'new', 'store')))
    const names = readdirSync(join(path, 'new', 'store'), { recursive: true }) as string[]
    deepStrictEqual(
      names.filter((name) => name.endsWith('.part')),
      []
    )
    writeFileSync(join(path, 'file'), '')
    const inFile = new DirectoryStore(join(path, 'file'))
    await rejects(inFile.put('a', Buffer.alloc(1)), failsWith(ErrorCode.DiskFailure))
  }))

test('a directory is made in one that is there, and is no file', () =>
  withDirectory(async (path) => {
    const nowhere = new DirectoryStore(join(path, 'unmounted', 'backups'))
    await rejects(nowhere.prepare(), {
      message: /unmounted .* is its disk mounted/
    })
    writeFileSync(join(path, 'file'), '')
    const file = new DirectoryStore(join(path, 'file'))
    await rejects(file.prepare(), { message: /is a file/ })
    await new DirectoryStore(join(path, 'new')).prepare()
  }))

test('S3 is a store, with signed requests and lists in pieces', () =>
  withS3(async ({ objects }, store) => {
    await contract(store)
    ok([...objects.keys()].every((key) => key.startsWith('my backups/one/')))
  }))

test('what S3 fails for a while is tried again, and told in words when it stays so', () =>
  withS3(async (s3, store) => {
    s3.failures.push(503, 500, 429, { status: 400, code: 'RequestTimeout' })
    s3.failures.push({ status: 409, code: 'OperationAborted' })
    s3.failures.push({ status: 503, code: 'SlowDown', headers: { 'retry-after': '0' } })
    await store.put('a', Buffer.from('1'))
    s3.failures.push({ status: 200, body: '1', cut: true }, { status: 503, cut: true })
    deepStrictEqual(await store.get('a'), Buffer.from('1'))
    strictEqual(s3.requests.length, 10)
    s3.failures.push(...Array.from({ length: 8 }, () => 503))
    await rejects(store.get('a'), /cannot read a: it is SlowDown & so on \(SlowDown\), for half/)
    const told = async (fault: Fault, code: ErrorCode, text: RegExp): Promise<void> => {
      s3.failures.push(fault)
      const put = store.put('b', Buffer.from('1'))
      await rejects(put, (thrown: StoreError) => thrown.code === code && text.test(thrown.message))
    }
    const { Forbidden, OutOfSpace, Unavailable } = ErrorCode
    await told({ status: 403, code: 'AccessDenied' }, Forbidden, /it is AccessDenied/)
    await told({ status: 403, code: 'InvalidObjectState' }, Unavailable, /is archived/)
    await told({ status: 507, code: 'XMinioStorageFull' }, OutOfSpace, /the store is full/)
    await told({ status: 400, body: '<html>no' }, Unavailable, /HTTP status 400/)
    const wrong = { ...s3Credentials, secretAccessKey: 'no' }
    const forbidden = storeOf(s3, { credentials: () => wrong }).get('a')
    await rejects(forbidden, /see the access key and its secret/)
    await rejects(storeOf(s3, { bucket: 'other' }).get('a'), /there is no bucket other at http:/)
    await s3.close()
    await rejects(store.get('a'), /does not answer: ECONNREFUSED/)
  }))

test('a store of another region, with another clock, or with new tokens is followed', () =>
  withS3(async (s3, store) => {
    await store.put('a', Buffer.from('1'))
    s3.region = 'ap-south-1'
    s3.aheadMs = 3_600_000
    const many = await Promise.all(['a', 'a', 'a'].map((key) => store.get(key)))
    deepStrictEqual(many, Array(3).fill(Buffer.from('1')))
    const asked = s3.requests.length
    await store.get('a')
    strictEqual(s3.requests.length, asked + 1)
    let sessionToken = 'old'
    const renewed = storeOf(s3, { credentials: () => ({ ...s3Credentials, sessionToken }) })
    s3.sessionToken = 'new'
    await rejects(renewed.get('a'), /get a new session token/)
    sessionToken = 'new'
    deepStrictEqual(await renewed.get('a'), Buffer.from('1'))
    s3.failures.push({ status: 307, headers: { location: 'https://elsewhere.example/bucket/a' } })
    await rejects(renewed.get('a'), /sends requests on to https:.*give that as --s3-endpoint/)
  }))

test('what is no list, or a list that is cut off, is never taken for an empty store', () =>
  withS3(async (s3, store) => {
    await store.put('a', Buffer.from('a'))
    const contents = '<Contents><Key>my backups/one/a</Key><Size>1</Size></Contents>'
    for (const body of [
      '<html>a portal</html>',
      '',
      '<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>',
      '<ListBucketResult><IsTruncated>false</IsTruncated>',
      '<ListBucketResult></ListBucketResult>',
      `<ListBucketResult><IsTruncated>false</IsTruncated>${contents}</ListBucketResult>`
    ]) {
      s3.failures.push({ status: 200, body })
      await rejects(keysOf(store, ''), /is no list of objects/, body)
    }
    deepStrictEqual(await keysOf(store, ''), ['a'])
  }))

test('conditions that S3 does not know, or loses a race for, are no error', () =>
  withS3(async (s3, store) => {
    s3.isOld = true
    strictEqual(await store.putIfAbsent('a', Buffer.from('1')), true)
    s3.isOld = false
    const seen = s3.intercept
    s3.failures.push(404, { status: 409, code: 'ConditionalRequestConflict' })
    strictEqual(await store.putIfAbsent('a', Buffer.from('2')), false)
    strictEqual(s3.intercept, seen)
    deepStrictEqual(await store.get('a'), Buffer.from('1'))
  }))

test('S3 behind a certificate of our own', async () => {
  const scratch = await Scratch.create()
  const { ca, serverCert, serverKey } = await makeCertificates(scratch)
  const s3 = await startFakeS3({ key: readFileSync(serverKey), cert: readFileSync(serverCert) })
  try {
    await rejects(storeOf(s3).get('a'), /whom to trust says --s3-ca/)
    strictEqual(await storeOf(s3, { ca: readFileSync(ca) }).get('a'), null)
  } finally {
    await s3.close()
    await scratch.remove()
  }
})

test('the bucket stands before the host for AWS, and in the path elsewhere', () => {
  const origin = (more: Partial<S3Place>): string =>
    new S3Client(placeOf({ endpoint: 'http://minio:9000' }, more)).origin
  strictEqual(origin({}), 'http://minio:9000')
  strictEqual(origin({ addressing: 'virtual' }), 'http://bucket.minio:9000')
  const aws = { endpoint: null, region: 'eu-west-3' }
  strictEqual(origin(aws), 'https://bucket.s3.eu-west-3.amazonaws.com')
  strictEqual(origin({ ...aws, bucket: 'a.b' }), 'https://s3.eu-west-3.amazonaws.com')
  strictEqual(
    origin({ ...aws, region: 'cn-north-1' }),
    'https://bucket.s3.cn-north-1.amazonaws.com.cn'
  )
})

test('a place is a directory or a bucket, with what the tools of AWS know', () =>
  withDirectory(async (path) => {
    strictEqual(openStore('/x/y', {}, {}).name, '/x/y')
    const files = {
      AWS_SHARED_CREDENTIALS_FILE: join(path, 'keys'),
      AWS_CONFIG_FILE: join(path, 'config')
    }
    throws(() => openStore('s3://b/p', {}, files), failsWith(ErrorCode.Forbidden))
    throws(() => openStore('ftp://b/p', {}, files), failsWith(ErrorCode.InvalidArgument))
    const env = { ...files, AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' }
    strictEqual(openStore('s3://b/p/', {}, env).name, 's3://b/p')
    strictEqual(openStore('s3://b', {}, env).name, 's3://b/')
    for (const bad of [
      { endpoint: 'no' },
      { endpoint: 'b:9000' },
      { addressing: 'x' },
      { ca: path }
    ]) {
      throws(() => openStore('s3://b', bad, env), failsWith(ErrorCode.InvalidArgument))
    }
    writeFileSync(
      join(path, 'keys'),
      '[default]\naws_access_key_id = d\naws_secret_access_key = e\n' +
        '[other]\n# note\naws_access_key_id=f\naws_secret_access_key= g=\naws_session_token=h\n'
    )
    writeFileSync(join(path, 'config'), '[profile other]\nregion = r1\ns3 =\n  region = no\n')
    const keys = (profile: string | undefined, more: object = {}) =>
      new S3Profile({ ...files, ...more }, profile).credentials()
    deepStrictEqual(keys(undefined), {
      ...{ accessKeyId: 'd', secretAccessKey: 'e', sessionToken: null }
    })
    const other = { accessKeyId: 'f', secretAccessKey: 'g=', sessionToken: 'h' }
    deepStrictEqual(keys('other', env), other)
    deepStrictEqual(keys(undefined, { AWS_PROFILE: 'other' }), other)
    strictEqual(keys(undefined, env).accessKeyId, 'a')
    throws(() => keys('third'), /profile "third" of .* has none/)
    const profile = new S3Profile(files, 'other')
    deepStrictEqual(
      [profile.setting('region', 'AWS_REGION'), profile.setting('ca_bundle')],
      ['r1', '']
    )
  }))

test.run()
