/** Computes Argon2id in a thread of its own. Started by PasswordHasher. */
import { argon2id } from 'hash-wasm'
import type { PasswordHashTask } from '../src/handoff/password-hasher.ts'
import { secretBuffer } from '../src/seal/secret.ts'
import { sodium } from '../src/seal/sodium.ts'

/** The result goes to `task.key`; the password is zeroed. */
export default async function hashPassword(task: PasswordHashTask): Promise<void> {
  const { opsLimit, memoryBytes } = task
  const shared = Buffer.from(task.secret)
  const password = Buffer.from(shared)
  shared.fill(0)
  const salt = Buffer.from(task.salt)
  const output = Buffer.from(task.key)
  if (sodium === null) {
    const key = await argon2id({
      password,
      salt,
      iterations: opsLimit,
      memorySize: memoryBytes / 1024,
      parallelism: 1,
      hashLength: output.length,
      outputType: 'binary'
    })
    output.set(key)
    key.fill(0)
  } else {
    const key = secretBuffer(output.length)
    const algorithm = sodium.crypto_pwhash_ALG_ARGON2ID13
    sodium.crypto_pwhash(key, password, salt, opsLimit, memoryBytes, algorithm)
    output.set(key)
    key.fill(0)
  }
  password.fill(0)
}
