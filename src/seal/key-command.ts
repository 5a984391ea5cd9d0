import { type ChildProcess, spawn } from 'node:child_process'
import type { Readable } from 'node:stream'
import { ErrorCode, StoreError } from '../core/errors.ts'
import { SECRET_BYTES_MAX } from './key-slots.ts'
import { wipe } from './secret.ts'

/** What fetches a key may ask a server for it. */
const COMMAND_MS = 30_000
/** Of what it says about a failure. */
const SAID_BYTES_MAX = 300

/**
 * Has /bin/sh run `command`; returns what it prints, of which no other copy stays. One that fails,
 * or is not over in time, ends with all that it began, in a process group of its own; so it does
 * when this process ends. Only at a terminal it keeps that of this process: it may ask there, and
 * Ctrl-C ends both.
 * @throws StoreError Unavailable naming the command, how it ended and what it said on stderr
 */
export async function outputOf(command: string, timeoutMs: number = COMMAND_MS): Promise<Buffer> {
  const isApart = process.stdin.isTTY !== true
  const child = spawn('/bin/sh', ['-c', command], {
    detached: isApart,
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const end = (): void => endOf(child, isApart)
  process.once('exit', end)
  const printed = new Collected(child.stdout, SECRET_BYTES_MAX, true)
  const said = new Collected(child.stderr, SAID_BYTES_MAX, false)
  try {
    const how = await Promise.race([
      endedOf(child),
      printed.tooMuch.then(() => `printed over ${SECRET_BYTES_MAX} bytes`),
      after(timeoutMs, `ended after ${timeoutMs / 1000} s`)
    ])
    if (how === null) return printed.take()
    end()
    const why = said.take().toString().trim()
    const text = `key command "${command}" failed (${how})${why === '' ? '' : `: ${why}`}`
    throw new StoreError(ErrorCode.Unavailable, text)
  } finally {
    process.off('exit', end)
    printed.wipe()
  }
}

/** How it ended when that was not well. */
function endedOf(child: ChildProcess): Promise<string | null> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('close', (code, signal) => {
      if (code === 0) resolve(null)
      else resolve(code === null ? `signal ${signal}` : `code ${code}`)
    })
  })
}

const after = (ms: number, text: string): Promise<string> =>
  new Promise((resolve) => void setTimeout(() => resolve(text), ms).unref())

function endOf(child: ChildProcess, isApart: boolean): void {
  child.stdout?.destroy()
  child.stderr?.destroy()
  const { pid } = child
  if (pid === undefined) return
  try {
    if (isApart) process.kill(-pid, 'SIGKILL')
    else child.kill('SIGKILL')
  } catch (thrown) {
    // Nothing of it runs any more.
    if ((thrown as NodeJS.ErrnoException).code !== 'ESRCH') throw thrown
  }
}

/** The first bytes of a stream. */
class Collected {
  /** Resolves when there were more than `most`. */
  readonly tooMuch: Promise<void>
  readonly #bytes: Buffer
  #length = 0

  /** `isSecret`: the pieces in which it came are zeroed. */
  constructor(stream: Readable, most: number, isSecret: boolean) {
    this.#bytes = Buffer.alloc(most)
    this.tooMuch = new Promise((resolve) => {
      stream.on('data', (piece: Buffer) => {
        const copied = piece.copy(this.#bytes, this.#length)
        this.#length += copied
        if (copied < piece.length) resolve()
        if (isSecret) wipe(piece)
      })
    })
    // It ends with the child, however that ends.
    stream.on('error', () => {})
  }

  /** The caller wipes it. */
  take(): Buffer {
    return Buffer.from(this.#bytes.subarray(0, this.#length))
  }

  wipe(): void {
    wipe(this.#bytes)
  }
}
