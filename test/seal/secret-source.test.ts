import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { deepStrictEqual } from 'node:assert/strict'
import { test } from 'uvu'
import { readSecret } from '../../src/seal/secret-source.ts'
import { Scratch } from '../helpers/images.ts'

test('a key file may be a pipe that gives it in pieces', async () => {
  const scratch = await Scratch.create()
  const pipe = scratch.path('pipe')
  execFileSync('mkfifo', [pipe])
  const script = '{ printf abc; sleep 0.2; printf "def\\n"; } > "$0"'
  for (const kind of ['key-file', 'passphrase'] as const) {
    const writer = spawn('/bin/sh', ['-c', script, pipe], { stdio: 'ignore' })
    const ended = once(writer, 'exit')
    const secret = await readSecret(kind, pipe)
    deepStrictEqual(secret.toString(), kind === 'key-file' ? 'abcdef\n' : 'abcdef')
    await ended
  }
  await scratch.remove()
})

test.run()
