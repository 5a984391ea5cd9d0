/** Whose reads from disks count when one read took long: the calling thread's. */
import { ok, strictEqual } from 'node:assert'
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import { sharedMemory } from '../../src/core/wasm.ts'
import { diskReadsOfThread } from '../../src/replication/disk-reads.ts'

const BYTES = 2 ** 20
/** Aligned to a page, as reads past the page cache have to be. */
const memory = new Uint8Array(sharedMemory(BYTES).buffer)

/** Past the page cache; false where files cannot be read so. */
function readFromDisk(file: string): boolean {
  try {
    const descriptor = openSync(file, constants.O_RDONLY | constants.O_DIRECT)
    try {
      return readSync(descriptor, memory, 0, BYTES, 0) === BYTES
    } finally {
      closeSync(descriptor)
    }
  } catch {
    return false
  }
}

const IN_WORKER = `
const { parentPort, workerData } = require('node:worker_threads')
const { closeSync, constants, openSync, readSync } = require('node:fs')
const { BYTES, file, memory } = workerData
const readFromDisk = ${readFromDisk.toString()}
parentPort.postMessage(readFromDisk(file))
`

async function readInWorker(file: string): Promise<unknown> {
  const worker = new Worker(IN_WORKER, { eval: true, workerData: { BYTES, file, memory } })
  try {
    return await new Promise((resolve, reject) => {
      worker.once('message', resolve).once('error', reject)
    })
  } finally {
    await worker.terminate()
  }
}

test('reads of this thread count, and those of another do not', async () => {
  if (!existsSync('/proc/thread-self/io')) return
  const directory = mkdtempSync(join(tmpdir(), 'torus-disk-reads-'))
  const file = join(directory, 'file')
  try {
    writeFileSync(file, Buffer.alloc(BYTES, 7), { flush: true })
    if (!readFromDisk(file)) return
    const reads = diskReadsOfThread()
    const before = reads()
    strictEqual(await readInWorker(file), true)
    // Code that was never run yet may come from the disk, too.
    const between = reads()
    ok(between - before < BYTES, `${between} from ${before}`)
    ok(readFromDisk(file))
    ok(reads() - between >= BYTES, `${reads()} from ${between}`)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})

test.run()
