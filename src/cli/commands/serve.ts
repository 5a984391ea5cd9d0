import type { Command } from 'commander'
import type { RunningPeer } from '../../coordinator.ts'
import type { LogOutput } from '../../core/log.ts'
import type { Config } from '../../core/options.ts'
import { DEFAULT_ADMIN } from '../api-client.ts'
import { action, type Context, withExamples } from '../context.ts'
import { usageErrors } from '../errors.ts'
import { parseNbdAddress, volumeUri } from '../nbd-address.ts'
import { programName } from '../programs.ts'
import { applyScheduling } from '../scheduling.ts'
import { addServeOptions, configurationHelp, flagsOf } from '../serve-options.ts'

export function addServeCommand(program: Command): void {
  const command = addServeOptions(
    program.command('serve').description('run a peer: keep data in a directory and serve volumes')
  )
    .addHelpText('after', configurationHelp)
    .action(
      action<[], Record<string, unknown>>(async (context, _, options) => {
        await serve(context, options)
      })
    )
  withExamples(
    command,
    'torus serve --data-dir /var/lib/torus',
    'torus serve --data-dir D --capacity 20GiB --volume demo=1GiB --nbd-socket /run/nbd.sock'
  )
}

async function serve(context: Context, options: Record<string, unknown>): Promise<void> {
  // Loaded here, so that other commands start without the server's weight.
  const { resolveConfig } = await import('../../core/config.ts')
  const { createLog } = await import('../../core/log.ts')
  const resolved = usageErrors(() => resolveConfig({ ...flagsOf(options), env: process.env }))
  const output = createLog(resolved.config)
  endOnBugs(output)
  const signals = new Signals(output)
  const scheduled = applyScheduling(resolved.config, output)
  const { startPeer } = await import('../../coordinator.ts')
  await scheduled
  const waiting = new AbortController()
  void signals.stop.then(() => waiting.abort())
  const peer = await startPeer(resolved, output, undefined, waiting.signal)
  signals.onReload = () => reload(peer, output)
  const { dataDir, nbdAddresses, adminAddresses } = peer
  context.output.result({ pid: process.pid, dataDir, nbdAddresses, adminAddresses }, () =>
    greeting(peer, resolved.config)
  )
  const error = await Promise.race([signals.stop, peer.failed])
  if (error !== undefined) output.log.fatal({ err: error }, 'this peer must not go on')
  await peer.stop()
  output.log.info('stopped')
  output.flush()
  if (error !== undefined) throw error
}

function greeting({ dataDir, nbdAddresses, adminAddresses }: RunningPeer, config: Config): string {
  const lines = [
    `torus serves ${dataDir}`,
    `  NBD    ${nbdAddresses.join('  ') || 'off'}`,
    `  admin  ${adminAddresses.join('  ') || 'off'}`
  ]
  const nbd = nbdAddresses.map(parseNbdAddress).find((address) => address !== null)
  const volume = config.volumes[0]?.name ?? 'NAME'
  if (nbd === undefined || nbd === null) return lines.join('\n')
  const torus = `${programName()}${adminFlag(adminAddresses)}`
  const make = volume === 'NAME' ? [`${torus} volume create NAME 10GiB`] : []
  const next = [
    ...make,
    `${torus} mount ${volume} /tmp/${volume}`,
    `qemu-img convert -n disk.img ${volumeUri(nbd, volume)}`,
    `${torus} status`
  ]
  return [...lines, '', 'Next, in another terminal:', ...next.map((line) => `  ${line}`)].join('\n')
}

/** What other commands need to find this peer, where they would not by themselves. */
function adminFlag(addresses: readonly string[]): string {
  const [first] = addresses
  return first === undefined || addresses.includes(DEFAULT_ADMIN) ? '' : ` --admin ${first}`
}

async function reload(peer: RunningPeer, { log }: LogOutput): Promise<void> {
  try {
    await peer.reload()
    log.info('certificates were read again')
  } catch (error) {
    log.error({ err: error }, 'certificates were not read again; the old ones stay in use')
  }
}

/** npm passes Ctrl-C on to us, who get it from the terminal too: that is one signal. */
const SAME_SIGNAL_MS = 1000

/**
 * SIGINT and SIGTERM ask for an orderly end, and a second one does not wait for it. SIGHUP reads
 * certificates again.
 */
class Signals {
  readonly stop: Promise<void>
  onReload: () => Promise<void> = async () => {}

  constructor({ log, flush }: LogOutput) {
    process.on('SIGHUP', () => void this.onReload())
    this.stop = new Promise((resolve) => {
      let askedMs = 0
      const ask = (signal: NodeJS.Signals) => {
        const nowMs = performance.now()
        if (askedMs > 0 && nowMs - askedMs < SAME_SIGNAL_MS) return
        if (askedMs > 0) {
          log.warn({ signal }, 'ending at once, without the orderly stop')
          flush()
          process.exit(1)
        }
        askedMs = nowMs
        log.info({ signal }, 'stopping; the same signal again ends at once')
        resolve()
      }
      process.on('SIGINT', ask)
      process.on('SIGTERM', ask)
    })
  }
}

/** STYLE.md, rule 11: what only a bug can do ends the process, and says what it was. */
function endOnBugs({ log, flush }: LogOutput): void {
  const end = (error: unknown) => {
    log.fatal({ err: error }, 'a bug ended the process')
    flush()
    process.exit(1)
  }
  process.on('uncaughtException', end)
  process.on('unhandledRejection', end)
}
