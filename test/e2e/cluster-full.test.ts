/** One peer of a cluster has far less room than its share: it leaves, and writes go on. */
import { match, ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { connectWithin, within } from '../helpers/cluster-load.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB } from '../helpers/images.ts'

const VOLUME_MIB = 160
const WRITE_MS_MAX = 15_000

const fillOf = (at: number): Buffer => Buffer.alloc(MiB, (at % 251) + 1)

testNeeding(
  { programs: ['etcd'] },
  'a peer that is full leaves its groups, and nothing is lost or refused',
  async () => {
    const argsOf = (at: number): string[] => [
      ...['--segment-size', '4MiB', '--shards', '1', '--log-level', 'info'],
      ...['--capacity', at === 1 ? '64MiB' : '2GiB']
    ]
    const site = await ClusterSite.start({ argsOf })
    try {
      const [gateway] = site.peers
      const small = (await site.status()).peers.find(({ labels }) => labels['host'] === 'h2')!
      // As if it had as much as the others: by its capacity it would get next to nothing.
      await gateway!.json('peer', 'set', small.peerId, '--capacity', '2GiB')
      await gateway!.createVolume('v', `${VOLUME_MIB}MiB`)
      const client = await connectWithin(gateway!.nbdPort, 'v', 5000)
      for (let at = 0; at < VOLUME_MIB; at++) {
        const written = client.write(at * MiB, fillOf(at), at % 16 === 15)
        await within(written, WRITE_MS_MAX, `write ${at}`)
      }
      for (let at = 0; at < VOLUME_MIB; at++) {
        const bytes = await within(client.read(at * MiB, MiB), WRITE_MS_MAX, `read ${at}`)
        ok(bytes.equals(fillOf(at)), `MiB ${at} is what was written`)
      }
      const { stdout } = await gateway!.torus(['cluster', 'status'])
      match(stdout, /% full of 64 MiB|fewer copies/)
      await gateway!.json('peer', 'drain', small.peerId)
      await site.untilInSync(0, 40_000)
      const { pools, peers } = await site.status()
      strictEqual(pools[0]!.degraded, 0)
      strictEqual(peers.find(({ peerId }) => peerId === small.peerId)!.groupsInSync, 0)
      client.destroy()
    } catch (error) {
      for (const [at, { logs }] of site.peers.entries()) {
        console.log(`--- h${at + 1}\n${logs.slice(-3000)}`)
      }
      throw error
    } finally {
      await site.dispose()
    }
  }
)

test.run()
