import { assert } from '../core/assert.ts'
import { FILE_DESCRIPTORS_MAX, QUEUE_SLOTS } from '../core/limits.ts'
import { ENTRY_WORDS } from './entry.ts'
import { SYNC_BOARD_WORDS } from './sync-board.ts'

/**
 * What the main thread and one shard's worker share: control words, both queues, the table of
 * unsynced files, the map of open files, and the shard's statistics. It outlives the worker.
 *
 * Each queue has one writer and one reader. A writer fills entries with plain stores and publishes
 * them by one atomic store of its tail; the reader's atomic load of the tail orders them. Positions
 * count entries modulo 2^32 and the client keeps at most QUEUE_SLOTS requests in flight, so neither
 * queue can overflow and heads stay private to their readers.
 */
export interface ChannelMemory {
  readonly control: SharedArrayBuffer
  readonly submissions: SharedArrayBuffer
  readonly completions: SharedArrayBuffer
  readonly syncBoard: SharedArrayBuffer
  readonly openFiles: SharedArrayBuffer
  readonly stats: SharedArrayBuffer
}

// Control words, a cache line (16 words) for each writer:
//
//   word  field
//      0  SUBMISSION_TAIL   main: entries published so far
//      1  COMMAND           main: Command
//      2  BATCH_OPS         main: most ops the worker may take at once
//     16  COMPLETION_TAIL   worker: entries published so far
//     17  STATE             worker: WorkerState
//     18  EXECUTING         worker: ops of the batch it is carrying out, 0 between batches
//     19  EXECUTING_FROM    worker: position of the first of them
//     20  THREAD            worker: its thread id
//     32  WORKER_ASLEEP     both: 1 while the worker sleeps or is about to
export const SUBMISSION_TAIL = 0
export const COMMAND = 1
export const BATCH_OPS = 2
export const COMPLETION_TAIL = 16
export const STATE = 17
export const EXECUTING = 18
export const EXECUTING_FROM = 19
export const THREAD = 20
export const WORKER_ASLEEP = 32
const CONTROL_WORDS = 48

export const Command = { Run: 0, Close: 1 } as const
export const WorkerState = { Starting: 0, Serving: 1 } as const

/** Numbers a shard may publish about itself. */
const STATS_MAX = 128

const POSITION_MASK = QUEUE_SLOTS - 1
/** Where in a queue's words the entry with this position stands. */
export const entryAt = (position: number): number => (position & POSITION_MASK) * ENTRY_WORDS

export function createChannelMemory(): ChannelMemory {
  return {
    control: new SharedArrayBuffer(CONTROL_WORDS * 4),
    submissions: new SharedArrayBuffer(QUEUE_SLOTS * ENTRY_WORDS * 4),
    completions: new SharedArrayBuffer(QUEUE_SLOTS * ENTRY_WORDS * 4),
    syncBoard: new SharedArrayBuffer(SYNC_BOARD_WORDS * 4),
    openFiles: new SharedArrayBuffer(FILE_DESCRIPTORS_MAX / 8),
    stats: new SharedArrayBuffer(STATS_MAX * 8)
  }
}

/** Makes the channel as good as new for the next worker; the last one must be gone. */
export function resetControl(control: Int32Array): void {
  for (let word = 0; word < CONTROL_WORDS; word++) Atomics.store(control, word, 0)
}

assert(CONTROL_WORDS % 16 === 0, 'control words are whole cache lines')
