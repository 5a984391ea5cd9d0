/** Backup stores: a directory and S3 answer alike, and say in words what is wrong. */
import { deepStrictEqual, ok, rejects, strictEqual, throws } from 'node:assert'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { DirectoryStore } from '../../src/backup/directory-store.ts'
import { S3Store } from '../../src/backup/s3-store.ts'
import { type BackupStore, openStore } from '../../src/backup/store.ts'
import { ErrorCode } from '../../src/core/errors.ts'
import { type FakeS3, s3Credentials, startFakeS3 } from '../helpers/fake-s3.ts'
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

const storeOf = ({ endpoint }: Pick<FakeS3, 'endpoint'>, more: object = {}): S3Store =>
  new S3Store({
    ...{ endpoint, region: 'eu-central-1', bucket: 'bucket', prefix: 'my backups/one' },
    ...{ credentials: s3Credentials, retryMs: 5, ...more }
  })

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
    s3.failures.push(503, 500, 429)
    await store.put('a', Buffer.from('1'))
    s3.failures.push(503, 503, 503, 503, 503)
    await rejects(store.get('a'), /cannot read a: it is SlowDown & so on/)
    const wrong = { ...s3Credentials, secretAccessKey: 'no' }
    const forbidden = storeOf(s3, { credentials: wrong }).get('a')
    await rejects(forbidden, failsWith(ErrorCode.Forbidden))
    await rejects(storeOf(s3, { bucket: 'other' }).get('a'), /NoSuchBucket/)
    await s3.close()
    await rejects(store.get('a'), /does not answer: ECONNREFUSED/)
  }))

test('a place is a directory or a bucket, and credentials come from the environment', () => {
  strictEqual(openStore('/x/y', {}, {}).name, '/x/y')
  throws(() => openStore('s3://b/p', {}, {}), failsWith(ErrorCode.Forbidden))
  throws(() => openStore('ftp://b/p', {}, {}), failsWith(ErrorCode.InvalidArgument))
  const env = { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' }
  strictEqual(openStore('s3://b/p/', {}, env).name, 's3://b/p')
  strictEqual(openStore('s3://b', {}, env).name, 's3://b/')
  throws(() => openStore('s3://b', { endpoint: 'no' }, env), failsWith(ErrorCode.InvalidArgument))
})

test.run()
