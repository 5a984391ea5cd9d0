/** One peer of a cluster has far less room than its share. */
import { ok, strictEqual } from 'node:assert'
import { test } from 'uvu'
import { connectWithin, within } from '../helpers/cluster-load.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB } from '../helpers/images.ts'
import { until } from '../helpers/process.ts'
import type { TorusServer } from '../helpers/server.ts'

const VOLUME_MIB = 160
const WRITE_MS_MAX = 15_000

const statusText = async (server: TorusServer): Promise<string> =>
  (await server.torus(['cluster', 'status'])).stdout

const fillOf = (at: number): Buffer => Buffer.alloc(MiB, (at % 251) + 1)

testNeeding(
  { programs: ['etcd'] },
  'a full peer leaves and writes go on; drained, every copy is there again',
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
      const readAll = async (): Promise<void> => {
        for (let at = 0; at < VOLUME_MIB; at++) {
          const bytes = await within(client.read(at * MiB, MiB), WRITE_MS_MAX, `read ${at}`)
          ok(bytes.equals(fillOf(at)), `MiB ${at} is what was written`)
        }
      }
      for (let at = 0; at < VOLUME_MIB; at++) {
        const sent = client.write(at * MiB, fillOf(at), at % 16 === 15)
        await within(sent, WRITE_MS_MAX, `write ${at}`)
      }
      await readAll()
      const { pools: fewer } = await site.status()
      ok(fewer[0]!.degraded > 0, 'status counts the groups that it left')
      const full = /fewer copies/
      await until(async () => full.test(await statusText(gateway!)), 'status names it', 15_000)
      await gateway!.json('peer', 'drain', small.peerId)
      await site.untilInSync(0, 40_000)
      await readAll()
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
