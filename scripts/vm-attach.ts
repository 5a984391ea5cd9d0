/**
 * Proves `torus attach` with the kernel's real nbd driver, on machines whose own kernel has none: a
 * virtual machine (QEMU without KVM, Debian's kernel, an initramfs made of this machine's programs)
 * attaches a volume of a cluster that runs here on loopback (etcd and two peers), makes a
 * filesystem on it and uses it; and again while the gateway of the mounted filesystem is killed.
 *
 * Usage: npm run vm:attach -- [--timeout SECONDS] [--keep]
 *   --keep  leaves the cluster's directory, and says where
 * Prints PASS or FAIL for each step.
 * Exit codes: 0 all passed, 1 something failed or the machine did not end in time
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { ClusterSite } from '../test/helpers/cluster-site.ts'
import { parseArgs } from './arguments.ts'
import { repositoryRoot } from './repository.ts'
import { type Image, makeImage } from './vm/image.ts'

const VOLUME = 'vm'

function startMachine(image: Image, { peers }: ClusterSite): ChildProcess {
  const [first, second] = peers
  const parameters = [`torus.nbd=${first!.nbdPort}`, `torus.admin=${first!.adminPort}`]
  parameters.push(`torus.next=${second!.nbdPort}`)
  parameters.push(`torus.volume=${VOLUME}`, 'console=ttyS0', 'quiet', 'panic=-1', 'rdinit=/init')
  const args = ['-nographic', '-no-reboot', '-m', '1536', '-smp', '2', '-accel', 'tcg,thread=multi']
  args.push('-nodefaults', '-serial', 'stdio', '-cpu', 'max')
  args.push('-kernel', image.kernel, '-initrd', image.initramfs, '-append', parameters.join(' '))
  // User networking: what the guest sends to 10.0.2.2 reaches this machine's loopback.
  args.push('-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net,romfile=')
  return spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'inherit'] })
}

/**
 * Follows the machine's console, and kills the gateway when it says so; resolves to the number of
 * failed steps, -1 if it broke off.
 */
function follow(machine: ChildProcess, site: ClusterSite, timeoutMs: number): Promise<number> {
  let failed = -1
  let killedMs = 0
  const timer = setTimeout(() => {
    console.log(`FAIL the machine is not done after ${timeoutMs / 1000} s`)
    machine.kill('SIGKILL')
  }, timeoutMs)
  const lines = createInterface({ input: machine.stdout! })
  lines.on('line', (text) => {
    const line = text.trimEnd()
    const [, verdict, rest] = /VM (PASS|FAIL|DONE|KILL) (.*)$/.exec(line) ?? []
    if (verdict === 'DONE') failed = Number(rest)
    else if (verdict === 'KILL') {
      killedMs = performance.now()
      void site.peers[0]!.kill()
    } else if (verdict !== undefined) {
      const seconds = (performance.now() - killedMs) / 1000
      console.log(`${verdict} ${rest}${killedMs === 0 ? '' : `, after ${seconds.toFixed(0)} s`}`)
      killedMs = 0
    }
    // What a failed step printed; the firmware's own lines are nobody's business.
    else if (line.startsWith('    ')) console.log(line)
  })
  return new Promise((resolve) => {
    machine.once('exit', () => {
      clearTimeout(timer)
      resolve(failed)
    })
  })
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      timeout: { type: 'string', default: '600' },
      keep: { type: 'boolean', default: false }
    }
  })
  const image = makeImage(join(repositoryRoot, '.torus/vm'))
  const directory = mkdtempSync(join(tmpdir(), 'torus-vm-'))
  const argsOf = (): string[] => ['--log-level', 'warn', '--shards', '1']
  let site: ClusterSite | null = null
  try {
    site = await ClusterSite.start({ peers: 2, directory, argsOf, logFiles: true })
    await site.peers[0]!.createVolume(VOLUME, '1GiB')
    const failed = await follow(startMachine(image, site), site, Number(values.timeout) * 1000)
    console.log(failed === 0 ? 'PASS every step' : 'FAIL: not every step was done')
    return failed === 0 ? 0 : 1
  } finally {
    await site?.dispose()
    if (values.keep) console.log(`the data is in ${directory}`)
    else rmSync(directory, { recursive: true, force: true })
  }
}

process.exitCode = await main()
