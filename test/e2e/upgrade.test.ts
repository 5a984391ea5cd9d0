/** A cluster goes from one version to the next, peer by peer, and back, while it is used. */
import { deepStrictEqual, match, ok, strictEqual } from 'node:assert'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { ClusterLoad } from '../helpers/cluster-load.ts'
import { ClusterSite } from '../helpers/cluster-site.ts'
import { testNeeding } from '../helpers/environment.ts'
import { MiB } from '../helpers/images.ts'
import { makeOldBuild } from '../helpers/old-build.ts'
import { waitForEnd } from '../helpers/process.ts'
import { TorusServer, torusProgram } from '../helpers/server.ts'

const needs = { programs: ['etcd'] }
const VOLUME_BYTES = 8 * MiB
const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
/** Everything else may run at the same time. */
const PATIENCE_MS = 30_000
const args = ['--segment-size', '4MiB', '--shards', '1', '--log-level', 'info']

async function restart(peer: TorusServer, program: string): Promise<void> {
  strictEqual(await peer.stop(), 0, peer.logs)
  peer.program = program
  await peer.start()
}

const encrypt = ['volume', 'create', 'e', '8MiB', '--encrypt', '--key-file', torusProgram]

/** What a start says that must fail. */
async function refusalOf(peer: TorusServer): Promise<string> {
  const before = peer.logs.length
  ok(await waitForEnd(peer.spawn(), PATIENCE_MS), 'it ends')
  return peer.logs.slice(before)
}

async function upgradeOf(site: ClusterSite, at: number): Promise<readonly string[]> {
  const { problems } = await site.status(at)
  return problems.filter(({ code }) => /notFin|upgr/.test(code)).map(({ message }) => message)
}

testNeeding(needs, `an upgrade is rolled, taken back, and finalised (SEED=${seed})`, async () => {
  const old = makeOldBuild()
  let site: ClusterSite | null = null
  try {
    site = await ClusterSite.start({ peers: 2, program: old.program, argsOf: () => args })
    await roll(site, old.program)
    await refused(site, old.program)
  } catch (error) {
    for (const { logs } of site?.peers ?? []) console.log(`--- peer\n${logs.slice(-3000)}`)
    throw error
  } finally {
    await site?.dispose()
    old.dispose()
  }
})

async function roll(site: ClusterSite, old: string): Promise<void> {
  const [first, second] = site.peers as [TorusServer, TorusServer]
  await first.createVolume('v', `${VOLUME_BYTES}`)
  deepStrictEqual(await upgradeOf(site, 0), [])
  const load = new ClusterLoad('v', VOLUME_BYTES, seed)
  load.begin(first.nbdPort)
  await load.goesOn(PATIENCE_MS)

  await restart(second, torusProgram)
  await load.goesOn(PATIENCE_MS)
  match(
    (await upgradeOf(site, 1)).join(),
    /4 \(sealed-blocks, .*\) is not known to peer \w+ \(torus 0/
  )
  const early = await second.torus(['cluster', 'finalize'])
  strictEqual(early.code, 1)
  match(early.stderr, /level 4 is not known to 1 peers: peer \w{8} \(torus 0\.0\.1, level 1\);/)
  const closed = await second.torus(encrypt)
  strictEqual(closed.code, 1)
  match(closed.stderr, /needs feature level 2 .* at level 1 .*run "torus cluster finalize"/)

  await restart(second, old)
  await load.goesOn(PATIENCE_MS)
  await restart(second, torusProgram)
  await load.goesOn(PATIENCE_MS)
  await load.stop()
  await site.untilInSync(0, PATIENCE_MS)
  await restart(first, torusProgram)
  await load.verifyAt(second.nbdPort, PATIENCE_MS)

  match((await upgradeOf(site, 0)).join(), /known to every peer: .*"torus cluster finalize"/)
  match((await first.torus(['cluster', 'finalize', '--dry-run'])).stdout, /^would raise .* 1 to 4/)
  // One that is away learns of it when it starts.
  strictEqual(await second.stop(), 0)
  match((await first.torus(['cluster', 'finalize'])).stdout, /^raised .* 1 to 4: sealed-blocks, /)
  deepStrictEqual(await upgradeOf(site, 0), [])
  const opened = await first.torus(encrypt)
  strictEqual(opened.code, 0, opened.stderr)
}

async function refused({ peers, etcd }: ClusterSite, old: string): Promise<void> {
  const [first, second] = peers as [TorusServer, TorusServer]
  strictEqual(await first.stop(), 0)
  const place = ['--etcd', etcd.endpoints.join(','), '--join']
  const late = await TorusServer.prepare({ args: [...place, ...args] })
  for (const peer of [first, second, late]) peer.program = old
  try {
    const [marked, away, joining] = await Promise.all([first, second, late].map(refusalOf))
    match(marked!, /superblock has format version 4, .*\(torus 0\.0\.1\) knows 1/)
    match(away!, /cluster below \/torus is at feature level 4, .*\(torus 0\.0\.1\) knows level 1;/)
    match(joining!, /at feature level 4, .* knows level 1;/)
    ok(!existsSync(join(late.dataDir, 'superblock')))
  } finally {
    await late.dispose()
  }
}

test.run()
