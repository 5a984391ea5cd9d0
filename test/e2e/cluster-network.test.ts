/** Links to peers break, those to etcd hang, its leader dies, a disk is slow: all under load. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { ClusterLoad } from '../helpers/cluster-load.ts'
import { ETCD } from '../helpers/cluster-network.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { DiskFault } from '../helpers/faulty-disk.ts'
import { MiB, Scratch } from '../helpers/images.ts'

const VOLUME_BYTES = 32 * MiB
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
/** A member is given up a second after its link broke. */
const MEMBER_LOST_MS = 9000
/** Nothing that a client asks for needs etcd, or the other way round. */
const UNDISTURBED_MS = 4000
/** Each of the slow disk's calls is waited for, some five for an answer: 30 to 60 ms for one. */
const SLOW_DISK_MS = 100
const SLOW_ANSWERS = 50

const args = ['--segment-size', '4MiB', '--shards', '1', '--log-level', 'info']

async function faults(site: ClusterSite, load: ClusterLoad, disk: DiskFault): Promise<void> {
  const { network, etcd } = site
  const leader = await etcd.leader()
  await etcd.kill(leader)
  network.set(0, ETCD, { kind: 'hold', from: 'both' })
  for (let times = 0; times < 3; times++) await load.goesOn(UNDISTURBED_MS)
  etcd.restart(leader)
  network.heal()

  network.setAround(2, { kind: 'cut' })
  for (let times = 0; times < 3; times++) await load.goesOn(MEMBER_LOST_MS)
  network.heal()
  await site.untilInSync()

  disk.set({ delayMs: SLOW_DISK_MS })
  await load.goesOn(MEMBER_LOST_MS, SLOW_ANSWERS)
  disk.set({})
  await load.goesOn(MEMBER_LOST_MS)
}

testNeeding(
  { programs: ['etcd'] },
  `etcd's leader, cut links, and a slow disk delay a load at most (SEED=${seed})`,
  async () => {
    const scratch = await Scratch.create()
    const disk = new DiskFault(scratch.path('disk.json'))
    const site = await ClusterSite.start({
      ...{ etcdMembers: 3, withNetwork: true, argsOf: () => args, nodeArgs: disk.nodeArgs },
      envOf: (at) => (at === 1 ? disk.env : {})
    })
    try {
      await site.peers[0]!.createVolume('v', `${VOLUME_BYTES}`)
      const load = new ClusterLoad('v', VOLUME_BYTES, seed)
      load.begin(site.peers[0]!.nbdPort)
      await load.goesOn(10_000, 500)
      await faults(site, load, disk)
      await site.untilInSync()
      await load.stop()
      await load.verifyAt(site.peers[0]!.nbdPort)
      const { health, problems, peers } = await site.status()
      strictEqual(health, 'ok', JSON.stringify(problems))
      ok(peers.every(({ resync }) => resync?.groupsLeft === 0))
    } catch (error) {
      for (const [at, { logs }] of site.peers.entries()) {
        console.log(`--- h${at + 1}\n${logs.slice(-4000)}`)
      }
      throw error
    } finally {
      await site.dispose()
      await scratch.remove()
    }
  }
)

test.run()
