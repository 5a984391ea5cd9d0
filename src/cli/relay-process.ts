/** `torus relay` in the background, for `attach` and `mount`. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { CommandError } from './errors.ts'
import { gatewayText, type TlsOptions } from './gateways.ts'
import type { NbdAddress } from './nbd-address.ts'
import type { RunDirectory } from './run-directory.ts'

export interface RelayProcess {
  readonly pid: number
  /** Where it serves the volume. */
  readonly address: NbdAddress
}

/** A takeover of a dead gateway's volume is part of it. */
const READY_MS = 40_000
/** nbdfuse and the relay flush before they end, and a slow disk takes its time. */
const END_MS = 60_000
const POLL_MS = 50

/** Starts one for a device or directory, `target`. @throws CommandError when no gateway serves */
export async function startRelayProcess(
  runDirectory: RunDirectory,
  options: {
    readonly volume: string
    readonly target: string
    readonly gateways: readonly NbdAddress[]
    readonly tls: TlsOptions
  }
): Promise<RelayProcess> {
  const { volume, target, gateways, tls } = options
  const path = runDirectory.fileFor(`relay-${randomBytes(6).toString('hex')}`, '.sock')
  const log = runDirectory.fileFor(target, '.relay.log')
  const files = [
    ['--tls-ca', tls.tlsCa],
    ['--tls-cert', tls.tlsCert],
    ['--tls-key', tls.tlsKey]
  ] as const
  const args = [
    ...[process.argv[1]!, 'relay', volume, '--listen', path],
    ...['--gateway', gateways.map(gatewayText).join(',')],
    ...files.flatMap(([name, file]) => (file === undefined ? [] : [name, resolve(file)]))
  ]
  const output = openSync(log, 'w', 0o600)
  // In / and a session of its own: it outlives the terminal, and holds no mount.
  const child = spawn(process.execPath, args, {
    detached: true,
    cwd: '/',
    stdio: ['ignore', output, output]
  })
  closeSync(output)
  let ended: string | null = null
  child.on('error', (error) => {
    ended = error.message
  })
  child.on('exit', (code, signal) => {
    ended = `exit code ${code ?? signal}`
  })
  for (let waitedMs = 0; waitedMs < READY_MS && ended === null; waitedMs += POLL_MS) {
    if (existsSync(path)) {
      child.unref()
      return { pid: child.pid!, address: { kind: 'unix', path, tls: false } }
    }
    await sleep(POLL_MS)
  }
  child.kill('SIGTERM')
  const said = readFileSync(log, 'utf8')
    .trim()
    .replace(/^torus: /, '')
  throw new CommandError('Unavailable', said === '' ? `the relay failed (${ended})` : said)
}

/** Waits for a background process that ends by itself. @throws CommandError when it does not */
export async function untilEnded(pid: number, what: string): Promise<void> {
  for (let waitedMs = 0; waitedMs < END_MS; waitedMs += POLL_MS) {
    try {
      process.kill(pid, 0)
    } catch {
      return
    }
    await sleep(POLL_MS)
  }
  throw new CommandError('Busy', `${what} (pid ${pid}) is still writing after ${END_MS / 1000} s`)
}
