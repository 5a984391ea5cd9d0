/** What a figure was measured on. */
import { cpus, release, totalmem } from 'node:os'
import { run } from '../../test/helpers/process.ts'

export interface Machine {
  readonly date: string
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly filesystem: string
  readonly node: string
  readonly fio: string
  readonly commit: string
}

const firstLine = async (program: string, args: readonly string[]): Promise<string> => {
  try {
    return (await run(program, args)).stdout.trim().split('\n')[0] ?? ''
  } catch {
    return ''
  }
}

/** Of this machine, `directory` telling which filesystem is meant. */
export async function describeMachine(directory: string): Promise<Machine> {
  return {
    date: new Date().toISOString(),
    cpu: cpus()[0]?.model ?? '',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    filesystem: await firstLine('findmnt', ['-no', 'FSTYPE', '-T', directory]),
    node: process.version,
    fio: await firstLine('fio', ['--version']),
    commit: await firstLine('git', ['describe', '--always', '--dirty'])
  }
}

export const machineLine = (machine: Machine): string =>
  `${machine.date.slice(0, 16)}Z, ${machine.cores} cores ${machine.cpu}, ` +
  `${machine.memoryGiB} GiB, ` +
  `Linux ${machine.kernel}, ${machine.filesystem}, Node ${machine.node}, ${machine.fio}, ` +
  `commit ${machine.commit}`
