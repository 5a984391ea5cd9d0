/** qemu-img and qemu-io, which speak NBD by a code base of their own. */
import { run, runOk } from './process.ts'

/** Runs qemu-img; any failure of it fails the test. */
export const qemuImg = (...args: string[]): Promise<string> => runOk('qemu-img', args)

export interface MapEntry {
  readonly start: number
  readonly length: number
  readonly data: boolean
  readonly zero: boolean
  readonly present: boolean
}

/** `qemu-img map`: what the server says about holes and zeroes. */
export async function qemuMap(uri: string): Promise<MapEntry[]> {
  return JSON.parse(await qemuImg('map', '-f', 'raw', '--output=json', uri)) as MapEntry[]
}

/**
 * Runs qemu-io commands in one connection. qemu-io goes on after a command that failed and a
 * `read -P` that found other bytes, so its words decide.
 * @throws Error with all it printed when any command failed
 */
export async function qemuIo(uri: string, ...commands: string[]): Promise<string> {
  const output = await qemuIoAny(uri, ...commands)
  if (/failed|error|usage|bad argument/i.test(output)) throw new Error(output)
  return output
}

/** As `qemuIo`, for commands that are expected to fail: what it printed. */
export async function qemuIoAny(uri: string, ...commands: string[]): Promise<string> {
  const args = ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri]
  const { stdout, stderr } = await run('qemu-io', args)
  return stdout + stderr
}
