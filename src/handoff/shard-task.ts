import { AssertionError } from '../core/assert.ts'
import { type ErrorCode, StoreError } from '../core/errors.ts'
import type { SharedWasmMemory } from '../core/wasm.ts'
import type { ChannelMemory } from './channel.ts'
import type { LoopKnobs } from './worker-loop.ts'

/** What a shard's worker is started with. */
export interface ShardTask {
  readonly shard: number
  readonly memory: ChannelMemory
  readonly bell: SharedArrayBuffer
  readonly arena: SharedWasmMemory
  /** Where in the arena's memory it takes checksums; this worker's alone. */
  readonly scratch: number
  readonly knobs: Partial<LoopKnobs>
  /** Whatever the engine behind the worker needs; it is cloned. */
  readonly config: unknown
}

/**
 * How a worker's task ends. Errors become plain data, because classes and codes do not survive
 * the way between threads. `refused`: the store cannot be opened or closed; `crashed`: a bug.
 */
export type ShardTaskEnd =
  | { readonly kind: 'closed' }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly message: string }
  | { readonly kind: 'crashed'; readonly message: string }

/** A message of a worker for the log. */
export interface WorkerLog {
  readonly log: 'debug' | 'info' | 'warn' | 'error'
  readonly shard: number
  readonly message: string
  readonly fields: Record<string, unknown>
}

/** Runs a worker's task: an engine's failure or bug becomes a ShardTaskEnd. */
export function shardTaskEnd(run: () => void): ShardTaskEnd {
  try {
    run()
    return { kind: 'closed' }
  } catch (error) {
    if (error instanceof StoreError) {
      return { kind: 'refused', code: error.code, message: error.message }
    }
    const name = error instanceof AssertionError ? 'assertion failed: ' : ''
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
    return { kind: 'crashed', message: name + stack }
  }
}
