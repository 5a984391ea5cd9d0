/** Members of a replicated volume die, pause and come back under a load that checks every read. */
import { ok, strictEqual } from 'node:assert'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import { ClusterLoad } from '../helpers/cluster-load.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB } from '../helpers/images.ts'
import { until } from '../helpers/process.ts'

const needs = { programs: ['etcd'] }
const VOLUME_BYTES = 32 * MiB
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
/** A request to a member has a deadline of 5 s; then it is removed and the write goes on. */
const MEMBER_LOST_MS = 9000
/** Of a lease, after which a peer is known to be away. */
const TTL_MS = 10_000

const args = ['--segment-size', '4MiB', '--shards', '1', '--log-level', 'info']
const hasty = [...args, '--shutdown-timeout', '2s']

async function withLoad(
  body: (site: ClusterSite, load: ClusterLoad) => Promise<void>
): Promise<void> {
  const site = await ClusterSite.start({ argsOf: () => args })
  try {
    const gateway = site.peers[0]!
    await gateway.createVolume('v', `${VOLUME_BYTES}`)
    const load = new ClusterLoad('v', VOLUME_BYTES, seed)
    load.begin(gateway.nbdPort)
    await load.goesOn(10_000, 500)
    await body(site, load)
  } catch (error) {
    for (const [at, { logs }] of site.peers.entries()) {
      console.log(`--- h${at + 1}\n${logs.slice(-4000)}`)
    }
    throw error
  } finally {
    await site.dispose()
  }
}

testNeeding(
  needs,
  `a member that dies and one that pauses delay writes, lose none, and catch up (SEED=${seed})`,
  async () => {
    await withLoad(async (site, load) => {
      const [gateway, second, third] = site.peers
      await second!.kill()
      await load.goesOn(MEMBER_LOST_MS)
      await sleep(1000) // written while it is away
      await second!.start()
      await site.untilInSync()
      third!.signal('SIGSTOP')
      await load.goesOn(MEMBER_LOST_MS)
      third!.signal('SIGCONT')
      await load.goesOn(5000)
      await site.untilInSync()
      await load.stop()
      await load.verifyAt(gateway!.nbdPort)
      const { health, problems } = await site.status()
      strictEqual(health, 'ok', JSON.stringify(problems))
    })
  }
)

testNeeding(
  needs,
  `etcd may be dead for longer than a lease while nothing else fails (SEED=${seed})`,
  async () => {
    await withLoad(async (site, load) => {
      await site.etcd.kill(0)
      const deadUntilMs = performance.now() + TTL_MS + 2000
      while (performance.now() < deadUntilMs) await load.goesOn(2000, 50)
      site.etcd.restart(0)
      await site.etcd.ready()
      await load.goesOn(5000)
      await site.untilInSync()
      await load.stop()
      // Another peer serves it when the first one has no clients left.
      await load.verifyAt(site.peers[1]!.nbdPort, TTL_MS + 5000)
      ok(load.counts.writes > 500)
    })
  }
)

testNeeding(
  needs,
  'an orderly end waits only so long for requests that wait for members',
  async () => {
    const site = await ClusterSite.start({ argsOf: () => hasty, redundancy: 'replicated:3' })
    try {
      const [gateway, second, third] = site.peers
      await gateway!.createVolume('v', `${VOLUME_BYTES}`)
      const load = new ClusterLoad('v', VOLUME_BYTES, seed)
      load.begin(gateway!.nbdPort)
      await load.goesOn(10_000, 500)
      await Promise.all([second!.kill(), third!.kill()])
      await sleep(2000) // both are needed for a write
      strictEqual(await gateway!.stop(15_000), 0)
      await load.breaks(1000)
      await Promise.all([gateway!.start(), second!.start(), third!.start()])
      await load.verifyAt(second!.nbdPort, TTL_MS + 10_000)
      await site.untilInSync()
    } finally {
      await site.dispose()
    }
  }
)

testNeeding(
  needs,
  'a peer that is removed while it runs ends, and others serve its volumes',
  async () => {
    const site = await ClusterSite.start({ argsOf: () => hasty })
    try {
      const [gateway, second] = site.peers
      await gateway!.createVolume('v', `${VOLUME_BYTES}`)
      const { peerId } = await gateway!.json<{ peerId: string }>('peer', 'show')
      const load = new ClusterLoad('v', VOLUME_BYTES, seed)
      load.begin(gateway!.nbdPort)
      await load.goesOn(10_000)
      await second!.json('peer', 'drain', peerId)
      const isEmpty = async (): Promise<boolean> =>
        (await site.status(1)).peers.every(
          (peer) => peer.peerId !== peerId || peer.groupsInSync === 0
        )
      await until(isEmpty, 'the peer has nothing left', 30_000)
      await load.goesOn(10_000)
      await second!.json('peer', 'remove', peerId, '--yes')
      await load.breaks(10_000)
      await until(() => !gateway!.running, 'it ends', 10_000)
      await load.verifyAt(second!.nbdPort)
    } finally {
      await site.dispose()
    }
  }
)

test.run()
