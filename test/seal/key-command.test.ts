/** Commands that print a key: what they print, how they fail, and that nothing of them stays. */
import { rejects, strictEqual } from 'node:assert'
import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import { SECRET_BYTES_MAX } from '../../src/seal/key-slots.ts'
import { outputOf } from '../../src/seal/key-command.ts'
import { Scratch } from '../helpers/images.ts'
import { until } from '../helpers/process.ts'

test('what it prints is the key, byte for byte', async () => {
  strictEqual((await outputOf('printf "a\\nb\\n"; sleep 0.1; printf c')).toString(), 'a\nb\nc')
  const most = await outputOf(`head -c ${SECRET_BYTES_MAX} /dev/zero`)
  strictEqual(most.length, SECRET_BYTES_MAX)
})

test('a failure is told without what it printed', async () => {
  const told = (text: string) => (thrown: Error) =>
    thrown.message.endsWith(text) && !thrown.message.includes('geheim')
  const fails = 'printf "%s" "$(echo Z2VoZWlt | base64 -d)"; echo "no such key" >&2; exit 3'
  await rejects(outputOf(fails), told('failed (code 3): no such key'))
  await rejects(outputOf('kill -9 $$'), told('failed (signal SIGKILL)'))
  const long = `head -c ${SECRET_BYTES_MAX + 1} /dev/zero`
  await rejects(outputOf(`${long}; sleep 60`), told(`(printed over ${SECRET_BYTES_MAX} bytes)`))
  await rejects(outputOf('torus-has-no-such-program'), told('not found'))
})

test('what is not over in time ends with all that it began', async () => {
  const scratch = await Scratch.create()
  const pid = scratch.path('pid')
  const command = `sh -c 'echo $$ > ${pid}; exec sleep 600'; true`
  await rejects(outputOf(command, 500), /failed \(ended after 0\.5 s\)/)
  const started = Number(readFileSync(pid, 'utf8'))
  await until(async () => !runs(started), 'the program that the shell began is gone', 5000)
  await scratch.remove()
})

function runs(pid: number): boolean {
  try {
    // One that nobody waits for any more is no program.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

test.run()
