/** etcd is lost with all its members, and then its backup turns out to be older than the data. */
import { match, strictEqual } from 'node:assert'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import type { WaitingGroups } from '../../src/admin/recovery-schemas.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB, makeImage, Scratch, sha256Of } from '../helpers/images.ts'
import { runOk, until } from '../helpers/process.ts'
import { type TorusServer, torus } from '../helpers/server.ts'

const needs = { programs: ['etcd', 'nbdcopy'] }
const args = ['--segment-size', '4MiB', '--shards', '1']
/** Until a changed group is in the copies that peers keep. */
const COPIED_MS = 1500

/** Peers see it empty for a while, and must not take that for the truth. */
async function loseEtcd({ etcd, peers }: ClusterSite): Promise<void> {
  await etcd.wipe(0)
  etcd.restart(0)
  await etcd.ready()
  const isSeen = ({ logs }: TorusServer): boolean => logs.includes('went back from revision')
  await until(() => peers.some(isSeen), 'peers see that it is empty', 15_000)
  await sleep(COPIED_MS)
  await Promise.all(peers.map((peer) => peer.kill()))
}

async function mustRun(command: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await torus(command)
  strictEqual(code, 0, stderr)
  return stdout
}

testNeeding(needs, 'the metadata of a cluster comes back from its peers, or waits', async () => {
  const scratch = await Scratch.create()
  // Copies on all: with fewer it is chance whether the third has any that it could be taken out of.
  const site = await ClusterSite.start({ argsOf: () => args, redundancy: 'replicated:3' })
  const [first, second, third] = site.peers
  const [url = ''] = site.etcd.endpoints
  const [image, newer] = [scratch.path('image'), scratch.path('newer')]
  const isNewer = async (): Promise<void> => {
    const back = scratch.path('back')
    await runOk('nbdcopy', [first!.uri('v'), back])
    strictEqual(await sha256Of(back), await sha256Of(newer))
  }
  try {
    makeImage(image, 16 * MiB, [[0, 12 * MiB]])
    makeImage(newer, 16 * MiB, [[4 * MiB, 12 * MiB]])
    await first!.createVolume('v', `${16 * MiB}`)
    await runOk('nbdcopy', ['--flush', image, first!.uri('v')])
    const file = scratch.path('backup')
    await first!.json('metadata', 'backup', file)
    await third!.kill()
    await runOk('nbdcopy', ['--flush', newer, first!.uri('v')])
    await sleep(COPIED_MS)
    await loseEtcd(site)
    const directories = site.peers.map((_, at) => join(site.directory, `h${at + 1}`))
    const recover = ['cluster', 'recover', '--from-peers', ...directories, '--etcd', url]
    match(await mustRun([...recover, '--dry-run']), /would restore \d+ keys/)
    const told = await mustRun(recover)
    match(told, /restored \d+ keys of cluster .*start the peers again\n$/)
    await Promise.all(site.peers.map((peer) => peer.start()))
    await isNewer()
    // The groups that the third peer was taken out of are in the backup as they were before.
    await Promise.all(site.peers.map((peer) => peer.kill()))
    await site.etcd.wipe(0)
    site.etcd.restart(0)
    await site.etcd.ready()
    await mustRun(['metadata', 'restore', file, '--etcd', url])
    await Promise.all([first!.start(), second!.start(), third!.start()])
    const waiting = await first!.json<WaitingGroups>('cluster', 'accept-loss', '--dry-run')
    match(waiting.groups[0]!.why, /older than the data: peer .* remembers epoch/)
    const { problems } = await site.status()
    match(JSON.stringify(problems), /torus cluster accept-loss/)
    await mustRun(['cluster', 'accept-loss', '--yes', '--admin', first!.adminUrl])
    await until(
      async () =>
        (await first!.json<WaitingGroups>('cluster', 'accept-loss', '--dry-run')).groups.length ===
        0,
      'nothing waits'
    )
    await isNewer()
  } catch (error) {
    for (const [at, { logs }] of site.peers.entries()) {
      console.log(`--- h${at + 1}\n${logs.slice(-3000)}`)
    }
    throw error
  } finally {
    await site.dispose()
    await scratch.remove()
  }
})

test.run()
