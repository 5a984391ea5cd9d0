/** Control over the page cache: write back, drop, and give a process little of it. */
import { execFile } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Writes all dirty pages of the machine back, so that one job does not pay for the last one's. */
export async function writeBack(): Promise<void> {
  await run('sync')
}

/** Empties the page cache. False where this is not allowed. */
export async function dropPageCache(): Promise<boolean> {
  await writeBack()
  try {
    writeFileSync('/proc/sys/vm/drop_caches', '3')
    return true
  } catch {
    return false
  }
}

const isWritable = (path: string): boolean => {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** Control group hierarchies with a memory controller, and how a limit is called in them. */
const hierarchies = [
  { root: '/sys/fs/cgroup', marker: 'cgroup.controllers', limit: 'memory.max', line: '0' },
  { root: '/sys/fs/cgroup/unified', marker: 'cgroup.controllers', limit: 'memory.max', line: '0' },
  {
    root: '/sys/fs/cgroup/memory',
    marker: 'memory.limit_in_bytes',
    limit: 'memory.limit_in_bytes',
    line: 'memory'
  }
] as const

/**
 * A control group that lets its processes hold `bytes` of pages that they touch while in it. What
 * they had before stays with their old group, so for a running server this limits the page cache.
 */
export class MemoryLimit {
  readonly #directory: string
  readonly #home: string
  private constructor(directory: string, home: string) {
    this.#directory = directory
    this.#home = home
  }

  /** null where no hierarchy lets us (not root, or no memory controller). */
  static create(bytes: number): MemoryLimit | null {
    for (const { root, marker, limit, line } of hierarchies) {
      if (!existsSync(join(root, marker)) || !isWritable(root)) continue
      const directory = join(root, `torus-bench-${process.pid}`)
      try {
        if (line === '0') writeFileSync(join(root, 'cgroup.subtree_control'), '+memory')
        mkdirSync(directory, { recursive: true })
        writeFileSync(join(directory, limit), String(bytes))
        return new MemoryLimit(directory, join(root, ownGroup(line)))
      } catch {
        try {
          rmdirSync(directory)
        } catch {
          // it was not made
        }
      }
    }
    return null
  }

  /** Moves a process with all its threads in; children it makes from now on follow. */
  enter(pid: number): void {
    writeFileSync(join(this.#directory, 'cgroup.procs'), String(pid))
  }

  leave(pid: number): void {
    writeFileSync(join(this.#home, 'cgroup.procs'), String(pid))
  }

  /** Processes in it have left or ended. */
  remove(): void {
    rmdirSync(this.#directory)
  }
}

/** This process's own group in the hierarchy, from lines like `4:memory:/path` or `0::/path`. */
function ownGroup(controller: string): string {
  for (const line of readFileSync('/proc/self/cgroup', 'utf8').split('\n')) {
    const [id, names, path] = line.split(':')
    const found = controller === '0' ? id === '0' : (names ?? '').split(',').includes(controller)
    if (found) return path ?? '/'
  }
  return '/'
}
