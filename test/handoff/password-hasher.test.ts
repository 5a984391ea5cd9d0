import { deepStrictEqual, ok, rejects } from 'node:assert'
import { readdirSync, readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { suite } from 'uvu'
import { argon2id } from 'hash-wasm'
import { repositoryRoot } from '../../scripts/repository.ts'
import { ErrorCode, StoreError } from '../../src/core/errors.ts'
import { PasswordHasher } from '../../src/handoff/password-hasher.ts'

const test = suite('password hasher')
const worker = new URL(`../../workers/password-hash${extname(import.meta.url)}`, import.meta.url)
const salt = Buffer.alloc(16, 7)
const MiB = 1024 * 1024

test('a thread hashes, and the main thread does other things meanwhile', async () => {
  const hasher = new PasswordHasher(worker)
  try {
    // The thread is there then.
    await hasher.argon2id(Buffer.from('x'), salt, { opsLimit: 1, memoryBytes: MiB })
    const before = performance.eventLoopUtilization()
    const key = await hasher.argon2id(Buffer.from('secret'), salt, {
      opsLimit: 3,
      memoryBytes: 64 * MiB
    })
    const { active, idle } = performance.eventLoopUtilization(before)
    ok(idle > 10 * active, `${active} ms of ${active + idle} on the main thread`)
    const given = { password: 'secret', salt, iterations: 3, memorySize: 64 * 1024 }
    const same = await argon2id({
      ...given,
      parallelism: 1,
      hashLength: 32,
      outputType: 'binary'
    })
    deepStrictEqual(Buffer.from(key), Buffer.from(same))
  } finally {
    await hasher.close()
  }
})

test('memory that is not there is told, and the next one is hashed', async () => {
  const hasher = new PasswordHasher(worker)
  try {
    const asked = hasher.argon2id(Buffer.from('x'), salt, { opsLimit: 1, memoryBytes: 2 ** 50 })
    await rejects(
      asked,
      (thrown) => thrown instanceof StoreError && thrown.code === ErrorCode.Unavailable
    )
    await hasher.argon2id(Buffer.from('x'), salt, { opsLimit: 1, memoryBytes: MiB })
  } finally {
    await hasher.close()
  }
})

test('nothing but that thread computes Argon2id', () => {
  const sources = ['src', 'workers'].flatMap((folder) =>
    readdirSync(join(repositoryRoot, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => `${folder}/${name}`)
  )
  const callers = sources.filter((path) =>
    /\.crypto_pwhash\(|from 'hash-wasm'/.test(readFileSync(join(repositoryRoot, path), 'utf8'))
  )
  deepStrictEqual(callers, ['workers/password-hash.ts'])
})

test.run()
