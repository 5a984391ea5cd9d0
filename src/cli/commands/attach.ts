import type { Command } from 'commander'
import { countArgument } from '../arguments.ts'
import { action, type Context, withExamples } from '../context.ts'
import { CommandError } from '../errors.ts'
import type { ApiClient } from '../api-client.ts'
import { gatewaysArgument, type TlsOptions } from '../gateways.ts'
import { chooseNbdAddress, type NbdAddress } from '../nbd-address.ts'
import { NbdKernel } from '../nbd-kernel.ts'
import type { Output } from '../output.ts'
import { needProgram, programName, runProgram } from '../programs.ts'
import { startRelayProcess, untilEnded } from '../relay-process.ts'
import { RunDirectory, type RunRecord } from '../run-directory.ts'

interface AttachOptions extends TlsOptions {
  readonly connections?: number
  readonly blockSize?: number
  readonly timeout?: number
  readonly persist?: boolean
  readonly readOnly?: boolean
  readonly gateway?: NbdAddress[]
}

export function addAttachCommands(program: Command): void {
  const attach = program
    .command('attach')
    .description('make a volume a block device of this machine (kernel driver nbd, needs root)')
    .argument('<volume>', 'its name')
    .argument('[device]', 'like /dev/nbd0; by default the first free one')
    .option('--connections <n>', 'connections to the server at once', countArgument)
    .option('--block-size <bytes>', 'sector size that the device shows', countArgument)
    .option('--timeout <seconds>', 'give a request up after this long', countArgument)
    .option(
      '--gateway <list>',
      'peers that may serve it, like h1,h2:10810: goes on with the next when one is gone',
      gatewaysArgument
    )
    .option('--persist', 'connect again when the server went away; requests wait meanwhile')
    .option('--read-only', 'refuse writes')
    .option('--tls-ca <file>', 'use TLS and trust this certificate authority')
    .option('--tls-cert <file>', 'certificate of this client')
    .option('--tls-key <file>', 'its private key')
    .action(action<[string, string | undefined], AttachOptions>(runAttach))
  withExamples(
    attach,
    'sudo torus attach demo',
    'sudo torus attach demo /dev/nbd3 --connections 4 --persist',
    'sudo torus attach demo --gateway 10.0.0.1,10.0.0.2,10.0.0.3'
  )
  const detach = program
    .command('detach')
    .description('end what attach began')
    .argument('<device-or-volume>', 'like /dev/nbd0, or the name of the volume')
    .action(action<[string], object>(runDetach))
  withExamples(detach, 'sudo torus detach demo', 'sudo torus detach /dev/nbd0')
}

function needRoot(command: string): void {
  if (process.getuid?.() === 0) return
  const message = `${command} changes block devices, which only root may: run it with sudo`
  throw new CommandError('Forbidden', message)
}

async function runAttach(
  { api, output }: Context,
  [volume, given]: [string, string | undefined],
  options: AttachOptions
): Promise<void> {
  const program = needProgram('nbd-client')
  const kernel = new NbdKernel()
  kernel.needDriver()
  needRoot('attach')
  const gateways = options.gateway ?? [await gatewayAt(api, volume)]
  const device = given === undefined ? kernel.freeDevice() : kernel.pathOf(kernel.nameOf(given))
  kernel.needFree(device)
  const isRelayed = options.gateway !== undefined || options.persist === true
  const target = { volume, target: device, gateways, tls: options }
  const relay = isRelayed ? await startRelayProcess(new RunDirectory(), target) : null
  const { code, output: said } = await runProgram(
    program,
    relay === null
      ? attachArguments(gateways[0]!, volume, device, options)
      : attachArguments(relay.address, volume, device, withoutTls(options))
  )
  if (code !== 0) {
    if (relay !== null) process.kill(relay.pid, 'SIGTERM')
    throw new CommandError('Unavailable', `nbd-client failed with exit code ${code}: ${said}`)
  }
  const relayPid = relay === null ? {} : { relayPid: relay.pid }
  const began = { kind: 'attach', volume, target: device, pid: 0, madeDirectory: false } as const
  remember({ ...began, ...relayPid }, output)
  output.result(
    { volume, device },
    () => `${volume} is ${device}; end it with ${programName()} detach ${volume}`
  )
}

/** Asked first: the kernel's own message for a missing export is of little help. */
async function gatewayAt(api: ApiClient, volume: string): Promise<NbdAddress> {
  await api.volume(volume)
  return chooseNbdAddress(await api.peer())
}

/** The relay does TLS; the way to it is a socket of this machine. */
function withoutTls({ tlsCa: _, tlsCert: __, tlsKey: ___, ...rest }: AttachOptions): AttachOptions {
  return rest
}

/** The device works without it; only its name is not known to detach then. */
function remember(record: RunRecord, output: Output): void {
  try {
    new RunDirectory().save(record)
  } catch (error) {
    output.note(`torus: detach will need the name of the device: ${(error as Error).message}`)
  }
}

/** Arguments of nbd-client 3.x. Exported for its test. */
export function attachArguments(
  address: NbdAddress,
  volume: string,
  device: string,
  options: AttachOptions
): string[] {
  const where =
    address.kind === 'unix' ? ['-unix', address.path] : [address.host, String(address.port)]
  const given: (readonly [string, string | number | undefined])[] = [
    ['-connections', options.connections],
    ['-block-size', options.blockSize],
    ['-timeout', options.timeout],
    ['-cacertfile', options.tlsCa],
    ['-certfile', options.tlsCert],
    ['-keyfile', options.tlsKey]
  ]
  if (address.tls && options.tlsCa === undefined) {
    throw new CommandError('InvalidArgument', 'the peer asks for TLS: say whom to trust, --tls-ca')
  }
  return [
    ...where,
    device,
    '-name',
    volume,
    ...given.flatMap(([name, value]) => (value === undefined ? [] : [name, String(value)])),
    ...(options.readOnly === true ? ['-readonly'] : []),
    ...(options.tlsCa === undefined ? [] : ['-enable-tls'])
  ]
}

async function runDetach({ output }: Context, [given]: [string]): Promise<void> {
  const program = needProgram('nbd-client')
  const kernel = new NbdKernel()
  kernel.needDriver()
  needRoot('detach')
  const directory = new RunDirectory()
  const records = directory.list().filter(({ kind }) => kind === 'attach')
  const byVolume = records.find(({ volume }) => volume === given)
  const device = byVolume?.target ?? kernel.pathOf(kernel.nameOf(given))
  const mounts = kernel.mountsOf(device)
  if (mounts.length > 0) {
    throw new CommandError('Busy', `${device} is mounted on ${mounts.join(', ')}: unmount it first`)
  }
  const { code, output: said } = await runProgram(program, ['-d', device])
  if (code !== 0) {
    throw new CommandError('Unavailable', `nbd-client failed with exit code ${code}: ${said}`)
  }
  for (const record of records.filter(({ target }) => target === device)) {
    // What was written is at the gateway when it is gone.
    if (record.relayPid !== undefined) await untilEnded(record.relayPid, 'the relay')
    directory.remove(record)
  }
  output.result({ detached: device }, () => `detached ${device}`)
}
