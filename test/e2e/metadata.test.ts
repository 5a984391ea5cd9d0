/** Metadata that is moved, lost and restored, under the data of real servers. */
import { match, ok, strictEqual } from 'node:assert'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { EtcdServer } from '../helpers/etcd.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { runOk, until, waitForEnd } from '../helpers/process.ts'
import { TorusServer, torus } from '../helpers/server.ts'

const needs = { programs: ['etcd', 'nbdcopy'] }

async function refusedStart(server: TorusServer, args: readonly string[]): Promise<string> {
  const child = server.spawn(args)
  ok(await waitForEnd(child, 20_000), 'it ends by itself')
  strictEqual(child.exitCode, 1)
  return server.logs.split('\n').slice(-3).join('\n')
}

const mustRun = async (args: readonly string[]): Promise<string> => {
  const { code, stdout, stderr } = await torus(args)
  strictEqual(code, 0, stderr)
  return stdout
}

testNeeding(needs, 'a machine that outgrew itself moves its metadata to etcd', async () => {
  const scratch = await Scratch.create()
  const etcd = await EtcdServer.start()
  const server = await TorusServer.start({ args: ['--volume', 'v=16MiB'] })
  const [url = ''] = etcd.endpoints
  const migrate = ['metadata', 'migrate', '--to', 'etcd', '--data-dir', server.dataDir]
  try {
    const image = scratch.path('image')
    makeImage(image, 16 * MiB, [[0, 3 * MiB]])
    await runOk('nbdcopy', ['--flush', image, server.uri('v')])
    for (const what of [
      ['ring', 'show'],
      ['pool', 'show', 'default']
    ]) {
      const { code, stderr } = await torus(['--admin', server.adminUrl, ...what])
      strictEqual(code, 1)
      match(stderr, /no pool "default": this peer has embedded metadata.*metadata migrate/)
    }
    const running = await torus([...migrate, '--etcd', url])
    strictEqual(running.code, 1)
    match(running.stderr, /in use by another process/)
    await server.stop()
    const raw = etcd.client()
    await raw.put('/torus/else').value('1')
    const foreign = await torus([...migrate, '--etcd', url])
    strictEqual(foreign.code, 1)
    match(foreign.stderr, /choose another --etcd-prefix/)
    await raw.delete().all()
    raw.close()
    match(await mustRun([...migrate, '--etcd', url]), /moved \d+ keys.*serve it with --etcd/)
    match(await mustRun([...migrate, '--etcd', url]), /moved/)
    ok(existsSync(join(server.dataDir, 'metadata.migrated')))
    match(await refusedStart(server, []), new RegExp(`torus serve .*--etcd ${url}`))
    await server.start(['--etcd', url])
    const back = scratch.path('back')
    await runOk('nbdcopy', [server.uri('v'), back])
    strictEqual(await sha256Of(back), await sha256Of(image))
    await runOk('nbdcopy', ['--flush', image, server.uri('v')])
  } finally {
    await server.dispose()
    await etcd.stop()
    await scratch.remove()
  }
})

testNeeding(needs, 'nobody joins what was moved before the peer that has the data', async () => {
  const scratch = await Scratch.create()
  const etcd = await EtcdServer.start()
  const server = await TorusServer.start({ args: ['--volume', 'v=16MiB'] })
  const other = await TorusServer.prepare({ args: ['--etcd', etcd.endpoints[0]!] })
  const [url = ''] = etcd.endpoints
  try {
    const image = scratch.path('image')
    makeImage(image, 16 * MiB, [[0, 3 * MiB]])
    await runOk('nbdcopy', ['--flush', image, server.uri('v')])
    await server.stop()
    const migrate = ['metadata', 'migrate', '--to', 'etcd', '--data-dir', server.dataDir]
    await mustRun([...migrate, '--etcd', url])
    for (const args of [['--join'], []]) {
      match(await refusedStart(other, args), /peer \w+ was there first.*start it before any other/)
    }
    await server.start(['--etcd', url, '--join'])
    await other.start(['--join'])
    const back = scratch.path('back')
    await runOk('nbdcopy', [server.uri('v'), back])
    strictEqual(await sha256Of(back), await sha256Of(image))
    const { peers } = await server.json<{ peers: { groupsInSync: number }[] }>('cluster', 'status')
    strictEqual(peers.length, 2)
    strictEqual(server.logs.includes('failed too') || other.logs.includes('failed too'), false)
  } finally {
    await other.dispose()
    await server.dispose()
    await etcd.stop()
    await scratch.remove()
  }
})

testNeeding(needs, 'what was written after snapshots that a copy lacks stays', async () => {
  const scratch = await Scratch.create()
  const etcd = await EtcdServer.start()
  const [url = ''] = etcd.endpoints
  const server = await TorusServer.start({ args: ['--etcd', url, '--volume', 'v=16MiB'] })
  const write = async (name: string, fromMiB: number): Promise<string> => {
    const image = scratch.path(name)
    makeImage(image, 16 * MiB, [[fromMiB * MiB, 3 * MiB]])
    await runOk('nbdcopy', ['--flush', image, server.uri('v')])
    return await sha256Of(image)
  }
  const read = async (name: string): Promise<string> => {
    await runOk('nbdcopy', [server.uri(name), scratch.path('back')])
    return await sha256Of(scratch.path('back'))
  }
  try {
    const first = await write('first', 1)
    await server.json('snapshot', 'create', 'v@first')
    const file = scratch.path('backup')
    await server.json('metadata', 'backup', file)
    await write('second', 3)
    await server.json('snapshot', 'create', 'v@lost')
    const third = await write('third', 6)
    await server.stop()
    await mustRun(['metadata', 'restore', file, '--etcd', url, '--force', '--yes'])
    await server.start()
    strictEqual(await read('v'), third)
    await server.json('snapshot', 'create', 'v@new')
    strictEqual(await read('v'), third)
    const fourth = await write('fourth', 9)
    strictEqual(await read('v'), fourth)
    strictEqual(await read('v@new'), third)
    strictEqual(await read('v@first'), first)
    await server.json('volume', 'delete', 'v', '--now', '--force', '--yes')
  } finally {
    await server.dispose()
    await etcd.stop()
    await scratch.remove()
  }
})

testNeeding(needs, 'an etcd that was lost with all its members is restored', async () => {
  const scratch = await Scratch.create()
  const etcd = await EtcdServer.start()
  const [url = ''] = etcd.endpoints
  const server = await TorusServer.start({ args: ['--etcd', url, '--volume', 'v=16MiB'] })
  try {
    const image = scratch.path('image')
    makeImage(image, 16 * MiB, [[1 * MiB, 3 * MiB]])
    await runOk('nbdcopy', ['--flush', image, server.uri('v')])
    const file = scratch.path('backup')
    const told = await server.json<{ keys: number }>('metadata', 'backup', file)
    ok(told.keys >= 5)
    match((await server.torus(['metadata', 'backup', file])).stderr, /exists/)
    const copy = join(server.dataDir, 'metadata-copy')
    await until(() => existsSync(copy), 'the peer keeps a copy')
    strictEqual((await readFile(copy)).length > 100, true)
    await etcd.wipe(0)
    etcd.restart(0)
    await etcd.ready()
    await until(() => server.logs.includes('went back from revision'), 'it is noticed', 15_000)
    await server.stop()
    match(await refusedStart(server, []), /torus metadata restore/)
    for (const source of [file, copy]) {
      const restore = ['metadata', 'restore', source, '--etcd', url]
      const again = source === copy
      if (again) match((await torus(restore)).stderr, /--force replaces it/)
      // The lease of the run before may have to end first.
      await until(
        async () => {
          const { code, stderr } = await torus([...restore, ...(again ? ['--force', '--yes'] : [])])
          if (code !== 0) match(stderr, /a peer lives on this metadata/)
          return code === 0
        },
        'restored',
        20_000
      )
      await server.start()
      const back = scratch.path(`back-${again}`)
      await runOk('nbdcopy', [server.uri('v'), back])
      strictEqual(await sha256Of(back), await sha256Of(image))
      await runOk('nbdcopy', ['--flush', image, server.uri('v')])
      await server.stop()
    }
  } finally {
    await server.dispose()
    await etcd.stop()
    await scratch.remove()
  }
})

test('embedded metadata is restored into its own data directory alone', async () => {
  const scratch = await Scratch.create()
  const server = await TorusServer.start({ args: ['--volume', 'v=16MiB'] })
  const other = await TorusServer.start()
  try {
    const file = scratch.path('backup')
    await server.json('metadata', 'backup', file)
    await server.json('volume', 'delete', 'v', '--now', '--yes')
    await server.stop()
    await other.stop()
    const into = (dir: string, ...flags: string[]) =>
      torus(['metadata', 'restore', file, '--data-dir', dir, ...flags])
    match((await into(server.dataDir)).stderr, /--force moves it aside/)
    match((await into(other.dataDir, '--force', '--yes')).stderr, /is of cluster .* and not of/)
    strictEqual((await into(server.dataDir, '--force', '--yes')).code, 0)
    await server.start()
    const volumes = await server.json<{ name: string }[]>('volume', 'list')
    strictEqual(volumes.map(({ name }) => name).join(), 'v')
  } finally {
    await server.dispose()
    await other.dispose()
    await scratch.remove()
  }
})

test.run()
