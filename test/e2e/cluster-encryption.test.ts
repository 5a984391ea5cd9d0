/** An encrypted volume is taken over, in the middle of a rekey, by a peer that has the key. */
import { match, ok, strictEqual } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import { ClusterLoad, connectWithin } from '../helpers/cluster-load.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB } from '../helpers/images.ts'
import { checkNonces } from '../helpers/nonces.ts'
import { until } from '../helpers/process.ts'
import { qemuIoAny } from '../helpers/qemu.ts'

const VOLUME_BYTES = 16 * MiB
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
/** A lease and a second, from the death of the gateway on. */
const TAKEOVER_MS = 10_000 + 1000

interface Keys {
  readonly unlocked: boolean
  readonly rekey: unknown
}

testNeeding(
  { programs: ['etcd', 'qemu-io'] },
  `an encrypted volume outlives its gateway, and so does a rekey (SEED=${seed})`,
  async () => {
    const directory = mkdtempSync(join(tmpdir(), 'torus-keys-'))
    const key = join(directory, 'key')
    writeFileSync(key, randomBytes(32))
    const common = ['--segment-size', '4MiB', '--shards', '1']
    const sources = ['--unlock-with', `*=key-file:${key}`]
    const site = await ClusterSite.start({
      argsOf: (peer) => (peer < 2 ? [...common, ...sources] : common)
    })
    try {
      await takeOver(site, key)
      await site.stop()
      const nonces = new Map<string, string>()
      for (const { dataDir } of site.peers) checkNonces(dataDir, nonces)
      ok(nonces.size > 1000, `${nonces.size} nonces`)
    } finally {
      await site.dispose()
      rmSync(directory, { recursive: true })
    }
  }
)

/**
 * The writer's lease ends within 9 s then, and not in 10 s and what etcd takes to see it: a machine
 * with two cores and all of this on it is slow.
 */
async function untilRenewedLongAgo(site: ClusterSite): Promise<void> {
  const etcd = site.etcd.client()
  const left = async (): Promise<number> => {
    const { kvs } = await etcd.kv.range({ key: Buffer.from('/'), range_end: Buffer.from('0') })
    const writer = kvs.find(({ key }) => key.includes('/writers/'))
    ok(writer !== undefined, 'the volume has a writer')
    return Number((await etcd.leaseClient.leaseTimeToLive({ ID: writer.lease })).TTL)
  }
  await until(async () => (await left()) <= 8, 'the lease was not renewed for a second', 10_000)
  etcd.close()
}

async function takeOver(site: ClusterSite, key: string): Promise<void> {
  const [first, second, third] = site.peers
  const size = `${VOLUME_BYTES}`
  await first!.json('volume', 'create', 'v', size, '--encrypt', '--key-file', key)
  match(await qemuIoAny(third!.uri('v'), 'read 0 4k'), /torus volume unlock v/)
  const keys = (peer: typeof first) => peer!.json<Keys>('volume', 'key', 'list', 'v')

  const load = new ClusterLoad('v', VOLUME_BYTES, seed)
  load.begin(first!.nbdPort)
  await load.goesOn(10_000, 300)
  await first!.json('volume', 'rekey', 'v')
  ok((await keys(first)).rekey !== null)
  await untilRenewedLongAgo(site)
  const killedMs = performance.now()
  await first!.kill()
  await load.breaks(5000)
  const leftMs = TAKEOVER_MS - (performance.now() - killedMs)
  const next = await connectWithin(second!.nbdPort, 'v', leftMs)
  await load.verify(next, (block, stamp) => load.model.checkTakenOver(block, stamp))
  const isDone = async (): Promise<boolean> => (await keys(second)).rekey === null
  await until(isDone, 'the rekey ends on the peer that took over', 20_000)
  await load.verify(next)
  next.destroy()
  strictEqual((await keys(third)).unlocked, false)
}

test.run()
