/**
 * Rounds of: load a real server process with verifying requests, kill -9 it in the middle (or, now
 * and then, while it recovers, or end it in order), start it again, read the whole volume and
 * compare with what each block may hold.
 */
import type { Random } from '../../src/core/clock.ts'
import type { TorusServer } from '../../test/helpers/server.ts'
import { BLOCK_BYTES, BlockModel } from './block-model.ts'
import { below, checkBlocks, Load, type LoadCounts } from './load.ts'
import { NbdClient } from './nbd-client.ts'

export const TORTURE_VOLUME = 'torture'
const READ_BYTES = 1024 * 1024
const LOAD_MS_MIN = 50
const LOAD_MS_MAX = 1500
/** Recovery takes a second; a machine that is busy with other disks' work takes its time. */
export const READY_MS_MAX = 120_000

export interface KillReport {
  readonly rounds: number
  /** Kills while the server was starting. */
  readonly early: number
  /** Orderly ends in between. */
  readonly orderly: number
  /** The longest that it took to be ready again. */
  readonly slowestStartMs: number
  readonly counts: LoadCounts
}

export interface KillOptions {
  readonly server: TorusServer
  readonly volumeBytes: number
  readonly random: Random
  /** Asked before each round. */
  readonly goOn: (rounds: number) => boolean
  readonly onRound?: (report: KillReport) => void
  /** Called when a load begins, in whose midst the server is killed. */
  readonly onLoad?: () => Promise<void>
}

const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))

/** @throws when a block holds what it may not, or the server does not come back */
export async function killRounds(options: KillOptions): Promise<KillReport> {
  const { server, random } = options
  const model = new BlockModel(options.volumeBytes / BLOCK_BYTES)
  const load = new Load(model, random)
  let [rounds, early, orderly, slowestStartMs] = [0, 0, 0, 0]
  const report = (): KillReport => {
    const counts = { ...load.counts }
    return { rounds, early, orderly, slowestStartMs, counts }
  }
  while (options.goOn(rounds)) {
    const running = load.run(server.nbdPort, TORTURE_VOLUME)
    const beside = options.onLoad?.()
    await Promise.race([running, sleep(LOAD_MS_MIN + below(random, LOAD_MS_MAX - LOAD_MS_MIN))])
    if (below(random, 8) === 0) {
      await endInOrder(server, load, running, model)
      orderly++
    } else {
      await server.kill()
      await running
    }
    await beside
    while (below(random, 4) === 0) {
      server.spawn()
      await sleep(below(random, 400))
      await server.kill()
      early++
    }
    const startedMs = performance.now()
    await server.start()
    slowestStartMs = Math.max(slowestStartMs, performance.now() - startedMs)
    await verify(server.nbdPort, model)
    rounds++
    options.onRound?.(report())
  }
  return report()
}

async function endInOrder(
  server: TorusServer,
  load: Load,
  running: Promise<void>,
  model: BlockModel
): Promise<void> {
  load.stop()
  await running
  const code = await server.stop()
  if (code !== 0) throw new Error(`the server ended with exit code ${code}\n${server.logs}`)
  model.settleAcknowledged()
}

async function verify(port: number, model: BlockModel): Promise<void> {
  const client = await NbdClient.connect(port, TORTURE_VOLUME)
  const volumeBytes = model.blockCount * BLOCK_BYTES
  if (client.sizeBytes !== volumeBytes) throw new Error(`the volume has ${client.sizeBytes} bytes`)
  for (let offset = 0; offset < volumeBytes; offset += READ_BYTES) {
    const bytes = await client.read(offset, Math.min(READ_BYTES, volumeBytes - offset))
    checkBlocks(bytes, offset / BLOCK_BYTES, (block, stamp) => model.checkRecovered(block, stamp))
  }
  client.destroy()
}
