/**
 * Tests that need a real program or a kernel feature. A missing program is a skip for a developer
 * and a failure where CI=true, because `npm test` installs it; a missing kernel feature is only
 * listed as not run, because nobody can install one.
 *
 *   testNeeding({ programs: ['qemu-img'], kernel: ['fuse'] }, 'a fact', async () => { … })
 */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { test } from 'uvu'
import { repositoryRoot } from '../../scripts/repository.ts'
import { NOT_RUN_PREFIX } from '../../scripts/testing/protocol.ts'

export type KernelFeature = 'nbd' | 'loop' | 'fuse' | 'netns' | 'root'

export interface Needs {
  readonly programs?: readonly string[]
  readonly kernel?: readonly KernelFeature[]
  /** Programs that come with a machine and are not installed for tests: listed as not run. */
  readonly givenPrograms?: readonly string[]
}

interface ProgramEntry {
  readonly program: string
  readonly package: string
  readonly pythonModule?: string
}

const entries: readonly ProgramEntry[] = JSON.parse(
  readFileSync(join(repositoryRoot, 'scripts/test-programs.json'), 'utf8')
)

/** Debian's own python, which has Debian's modules, else the one in PATH. */
export const python3 = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3'

/** Path of a program, '' when it is not installed. Looks where only root has it in PATH too. */
export function findProgram(name: string): string {
  for (const folder of [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin']) {
    const path = join(folder === '' ? '.' : folder, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not in this folder.
    }
  }
  return ''
}

function hasProgram(name: string): boolean {
  const module = entries.find((entry) => entry.program === name)?.pythonModule
  if (module === undefined) return findProgram(name) !== ''
  return spawnSync(python3, ['-c', `import ${module}`]).status === 0
}

const succeeds = (command: string, ...args: string[]): boolean =>
  spawnSync(command, args, { stdio: 'ignore' }).status === 0

const probes: Record<KernelFeature, () => boolean> = {
  nbd: () => existsSync('/dev/nbd0'),
  loop: () => existsSync('/dev/loop-control') && succeeds('losetup', '--find'),
  fuse: () => existsSync('/dev/fuse'),
  netns: () => succeeds('unshare', '--net', 'true'),
  root: () => process.getuid?.() === 0
}

const probed = new Map<KernelFeature, boolean>()

export function hasKernelFeature(feature: KernelFeature): boolean {
  const known = probed.get(feature)
  if (known !== undefined) return known
  const found = probes[feature]()
  probed.set(feature, found)
  return found
}

/** Registers the test with uvu, or says why it cannot run here. */
export function testNeeding(needs: Needs, name: string, handler: () => Promise<void> | void): void {
  const feature =
    needs.kernel?.find((each) => !hasKernelFeature(each)) ??
    needs.givenPrograms?.find((each) => !hasProgram(each))
  const program = needs.programs?.find((each) => !hasProgram(each))
  if (feature !== undefined) {
    console.log(`${NOT_RUN_PREFIX}${name}: this machine has no ${feature}`)
    test.skip()
  } else if (program === undefined) {
    test(name, handler)
  } else {
    const where = entries.find((entry) => entry.program === program)?.package ?? program
    const reason = `${program} is not installed (Debian package ${where})`
    if (process.env['CI'] === 'true') {
      test(name, () => {
        throw new Error(reason)
      })
    } else {
      console.log(`${NOT_RUN_PREFIX}${name}: ${reason}`)
      test.skip()
    }
  }
}
