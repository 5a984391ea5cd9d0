import { spawn } from 'node:child_process'
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync
} from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { action, type Context, withExamples } from '../context.ts'
import { makeDirectory } from '../../core/directories.ts'
import { CommandError } from '../errors.ts'
import type { ApiClient } from '../api-client.ts'
import { gatewaysArgument, type TlsOptions } from '../gateways.ts'
import { chooseNbdAddress, type NbdAddress, volumeUri } from '../nbd-address.ts'
import { findProgram, needProgram, programName, runProgram } from '../programs.ts'
import { type RelayProcess, startRelayProcess, untilEnded } from '../relay-process.ts'
import { RunDirectory, type RunRecord } from '../run-directory.ts'

const READY_MS = 15_000
const POLL_MS = 50
/** The file in the directory; nbdfuse's own default. */
const FILE_NAME = 'nbd'

interface MountOptions extends TlsOptions {
  readonly readOnly?: boolean
  readonly gateway?: NbdAddress[]
  readonly tlsCertificates?: string
  readonly fuseOption?: string
}

export function addMountCommands(program: Command): void {
  const mount = program
    .command('mount')
    .description('show a volume as the file DIR/nbd, by FUSE; needs no kernel driver and no root')
    .argument('<volume>', 'its name')
    .argument('<dir>', 'an empty directory; made when missing')
    .option('--read-only', 'refuse writes')
    .option(
      '--tls-certificates <dir>',
      'directory with ca-cert.pem, client-cert.pem, client-key.pem'
    )
    .option(
      '--gateway <list>',
      'peers that may serve it, like h1,h2:10810: goes on with the next when one is gone',
      gatewaysArgument
    )
    .option('--tls-ca <file>', 'with --gateway: use TLS and trust this certificate authority')
    .option('--tls-cert <file>', 'certificate of this client')
    .option('--tls-key <file>', 'its private key')
    .option('--fuse-option <option>', 'passed to FUSE, like allow_other')
    .action(action<[string, string], MountOptions>(runMount))
  withExamples(
    mount,
    'torus mount demo /tmp/demo',
    'torus mount demo /tmp/demo && mkfs.ext4 /tmp/demo/nbd && sudo mount -o loop /tmp/demo/nbd /mnt'
  )
  const unmount = program
    .command('unmount')
    .description('end what mount began; returns when everything is written')
    .argument('<dir>', 'the directory')
    .action(action<[string], object>(runUnmount))
  withExamples(unmount, 'torus unmount /tmp/demo')
}

async function runMount(
  { api, output }: Context,
  [volume, given]: [string, string],
  options: MountOptions
): Promise<void> {
  const program = needProgram('nbdfuse')
  needProgram('fusermount3')
  if (!existsSync('/dev/fuse')) {
    const message = 'this machine has no /dev/fuse: try "sudo modprobe fuse"; a container needs'
    throw new CommandError('Unavailable', `${message} --device /dev/fuse --cap-add SYS_ADMIN`)
  }
  const direct = options.gateway === undefined ? await directAddress(api, volume, options) : null
  const made = prepareMountPoint(resolve(given))
  const directory = realpathSync(given)
  const runDirectory = new RunDirectory()
  const relayed = { volume, target: directory, gateways: options.gateway ?? [], tls: options }
  let relay: RelayProcess | null = null
  try {
    if (direct === null) relay = await startRelayProcess(runDirectory, relayed)
    const args = fuseArguments(direct ?? relay!.address, volume, directory, options)
    const pid = await startNbdfuse(program, directory, args)
    const record = { kind: 'mount', volume, target: directory, pid, madeDirectory: made } as const
    runDirectory.save(relay === null ? record : { ...record, relayPid: relay.pid })
    const device = join(directory, FILE_NAME)
    output.result(
      { volume, device, pid },
      () => `${volume} is the file ${device}; end it with ${programName()} unmount ${given}`
    )
  } catch (error) {
    if (relay !== null) process.kill(relay.pid, 'SIGTERM')
    if (made) rmdirSync(directory)
    throw error
  }
}

/** Of nbdfuse. */
function fuseArguments(
  address: NbdAddress,
  volume: string,
  directory: string,
  { readOnly = false, fuseOption, tlsCertificates }: MountOptions
): string[] {
  const uri = volumeUri(address, volume)
  const certificates = encodeURIComponent(resolve(tlsCertificates ?? ''))
  const tls = `${uri.includes('?') ? '&' : '?'}tls-certificates=${certificates}`
  return [
    ...(readOnly ? ['-r'] : []),
    ...(fuseOption === undefined ? [] : ['-o', fuseOption]),
    directory,
    tlsCertificates === undefined ? uri : `${uri}${tls}`
  ]
}

async function directAddress(
  api: ApiClient,
  volume: string,
  { tlsCertificates }: MountOptions
): Promise<NbdAddress> {
  await api.volume(volume)
  const address = chooseNbdAddress(await api.peer())
  if (!address.tls || tlsCertificates !== undefined) return address
  const message = 'the peer asks for TLS: say where certificates are, --tls-certificates'
  throw new CommandError('InvalidArgument', message)
}

/** Returns whether it was made now. @throws CommandError when it holds files */
function prepareMountPoint(path: string): boolean {
  const found = statSync(path, { throwIfNoEntry: false })
  if (found === undefined) {
    makeDirectory(path)
    return true
  }
  if (!found.isDirectory()) throw new CommandError('InvalidArgument', `${path} is no directory`)
  if (isMounted(realpathSync(path))) {
    throw new CommandError(
      'Busy',
      `something is mounted on ${path}: ${programName()} unmount ${path}`
    )
  }
  if (readdirSync(path).length > 0) {
    throw new CommandError(
      'InvalidArgument',
      `${path} is not empty, and mount would hide its files`
    )
  }
  return false
}

/** Starts it in the background and waits until the file is there. Returns its pid. */
async function startNbdfuse(
  program: string,
  directory: string,
  args: readonly string[]
): Promise<number> {
  const runDirectory = new RunDirectory()
  const pidFile = runDirectory.fileFor(directory, '.pid')
  const logFile = runDirectory.fileFor(directory, '.log')
  rmSync(pidFile, { force: true })
  const log = openSync(logFile, 'w', 0o600)
  const child = spawn(program, ['-P', pidFile, ...args], {
    detached: true,
    stdio: ['ignore', log, log]
  })
  closeSync(log)
  let ended: string | null = null
  child.on('error', (error) => {
    ended = error.message
  })
  child.on('exit', (code, signal) => {
    ended = `exit code ${code ?? signal}`
  })
  for (let waitedMs = 0; waitedMs < READY_MS && ended === null; waitedMs += POLL_MS) {
    if (existsSync(pidFile) && existsSync(join(directory, FILE_NAME))) {
      child.unref()
      return Number(readFileSync(pidFile, 'utf8'))
    }
    await sleep(POLL_MS)
  }
  child.kill('SIGTERM')
  const said = readFileSync(logFile, 'utf8').trim()
  throw new CommandError('Unavailable', `nbdfuse failed (${ended ?? 'not ready'}): ${said}`)
}

/** Paths in /proc/mounts have spaces and the like in octal. */
const isMounted = (directory: string): boolean =>
  existsSync('/proc/mounts') &&
  readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .map((path) =>
      path.replaceAll(/\\(\d{3})/g, (_, code) => String.fromCharCode(parseInt(code, 8)))
    )
    .includes(directory)

async function runUnmount({ output }: Context, [given]: [string]): Promise<void> {
  const runDirectory = new RunDirectory()
  const directory = existsSync(given) ? realpathSync(given) : resolve(given)
  const record = runDirectory
    .list()
    .find(({ kind, target }) => kind === 'mount' && target === directory)
  if (!isMounted(directory)) {
    if (record !== undefined) cleanUp(runDirectory, record)
    throw new CommandError('NotFound', `nothing is mounted on ${given}`)
  }
  const program = findProgram('fusermount3') || needProgram('fusermount3')
  const { code, output: said } = await runProgram(program, ['-u', directory])
  if (code !== 0) {
    const hint = `what uses ${join(given, FILE_NAME)} (a loop device, a filesystem) must end first`
    throw new CommandError('Busy', `${given} was not unmounted, ${hint}: ${said}`)
  }
  if (record !== undefined) {
    await untilEnded(record.pid, 'nbdfuse')
    if (record.relayPid !== undefined) await untilEnded(record.relayPid, 'the relay')
    cleanUp(runDirectory, record)
  }
  output.result({ unmounted: directory }, () => `unmounted ${given}`)
}

function cleanUp(runDirectory: RunDirectory, record: RunRecord): void {
  runDirectory.remove(record)
  const { madeDirectory, target } = record
  if (madeDirectory && existsSync(target) && readdirSync(target).length === 0) rmdirSync(target)
}
