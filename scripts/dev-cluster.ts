/**
 * A whole cluster on this machine to play with: etcd and several peers on loopback, each peer with
 * a data directory of its own and as if on a host of its own, and a first volume.
 *
 *   npm run dev-cluster                       three peers, two copies of everything
 *   npm run dev-cluster -- --peers 5 --redundancy replicated:3
 *   npm run dev-cluster -- --dir D            keeps everything in D; the next run goes on with it
 *
 * --etcd-members N (1), --volume NAME=SIZE (demo=1GiB), --arg ARG: for `torus serve`, repeatable.
 * Lines typed here: kill N, stop N, start N, pause N, resume N, status, quit. Ctrl-C stops all
 * processes by their ids, and removes the directory unless --dir was given.
 *
 * Exit codes: 0 stopped, 1 something could not run, 2 usage.
 */
import { mkdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { DirectoryLock } from '../src/coordinator/lock.ts'
import { parseSize } from '../src/core/units.ts'
import { ClusterSite } from '../test/helpers/cluster-site.ts'
import { findProgram } from '../test/helpers/environment.ts'
import type { TorusServer } from '../test/helpers/server.ts'
import { parseArgs } from './arguments.ts'

const PEERS_MAX = 32

interface DevOptions {
  readonly peers: number
  readonly etcdMembers: number
  readonly redundancy: string
  readonly directory: string | null
  readonly volume: { readonly name: string; readonly size: string }
  readonly args: readonly string[]
}

function readOptions(): DevOptions {
  const { values } = parseArgs({
    options: {
      peers: { type: 'string', default: '3' },
      dir: { type: 'string' },
      'etcd-members': { type: 'string', default: '1' },
      redundancy: { type: 'string', default: 'replicated:2' },
      volume: { type: 'string', default: 'demo=1GiB' },
      arg: { type: 'string', multiple: true, default: [] }
    }
  })
  const [peers, etcdMembers] = [Number(values.peers), Number(values['etcd-members'])]
  const within = (value: number, max: number): boolean =>
    Number.isInteger(value) && value >= 1 && value <= max
  if (!within(peers, PEERS_MAX)) throw new TypeError(`--peers is 1 to ${PEERS_MAX}`)
  if (!within(etcdMembers, 7)) throw new TypeError('--etcd-members is 1 to 7')
  const [name = '', size = ''] = values.volume.split('=')
  if (name === '' || size === '') throw new TypeError('--volume is NAME=SIZE')
  parseSize(size)
  const directory = values.dir === undefined ? null : resolve(values.dir)
  const { redundancy, arg: args } = values
  return { peers, etcdMembers, redundancy, directory, volume: { name, size }, args }
}

async function ensureVolume(server: TorusServer, { volume }: DevOptions): Promise<void> {
  const volumes = await server.json<{ name: string }[]>('volume', 'list')
  if (volumes.some(({ name }) => name === volume.name)) return
  await server.createVolume(volume.name, volume.size)
}

function greeting(site: ClusterSite, { redundancy, volume }: DevOptions): string {
  const peers = site.peers.map(
    (peer, at) =>
      `  ${at + 1}  host h${at + 1}  pid ${peer.pid}  ${peer.uri(volume.name)}  ` +
      `scripts/torus --admin ${peer.adminUrl}`
  )
  const admin = `scripts/torus --admin ${site.peers[0]!.adminUrl}`
  return [
    `${site.peers.length} peers, etcd ${site.etcd.endpoints.join(',')}, in ${site.directory}`,
    `pool default is ${redundancy}; volume ${volume.name} (${volume.size}) is served by any peer:`,
    ...peers,
    '',
    'Look, in another terminal:',
    `  ${admin} cluster status --watch`,
    `  ${admin} mount ${volume.name} /tmp/${volume.name}`,
    `  qemu-img convert -n disk.img ${site.peers[0]!.uri(volume.name)}`,
    '',
    'Type here: kill N, stop N, start N, pause N, resume N, status, quit. Ctrl-C stops everything.'
  ].join('\n')
}

/** What a typed line asks for. Failures are told, and end nothing. */
async function obey(site: ClusterSite, words: readonly string[]): Promise<string> {
  const [verb = '', number = ''] = words
  if (verb === 'status') return (await anyRunning(site).torus(['cluster', 'status'])).stdout.trim()
  const peer = site.peers[Number(number) - 1]
  if (peer === undefined)
    return `"${words.join(' ')}": kill, stop, start, pause or resume N; status`
  switch (verb) {
    case 'kill':
      await peer.kill()
      return `peer ${number} was killed`
    case 'stop':
      return `peer ${number} stopped with exit code ${await peer.stop()}`
    case 'start':
      if (peer.running) return `peer ${number} is running`
      await peer.start()
      return `peer ${number} is up, pid ${peer.pid}`
    case 'pause':
      peer.signal('SIGSTOP')
      return `peer ${number} is paused`
    case 'resume':
      peer.signal('SIGCONT')
      return `peer ${number} goes on`
    default:
      return `"${verb}" is nothing to do with a peer`
  }
}

const anyRunning = ({ peers }: ClusterSite): TorusServer =>
  peers.find(({ running }) => running) ?? peers[0]!

/** Until Ctrl-C, SIGTERM, or `quit`. The end of the input ends nothing: it may be no terminal. */
function untilAsked(site: ClusterSite): Promise<void> {
  return new Promise((ended) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => ended())
    const lines = createInterface({ input: process.stdin })
    let last = Promise.resolve()
    lines.on('line', (line) => {
      const words = line.trim().split(/\s+/)
      if (words[0] === 'quit') ended()
      else if (words[0] !== '') last = last.then(() => answer(site, words))
    })
  })
}

async function answer(site: ClusterSite, words: readonly string[]): Promise<void> {
  try {
    console.log(await obey(site, words))
  } catch (error) {
    console.log(error instanceof Error ? error.message : error)
  }
}

async function main(): Promise<void> {
  const options = readOptions()
  if (findProgram('etcd') === '') {
    throw new Error(
      'etcd is not installed: apt-get install etcd-server (Debian), or put it in PATH'
    )
  }
  let lock: DirectoryLock | null = null
  if (options.directory !== null) {
    mkdirSync(options.directory, { recursive: true })
    lock = DirectoryLock.acquire(options.directory)
  }
  // From here on a signal must not leave processes behind.
  const early = new Promise<void>((asked) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
      process.once(signal, () => asked())
  })
  const { peers, etcdMembers, redundancy, directory, args } = options
  const site = await ClusterSite.start({
    ...{ peers, etcdMembers, redundancy, argsOf: () => args, detached: true, logFiles: true },
    ...(directory === null ? {} : { directory })
  })
  try {
    await ensureVolume(site.peers[0]!, options)
    console.log(greeting(site, options))
    await Promise.race([early, untilAsked(site)])
    console.log('stopping')
    await site.stop()
  } finally {
    await site.dispose()
    lock?.release()
  }
  console.log(directory === null ? 'stopped' : `stopped; "--dir ${directory}" goes on with it`)
}

main()
  .then(() => process.exit(0)) // a line that is being read would keep it alive
  .catch((error: unknown) => {
    const isUsage = error instanceof TypeError
    console.error(error instanceof Error ? `dev-cluster: ${error.message}` : error)
    process.exit(isUsage ? 2 : 1)
  })
