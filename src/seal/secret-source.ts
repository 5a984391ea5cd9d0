/** Secrets of key slots, from where people keep them. */
import { open } from 'node:fs/promises'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { outputOf } from './key-command.ts'
import { SECRET_BYTES_MAX, type SecretKind } from './key-slots.ts'
import { takeSecret } from './secret.ts'
import { systemReason } from '../core/system-reason.ts'

/**
 * Reads the secret of a slot of `kind`: `from` is a path, or for `command` what /bin/sh runs. The
 * caller wipes it. One newline at the end of a passphrase, or of what a command printed, is not
 * part of it.
 * @throws StoreError Unavailable naming the file or command and what went wrong
 */
export async function readSecret(kind: SecretKind, from: string): Promise<Buffer> {
  const bytes = kind === 'command' ? await outputOf(from) : await contentOf(kind, from)
  const secret = takeSecret(bytes)
  return kind === 'key-file' ? secret : withoutNewline(secret)
}

function withoutNewline(secret: Buffer): Buffer {
  let end = secret.length
  if (secret[end - 1] === 0x0a) end--
  if (secret[end - 1] === 0x0d) end--
  return secret.subarray(0, end)
}

async function contentOf(kind: SecretKind, path: string): Promise<Buffer> {
  const what = `${kind === 'passphrase' ? 'passphrase' : 'key'} file ${path}`
  try {
    const file = await open(path)
    try {
      const bytes = Buffer.alloc(SECRET_BYTES_MAX + 1)
      // A pipe gives it in pieces, and knows no positions.
      let length = 0
      for (let read = -1; read !== 0 && length < bytes.length; length += read) {
        read = (await file.read(bytes, length, bytes.length - length, null)).bytesRead
      }
      if (length <= SECRET_BYTES_MAX) return bytes.subarray(0, length)
    } finally {
      await file.close()
    }
  } catch (cause) {
    throw new StoreError(ErrorCode.Unavailable, `${what}: ${systemReason(cause)}`, { cause })
  }
  const text = `${what} has more than ${SECRET_BYTES_MAX} bytes`
  throw new StoreError(ErrorCode.InvalidArgument, text)
}
