/** A volume type from a module that is not part of Torus. */
import { match, notStrictEqual, strictEqual } from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { Scratch } from '../helpers/images.ts'
import { waitForEnd } from '../helpers/process.ts'
import { qemuIo } from '../helpers/qemu.ts'
import { TorusServer } from '../helpers/server.ts'

let scratch: Scratch

test.before(async () => {
  scratch = await Scratch.create()
})

test.after(async () => {
  await scratch?.remove()
})

/** New volumes of this type begin with 4096 bytes of `Z`, and are served as they are. */
const PLUGIN = `
export const torusPlugin = {
  apiVersion: 1,
  name: 'zed',
  volumeTypes: [{
    name: 'zed',
    description: 'begins with Z',
    format: (file) => file.writeAt(0, Buffer.alloc(4096, 0x5a)),
    attach: (device) => device
  }]
}
`

testNeeding({ programs: ['qemu-io'] }, 'a plugin from outside adds a volume type', async () => {
  await writeFile(scratch.path('zed.mjs'), PLUGIN)
  const server = await TorusServer.start({ args: ['--plugin', scratch.path('zed.mjs')] })
  try {
    await server.json('volume', 'create', 'last', '1MiB', '--type', 'zed')
    await qemuIo(server.uri('last'), 'read -P 0x5a 0 4k', 'read -P 0 4k 4k', 'write -P 1 0 4k')
    strictEqual((await server.json<{ type: string }>('volume', 'show', 'last')).type, 'zed')
    const unknown = await server.torus(['volume', 'create', 'other', '1MiB', '--type', 'nobody'])
    strictEqual(unknown.code, 2)
    match(unknown.stderr, /nobody.*known/s)
  } finally {
    await server.dispose()
  }
})

test('a plugin that cannot be loaded stops the start, by its name', async () => {
  const server = await TorusServer.prepare({ args: ['--plugin', scratch.path('missing.mjs')] })
  try {
    const child = server.spawn()
    strictEqual(await waitForEnd(child, 15_000), true)
    notStrictEqual(child.exitCode, 0)
    match(server.logs, /missing\.mjs/)
  } finally {
    await server.dispose()
  }
})

test.run()
