/** A cluster from nothing: made by hand, joined, refused, with peers let in. */
import { match, ok, strictEqual } from 'node:assert'
import { existsSync, statSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { test } from 'uvu'
import { testNeeding } from '../helpers/environment.ts'
import { EtcdServer } from '../helpers/etcd.ts'
import { Scratch } from '../helpers/images.ts'
import { findFreePorts, until, waitForEnd } from '../helpers/process.ts'
import { TorusServer, torus } from '../helpers/server.ts'

const needs = { programs: ['etcd'] }

interface Listed {
  readonly peerId: string
  readonly state: string
}

testNeeding(needs, 'init makes a cluster once, and a refusal changes nothing', async () => {
  const etcd = await EtcdServer.start()
  const scratch = await Scratch.create()
  const server = await TorusServer.prepare()
  try {
    const secret = scratch.path('secret')
    const place = ['--etcd', etcd.endpoints.join(',')]
    const init = (...args: string[]) => torus(['cluster', 'init', ...place, ...args])
    const made = await init('--cluster-secret-file', secret)
    strictEqual(made.code, 0, made.stderr)
    match(made.stdout, /made cluster [0-9a-f]{32} below \/torus\//)
    match(made.stdout, /torus serve --data-dir DIR --etcd http:.*--join/)
    strictEqual(statSync(secret).mode & 0o777, 0o600)
    match(await readFile(secret, 'utf8'), /^[0-9a-f]{64}\n$/)

    const raw = etcd.client()
    const before = JSON.stringify(await raw.getAll().prefix('/').strings())
    const other = scratch.path('other')
    const twice = await init('--cluster-secret-file', other)
    strictEqual(twice.code, 1)
    match(twice.stderr, /keys below \/torus\/ already.*choose another --etcd-prefix/)
    ok(!existsSync(other))
    await writeFile(other, 'mine')
    const taken = await init('--etcd-prefix', '/second', '--cluster-secret-file', other)
    match(taken.stderr, /secret file .*other: exists already/)
    strictEqual(await readFile(other, 'utf8'), 'mine')
    strictEqual(JSON.stringify(await raw.getAll().prefix('/').strings()), before)
    await raw.put('/foreign/key').value('theirs')
    raw.close()
    for (const how of [[], ['--join']]) {
      const beside = server.spawn([...place, ...how, '--etcd-prefix', '/foreign'])
      ok(await waitForEnd(beside, 20_000))
      match(server.logs, /keys below \/foreign\/ are not of this cluster \(\/foreign\/key\)/)
      ok(!existsSync(server.dataDir))
    }

    const child = server.spawn(place)
    ok(await waitForEnd(child, 20_000))
    match(server.logs, /there is a cluster .* already: add --join/)
    ok(!existsSync(server.dataDir))
    const lost = server.spawn([...place, '--join', '--etcd-prefix', '/nowhere'])
    ok(await waitForEnd(lost, 20_000))
    match(server.logs, /there is no cluster .*torus cluster init/)
  } finally {
    await server.dispose()
    await etcd.stop()
    await scratch.remove()
  }
})

testNeeding(
  needs,
  'where it is asked for, a peer waits until it is let in by another',
  async () => {
    const etcd = await EtcdServer.start()
    const place = ['--etcd', etcd.endpoints.join(',')]
    const first = await TorusServer.start({ args: [...place, '--label', 'host=h1'] })
    const second = await TorusServer.prepare({ args: [...place, '--join', '--label', 'host=h2'] })
    try {
      await first.json('cluster', 'settings', 'join-policy=approve')
      await second.start()
      const states = async (): Promise<string[]> => {
        const peers = await first.json<Listed[]>('peer', 'list')
        return peers.map(({ state }) => state).sort()
      }
      await until(async () => (await states()).join() === 'active,pending', 'the second is known')
      match((await first.torus(['cluster', 'status'])).stdout, /waits to be let in/)
      const peers = await second.json<Listed[]>('peer', 'list')
      const { peerId } = peers.find(({ state }) => state === 'pending')!
      const itself = await second.torus(['peer', 'add', peerId])
      strictEqual(itself.code, 1)
      match(itself.stderr, /not part of the cluster yet: let it in on another one/)
      await first.json('peer', 'add', peerId)
      await until(async () => (await states()).join() === 'active,active', 'the second is let in')
      await first.json('pool', 'set', 'default', '--redundancy', 'replicated:2')
    } finally {
      for (const server of [first, second]) await server.dispose()
      await etcd.stop()
    }
  }
)

testNeeding(needs, 'a peer with another secret is told so, and is not in the cluster', async () => {
  const etcd = await EtcdServer.start()
  const scratch = await Scratch.create()
  const place = ['--etcd', etcd.endpoints.join(',')]
  const [right, wrong, none] = [scratch.path('right'), scratch.path('wrong'), '']
  const ports = await findFreePorts(2)
  const argsOf = (secret: string, port = 0): string[] => [
    ...[...place, '--join', '--peer-listen', `127.0.0.1:${ports[port]}`],
    ...(secret === none ? [] : ['--cluster-secret-file', secret])
  ]
  await torus(['cluster', 'init', ...place, '--cluster-secret-file', right])
  await writeFile(wrong, `${'w'.repeat(64)}\n`)
  const first = await TorusServer.start({ args: argsOf(right) })
  const second = await TorusServer.prepare({ args: argsOf(right, 1) })
  const raw = etcd.client()
  const keys = async (): Promise<string[]> => await raw.getAll().prefix('/torus/v1/peers/').keys()
  const refused = async (server: TorusServer, args: string[]): Promise<string> => {
    const child = server.spawn(args)
    ok(await waitForEnd(child, 20_000), server.logs)
    strictEqual(child.exitCode, 1)
    return server.logs
  }
  try {
    const before = (await keys()).join()
    const alike = /cluster below \/torus\/ use another secret: --cluster-secret-file .*wrong/
    match(await refused(second, argsOf(wrong, 1)), alike)
    ok(!existsSync(second.dataDir))
    strictEqual((await keys()).join(), before)

    // A rotation: no one is refused who has one line in common with the others.
    const secret = await readFile(right, 'utf8')
    await second.start()
    await second.stop()
    match(await refused(second, argsOf(wrong, 1)), alike)
    const both = scratch.path('both')
    await writeFile(both, `${secret}${'n'.repeat(40)}\n`)
    await second.start(argsOf(both, 1))
    await second.stop()
    // As in a file that was changed by mistake: what it was is kept, and told.
    await writeFile(right, `${'x'.repeat(64)}\n`)
    const isTold = async () =>
      /peer: .*use another secret/.test((await first.torus(['status'])).stdout)
    await until(isTold, 'the change is refused', 20_000)
    await writeFile(right, `${'n'.repeat(40)}\n`)
    await until(async () => !(await isTold()), 'the new one is taken', 20_000)
    match(await refused(second, argsOf(wrong, 1)), alike)

    const change = ['cluster', 'secret', ...place, '--cluster-secret-file', wrong]
    match((await torus(change)).stderr, /peers of the cluster run/)
    await first.stop()
    strictEqual((await torus(change)).code, 0)
    match(await refused(first, argsOf(right)), /another secret: --cluster-secret-file .*right/)
    // A cluster of an older version has no such record: who starts first says which it is.
    await raw.delete().key('/torus/v1/secret')
    await second.start(argsOf(wrong, 1))
    match(await refused(first, argsOf(right)), /another secret/)
  } finally {
    raw.close()
    for (const server of [first, second]) await server.dispose()
    await etcd.stop()
    await scratch.remove()
  }
})

test.run()
