/** Images in qcow2, which qemu-img reads. */
import { dirname } from 'node:path'
import { CommandError } from './errors.ts'
import { needProgram, runProgram } from './programs.ts'

/** Of `qemu-img check`: nothing wrong, or only space that nothing uses. */
const wholeCodes: readonly number[] = [0, 3]

/** @throws CommandError when it is none, not whole, or there is no room */
export async function rawOfQcow2(path: string, into: string): Promise<void> {
  const qemuImg = needProgram('qemu-img')
  // To qemu-img, what lies behind the end of the file reads as zeroes.
  const check = await runProgram(qemuImg, ['check', '-f', 'qcow2', path])
  if (!wholeCodes.includes(check.code)) {
    const says = saysOf(check.output)
    const isCut = /exceeding the end of the file/.test(check.output)
    const text = `${isCut ? 'it was cut off' : 'it is no whole qcow2'}, qemu-img says: ${says}`
    throw new CommandError('Corrupt', `${path} is not imported: ${text}`)
  }
  const args = ['convert', '-f', 'qcow2', '-O', 'raw', path, into]
  const { code, output } = await runProgram(qemuImg, args)
  if (code === 0) return
  if (/No space left on device/.test(output)) {
    const text = `it is converted in ${dirname(into)}, where the disk is full`
    throw new CommandError('OutOfSpace', `${text}: set TMPDIR to a folder with more room`)
  }
  throw new CommandError('Corrupt', `${path} is not imported, qemu-img says: ${saysOf(output)}`)
}

/** It has a line for each cluster: their number, or what came first, is enough. */
function saysOf(output: string): string {
  const lines = output.split('\n').map((line) => line.trim())
  return lines.find((line) => /errors? (was|were) found/.test(line)) ?? lines[0]!
}
