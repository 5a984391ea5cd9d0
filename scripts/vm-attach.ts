/**
 * Proves `torus attach` with the kernel's real nbd driver, on machines whose own kernel has none: a
 * virtual machine (QEMU without KVM, Debian's kernel, an initramfs made of this machine's programs)
 * attaches a volume of a peer that runs here on loopback, makes a filesystem on it and uses it.
 *
 * Usage: npm run vm:attach -- [--timeout SECONDS] [--keep]
 *   --keep  leaves the server's data directory, and says where
 * Prints PASS or FAIL for each step.
 * Exit codes: 0 all passed, 1 something failed or the machine did not end in time
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { repositoryRoot } from './repository.ts'
import { type Image, makeImage } from './vm/image.ts'

const VOLUME = 'vm'
const READY_MS = 30_000

interface Ports {
  readonly nbd: number
  readonly admin: number
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' ? (address?.port ?? 0) : 0))
    })
  })
}

async function startPeer(dataDir: string, ports: Ports): Promise<ChildProcess> {
  const listen = (port: number): string => `127.0.0.1:${port}`
  const args = ['serve', '--data-dir', dataDir, '--volume', `${VOLUME}=1GiB`, '--log-level', 'warn']
  args.push('--nbd-listen', listen(ports.nbd), '--admin-listen', listen(ports.admin))
  const program = join(repositoryRoot, 'dist/src/cli/main.js')
  const peer = spawn(process.execPath, [program, ...args], {
    stdio: ['ignore', 'ignore', 'inherit']
  })
  const until = performance.now() + READY_MS
  for (;;) {
    const ready = await fetch(`http://${listen(ports.admin)}/readyz`).catch(() => null)
    if (ready?.ok) return peer
    if (peer.exitCode !== null || performance.now() > until) {
      throw new Error('the peer did not become ready')
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

function startMachine(image: Image, ports: Ports): ChildProcess {
  const parameters = [`torus.nbd=${ports.nbd}`, `torus.admin=${ports.admin}`]
  parameters.push(`torus.volume=${VOLUME}`, 'console=ttyS0', 'quiet', 'panic=-1', 'rdinit=/init')
  const args = ['-nographic', '-no-reboot', '-m', '1536', '-smp', '2', '-accel', 'tcg,thread=multi']
  args.push('-nodefaults', '-serial', 'stdio', '-cpu', 'max')
  args.push('-kernel', image.kernel, '-initrd', image.initramfs, '-append', parameters.join(' '))
  // User networking: what the guest sends to 10.0.2.2 reaches this machine's loopback.
  args.push('-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net,romfile=')
  return spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'inherit'] })
}

/** Follows the machine's console; resolves to the number of failed steps, -1 if it broke off. */
function follow(machine: ChildProcess, timeoutMs: number): Promise<number> {
  let failed = -1
  const timer = setTimeout(() => {
    console.log(`FAIL the machine is not done after ${timeoutMs / 1000} s`)
    machine.kill('SIGKILL')
  }, timeoutMs)
  const lines = createInterface({ input: machine.stdout! })
  lines.on('line', (text) => {
    const line = text.trimEnd()
    const [, verdict, rest] = /VM (PASS|FAIL|DONE) (.*)$/.exec(line) ?? []
    if (verdict === 'DONE') failed = Number(rest)
    else if (verdict !== undefined) console.log(`${verdict} ${rest}`)
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

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
  return new Promise((resolve) => child.once('exit', () => resolve()))
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      timeout: { type: 'string', default: '600' },
      keep: { type: 'boolean', default: false }
    }
  })
  const image = makeImage(join(repositoryRoot, '.torus/vm'))
  const dataDir = mkdtempSync(join(tmpdir(), 'torus-vm-'))
  const ports = { nbd: await freePort(), admin: await freePort() }
  let peer: ChildProcess | null = null
  try {
    peer = await startPeer(dataDir, ports)
    const failed = await follow(startMachine(image, ports), Number(values.timeout) * 1000)
    console.log(failed === 0 ? 'PASS every step' : 'FAIL: not every step was done')
    return failed === 0 ? 0 : 1
  } finally {
    peer?.kill('SIGTERM')
    if (peer !== null) await ended(peer)
    if (values.keep) console.log(`the data is in ${dataDir}`)
    else rmSync(dataDir, { recursive: true, force: true })
  }
}

process.exitCode = await main()
