/**
 * Makes the disk of a real server slow or full: loaded into it by `node --import`, in all of its
 * threads. What it does stands in a file that `DiskFault` writes and that is looked at now and
 * then; without the variable that names the file nothing happens.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

const VARIABLE = 'TORUS_TEST_DISK_FAULT'
const LOOK_MS = 50

interface Fault {
  /** For each write and each sync. */
  readonly delayMs: number
  /** Of each write, like ENOSPC; '' for none. */
  readonly error: string
}
const NONE: Fault = { delayMs: 0, error: '' }

/** The side of the test. */
export class DiskFault {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
    this.set({})
  }

  /** Arguments of node, and its environment. */
  get nodeArgs(): string[] {
    return ['--import', import.meta.url]
  }

  get env(): Record<string, string> {
    return { [VARIABLE]: this.#path }
  }

  set(fault: Partial<Fault>): void {
    fs.writeFileSync(`${this.#path}.new`, JSON.stringify({ ...NONE, ...fault }))
    fs.renameSync(`${this.#path}.new`, this.#path)
  }
}

let fault = NONE
let lookedMs = 0

function faultOf(path: string): Fault {
  const now = performance.now()
  if (now - lookedMs < LOOK_MS) return fault
  lookedMs = now
  fault = JSON.parse(fs.readFileSync(path, 'utf8')) as Fault
  return fault
}

const sleeping = new Int32Array(new SharedArrayBuffer(4))

function beforeWrite(path: string): void {
  const { delayMs, error } = faultOf(path)
  if (delayMs > 0) Atomics.wait(sleeping, 0, 0, delayMs)
  if (error !== '') throw Object.assign(new Error(`${error}: made up`), { code: error })
}

function install(path: string): void {
  const { writeSync, writevSync, fdatasync } = fs
  // Text is written to locks and the like, blocks are bytes.
  fs.writeSync = ((...args: Parameters<typeof writeSync>) => {
    if (typeof args[1] !== 'string') beforeWrite(path)
    return writeSync(...args)
  }) as typeof writeSync
  fs.writevSync = (...args) => {
    beforeWrite(path)
    return writevSync(...args)
  }
  const slowSync = (descriptor: number, done: fs.NoParamCallback): void => {
    const { delayMs } = faultOf(path)
    if (delayMs === 0) fdatasync(descriptor, done)
    else setTimeout(() => fdatasync(descriptor, done), delayMs)
  }
  fs.fdatasync = Object.assign(slowSync, { __promisify__: fdatasync.__promisify__ })
  syncBuiltinESMExports()
}

const path = process.env[VARIABLE]
if (path !== undefined) install(path)
