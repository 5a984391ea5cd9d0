/** Argon2id in a thread of its own, found in sources and in dist/. */
import { extname } from 'node:path'
import { PasswordHasher } from '../handoff/password-hasher.ts'

const worker = new URL(`../../workers/password-hash${extname(import.meta.url)}`, import.meta.url)

export const newPasswordHasher = (): PasswordHasher => new PasswordHasher(worker)
