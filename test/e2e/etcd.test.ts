/** A real server with its metadata in a real etcd, which dies and comes back. */
import { deepStrictEqual, doesNotMatch, match, ok, strictEqual } from 'node:assert'
import { cpSync, statSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as nbd from '../../src/nbd/protocol.ts'
import { isDeepStrictEqual } from 'node:util'
import { testNeeding } from '../helpers/environment.ts'
import { EtcdServer } from '../helpers/etcd.ts'
import { KiB, MiB, makeImage, Scratch } from '../helpers/images.ts'
import { NbdWireClient } from '../helpers/nbd-wire-client.ts'
import { runOk, until, waitForEnd } from '../helpers/process.ts'
import { TorusServer, torus } from '../helpers/server.ts'

const needs = { programs: ['etcd', 'nbdcopy'] }
const SIZE = 16 * MiB

interface Site {
  readonly etcd: EtcdServer
  readonly scratch: Scratch
  readonly flags: readonly string[]
}

async function withSite(body: (site: Site) => Promise<void>): Promise<void> {
  const etcd = await EtcdServer.start()
  const scratch = await Scratch.create()
  try {
    await body({ etcd, scratch, flags: ['--etcd', etcd.endpoints.join(',')] })
  } finally {
    await etcd.stop()
    await scratch.remove()
  }
}

testNeeding(
  needs,
  'a peer on etcd serves on while etcd is dead, and after it is back',
  async () => {
    await withSite(async ({ etcd, scratch, flags }) => {
      const first = scratch.path('first')
      makeImage(first, SIZE, [[0, 4 * MiB]])
      const server = await TorusServer.start({ args: [...flags, '--volume', 'v=16MiB'] })
      try {
        const uri = server.uri('v')
        await runOk('nbdcopy', ['--flush', first, uri])
        // One that stays connected: what is open goes on.
        const writer = await NbdWireClient.connect({ port: server.nbdPort })
        await writer.attach('v')
        const write = (byte: number): Promise<number> =>
          writer.errorOf({
            type: nbd.NBD_CMD_WRITE,
            flags: nbd.NBD_CMD_FLAG_FUA,
            offset: byte * MiB,
            payload: Buffer.alloc(64 * KiB, byte)
          })
        strictEqual(await write(5), 0)
        await etcd.kill(0)
        await until(() => server.logs.includes('the metadata does not answer'), 'said so', 15_000)
        strictEqual(await write(6), 0)
        const second = scratch.path('second')
        await runOk('nbdcopy', [server.uri('v'), second])
        strictEqual((await readFile(second))[6 * MiB], 6, 'a client that comes now is served')
        const refused = await server.torus(['volume', 'create', 'w', '1MiB'])
        strictEqual(refused.code, 1)
        match(refused.stderr, /etcd http:.*no connection/)
        match((await server.torus(['status'])).stdout, /metadata has not answered/)
        etcd.restart(0)
        await etcd.ready()
        await until(() => server.logs.includes('the metadata answers again'), 'said so', 15_000)
        await server.createVolume('w', '1MiB')
        strictEqual(await write(7), 0)
        await server.stop()
        await server.start()
        const back = scratch.path('back')
        await runOk('nbdcopy', [uri, back])
        const bytes = await readFile(back)
        const expected = await readFile(first)
        for (const byte of [5, 6, 7]) expected.fill(byte, byte * MiB, byte * MiB + 64 * KiB)
        ok(bytes.equals(expected))
      } finally {
        await server.dispose()
      }
    })
  }
)

/** What a start leaves to do in the background is done: nothing is called for a second. */
async function settled(calls: () => Promise<Map<string, number>>): Promise<Map<string, number>> {
  for (;;) {
    const before = await calls()
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const after = await calls()
    for (const all of [before, after]) all.delete('keepAlive')
    if (isDeepStrictEqual(before, after)) return await calls()
  }
}

testNeeding(needs, 'etcd is not asked for reads and writes of volumes', async () => {
  await withSite(async ({ scratch, flags }) => {
    const image = scratch.path('image')
    makeImage(image, SIZE, [[0, 12 * MiB]])
    const server = await TorusServer.start({ args: [...flags, '--volume', 'v=16MiB'] })
    /** Calls but keepalives, which the clock makes, and by which operation. */
    const calls = async (): Promise<Map<string, number>> => {
      const text = await (await fetch(`${server.adminUrl}/metrics`)).text()
      const rows = text.matchAll(/^torus_metadata_requests_total\{operation="(\w+)"\} (\d+)$/gm)
      return new Map([...rows].map(([, operation = '', count]) => [operation, Number(count)]))
    }
    try {
      const client = await NbdWireClient.connect({ port: server.nbdPort })
      await client.attach('v')
      const write = { type: nbd.NBD_CMD_WRITE, payload: Buffer.alloc(64 * KiB, 1) }
      strictEqual(await client.errorOf(write), 0)
      const before = await settled(calls)
      ok((before.get('keepAlive') ?? 0) < 100)
      for (let step = 0; step < 500; step++) {
        const offset = (step % 100) * 64 * KiB
        const flagsOf = step % 10 === 0 ? nbd.NBD_CMD_FLAG_FUA : 0
        strictEqual(await client.errorOf({ ...write, offset, flags: flagsOf }), 0)
      }
      const after = await calls()
      for (const operation of ['get', 'range', 'transact', 'grantLease']) {
        strictEqual(after.get(operation), before.get(operation), operation)
      }
    } finally {
      await server.dispose()
    }
  })
})

testNeeding(needs, 'a start waits for etcd, in words, and goes on when it comes', async () => {
  await withSite(async ({ etcd, flags }) => {
    const server = await TorusServer.start({ args: [...flags, '--volume', 'v=16MiB'] })
    try {
      await server.stop()
      await etcd.kill(0)
      const child = server.spawn(['--etcd-wait', '1s'])
      ok(await waitForEnd(child, 20_000))
      match(server.logs, new RegExp(`waiting for etcd ${etcd.endpoints[0]}`))
      match(server.logs, /Waited 1 ?s/)
      server.spawn()
      await until(() => server.logs.split('waiting for etcd').length > 2, 'it waits', 15_000)
      etcd.restart(0)
      await server.ready()
      await server.json('volume', 'show', 'v')
    } finally {
      await server.dispose()
    }
  })
})

testNeeding(needs, 'etcd, embedded metadata and other clusters are not mixed up', async () => {
  await withSite(async ({ etcd, flags }) => {
    const one = await TorusServer.start({ args: ['--volume', 'v=16MiB'] })
    const two = await TorusServer.start({ args: flags })
    const three = await TorusServer.prepare()
    const refusal = async (server: TorusServer, args: readonly string[]): Promise<string> => {
      const child = server.spawn(args)
      ok(await waitForEnd(child, 20_000), 'it ends by itself')
      strictEqual(child.exitCode, 1)
      return server.logs.split('\n').slice(-3).join('\n')
    }
    try {
      await one.stop()
      match(await refusal(one, flags), /torus metadata migrate --to etcd/)
      match(await refusal(three, flags), /there is a cluster .* already: add --join/)
      const raw = etcd.client()
      const before = await raw.getAll().prefix('/').keys()
      await raw.put('/foreign/thing').value('1')
      const foreign = [...flags, '--etcd-prefix', '/foreign']
      match(await refusal(three, foreign), /\/foreign\/thing.*choose another --etcd-prefix/)
      strictEqual((await raw.getAll().prefix('/foreign').keys()).length, 1)
      strictEqual(before.length > 0, true)
      await two.stop()
      raw.close()
      await etcd.wipe(0)
      etcd.restart(0)
      await etcd.ready()
      match(await refusal(two, []), /there is no cluster below \/torus\//)
    } finally {
      for (const server of [one, two, three]) await server.dispose()
    }
  })
})

testNeeding(needs, 'a directory that was served from etcd does not start without', async () => {
  await withSite(async ({ etcd, flags }) => {
    const server = await TorusServer.start({ args: flags })
    await server.stop()
    const at = server.dataDir
    const off = ['--nbd-listen', 'off', '--admin-listen', 'off']
    const result = await torus(['serve', '--data-dir', at, ...off])
    strictEqual(result.code, 1)
    match(result.stderr, new RegExp(`--etcd ${etcd.endpoints[0]} --etcd-prefix /torus`))
    await server.dispose()
  })
})

testNeeding(needs, 'a start that is refused leaves the data directory as it was', async () => {
  await withSite(async ({ scratch, flags }) => {
    const first = await TorusServer.start({ args: flags })
    const second = await TorusServer.start({ args: [...flags, '--etcd-prefix', '/second'] })
    try {
      await second.stop()
      const superblock = join(second.dataDir, 'superblock')
      const before = [await readFile(superblock), statSync(superblock).mtimeMs]
      const stray = second.spawn(['--etcd-prefix', '/torus'])
      ok(await waitForEnd(stray, 20_000), second.logs)
      match(second.logs, /data is of cluster .*below \/torus\/ of http:\/\/127.* is of cluster /)
      deepStrictEqual([await readFile(superblock), statSync(superblock).mtimeMs], before)
      const copy = scratch.path('copy')
      cpSync(first.dataDir, copy, { recursive: true, filter: (path) => !path.endsWith('.sock') })
      const twin = await TorusServer.prepare({ dataDir: copy, args: flags })
      const child = twin.spawn()
      ok(await waitForEnd(child, 40_000), twin.logs)
      match(twin.logs, /runs already/)
      doesNotMatch(twin.logs, /MaxListeners/)
      await twin.dispose()
    } finally {
      for (const server of [first, second]) await server.dispose()
    }
  })
})

test.run()
