/** A volume goes back and forth between two gateways, under clients that come back at once. */
import { ok, strictEqual } from 'node:assert'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import { NbdClient } from '../../scripts/torture/nbd-client.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB } from '../helpers/images.ts'

const needs = { programs: ['etcd'] }
const TAKES = 16
const CLIENTS = 4
/** Who is asked and does not let go loses its lease after 5 s. */
const TAKE_MS = 4000

const args = ['--segment-size', '4MiB', '--shards', '1', '--log-level', 'info']

testNeeding(needs, 'clients that come back at once do not keep a volume from moving', async () => {
  const site = await ClusterSite.start({ peers: 2, argsOf: () => args })
  const [first, second] = site.peers
  let isOver = false
  const written = Array<number>(CLIENTS).fill(0)
  const client = async (block: number): Promise<void> => {
    for (let turn = block; !isOver; turn++) {
      const { nbdPort } = site.peers[turn % 2]!
      try {
        for (;;) {
          // Where it was cut off it comes back first.
          const connection = await NbdClient.connect(nbdPort, 'v')
          await writeOn(connection, block).catch(() => {})
          connection.destroy()
          if (isOver) return
        }
      } catch {
        await sleep(2)
      }
    }
  }
  const writeOn = async (connection: NbdClient, block: number): Promise<void> => {
    while (!isOver) {
      const stamp = Buffer.alloc(4096)
      stamp.writeUInt32LE(written[block]! + 1)
      await connection.write(block * 4096, stamp, true)
      written[block]!++
    }
  }
  try {
    await first!.createVolume('v', `${16 * MiB}`)
    const running = Promise.all(written.map((_, block) => client(block)))
    for (let take = 0; take < TAKES; take++) {
      const to = site.peers[take % 2]!
      const startMs = performance.now()
      await to.json('volume', 'take', 'v', '--takeover', '--yes')
      const tookMs = Math.round(performance.now() - startMs)
      ok(tookMs < TAKE_MS, `take ${take} took ${tookMs} ms`)
      await sleep(300)
    }
    isOver = true
    await running
    await second!.json('volume', 'take', 'v', '--takeover', '--yes')
    const last = await NbdClient.connect(second!.nbdPort, 'v')
    for (const [block, count] of written.entries()) {
      const found = (await last.read(block * 4096, 4096)).readUInt32LE()
      ok(count > 0 && (found === count || found === count + 1), `${found} after ${count}`)
    }
    last.destroy()
    const logs = site.peers.map((peer) => peer.logs).join('')
    strictEqual(logs.includes('the lease has ended'), false)
  } finally {
    isOver = true
    await site.dispose()
  }
})

test.run()
