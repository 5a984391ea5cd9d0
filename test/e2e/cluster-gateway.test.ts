/**
 * The gateway of a replicated volume dies, the first time while groups are split, or pauses;
 * another peer takes the volume over.
 */
import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { createHash } from 'node:crypto'
import { test } from 'uvu'
import { NbdClient } from '../../scripts/torture/nbd-client.ts'
import { ClusterLoad, connectWithin, within } from '../helpers/cluster-load.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB } from '../helpers/images.ts'
import { until } from '../helpers/process.ts'
import type { TorusServer } from '../helpers/server.ts'

const needs = { programs: ['etcd'] }
const VOLUME_BYTES = 16 * MiB
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
const TTL_MS = 10_000
/** The promise is a lease and a second; a machine with two cores and all of this on it is slow. */
const TAKEOVER_MS = TTL_MS + 5000

const args = ['--segment-size', '4MiB', '--shards', '1', '--log-level', 'info']

testNeeding(
  needs,
  `a volume outlives its gateways: killed, ended in order, paused (SEED=${seed})`,
  async () => {
    const site = await ClusterSite.start({ argsOf: () => args })
    try {
      await rounds(site)
    } catch (error) {
      for (const [at, { logs }] of site.peers.entries()) {
        console.log(`--- h${at + 1}\n${logs.slice(-4000)}`)
      }
      throw error
    } finally {
      await site.dispose()
    }
  }
)

async function rounds(site: ClusterSite): Promise<void> {
  const [first, second, third] = site.peers
  await first!.createVolume('v', `${VOLUME_BYTES}`)
  const load = new ClusterLoad('v', VOLUME_BYTES, seed)
  const takenOver = (block: number, stamp: number): string =>
    load.model.checkTakenOver(block, stamp)

  load.begin(first!.nbdPort)
  await load.goesOn(10_000, 500)
  await first!.json('snapshot', 'create', 'v@then')
  const then = await digestOf(first!, 'v@then')
  // On a fast machine some or all of them are split by the time that it is dead.
  const groups = await splitGroups(first!)
  await first!.kill()
  await load.breaks(5000)
  const next = await connectWithin(second!.nbdPort, 'v', TAKEOVER_MS)
  await load.verify(next, takenOver)
  next.destroy()
  strictEqual(await digestOf(second!, 'v@then'), then, 'a snapshot outlives its gateway')
  const isSplit = async (): Promise<boolean> => {
    const pool = await poolOf(second!)
    return pool.groups === groups && pool.splitting === null
  }
  await until(isSplit, 'the groups are split by another controller', 30_000)
  await first!.start()
  await site.untilInSync(1)

  load.begin(second!.nbdPort)
  await load.goesOn(10_000, 300)
  await load.stop()
  const startMs = performance.now()
  await second!.stop()
  const clean = await connectWithin(third!.nbdPort, 'v', 3000)
  const handoverMs = performance.now() - startMs
  await load.verify(clean)
  clean.destroy()
  ok(handoverMs < 3000, `${handoverMs} ms`)
  await second!.start()
  await site.untilInSync()

  // Its kernel takes requests while it is paused, and it wakes up with them in its sockets.
  load.begin(third!.nbdPort)
  await load.goesOn(10_000, 300)
  third!.signal('SIGSTOP')
  const last = await connectWithin(first!.nbdPort, 'v', TAKEOVER_MS)
  await load.verify(last, takenOver)
  const mark = Buffer.alloc(4096, 7)
  for (let block = 0; block < 64; block++) await last.write(block * 4096, mark, block === 63)
  third!.signal('SIGCONT')
  await load.breaks(20_000)
  for (let times = 0; times < 3; times++) {
    const bytes = await within(last.read(0, 64 * 4096), 10_000, 'a read')
    ok(
      bytes.every((byte) => byte === 7),
      'the one that woke up changed nothing'
    )
  }
  last.destroy()
  strictEqual(await digestOf(first!, 'v@then'), then)
  const again = await NbdClient.connect(first!.nbdPort, 'v')
  again.destroy()
  await site.untilInSync()
  // Who is asked does not matter: one member in sync of each group counts.
  const { space } = await first!.json<WithSpace>('snapshot', 'show', 'v@then')
  deepStrictEqual((await third!.json<WithSpace>('snapshot', 'show', 'v@then')).space, space)
  const { allocatedBytes, exclusiveBytes } = space
  ok(allocatedBytes > 0 && allocatedBytes <= VOLUME_BYTES && exclusiveBytes <= allocatedBytes)
}

interface Pool {
  readonly groups: number
  readonly splitting: unknown
}

const poolOf = (peer: TorusServer): Promise<Pool> => peer.json<Pool>('pool', 'show', 'default')

/** Begins to split every group into four; into how many in all. */
async function splitGroups(peer: TorusServer): Promise<number> {
  const groups = 4 * (await poolOf(peer)).groups
  await peer.json('pool', 'set', 'default', '--groups', `${groups}`)
  return groups
}

interface WithSpace {
  readonly space: { readonly allocatedBytes: number; readonly exclusiveBytes: number }
}

async function digestOf({ nbdPort }: TorusServer, name: string): Promise<string> {
  const client = await NbdClient.connect(nbdPort, name)
  const hash = createHash('sha256')
  for (let at = 0; at < VOLUME_BYTES; at += MiB) hash.update(await client.read(at, MiB))
  client.destroy()
  return hash.digest('hex')
}

test.run()
