/**
 * What a request costs between socket and shard, both threads' part of it in one thread: pages
 * taken from the arena, the payload copied in, a submission and a completion through their queues,
 * pages given back. The waking of threads is left out: it is shared by all requests of a batch.
 */
import { ShardOp } from '../../src/shard/op.ts'
import { SharedArena } from '../../src/handoff/arena.ts'
import {
  COMPLETION_TAIL,
  createChannelMemory,
  entryAt,
  SUBMISSION_TAIL
} from '../../src/handoff/channel.ts'
import {
  readCompletion,
  readSubmission,
  writeCompletion,
  writeSubmission
} from '../../src/handoff/entry.ts'
import { blocksOf, type Kernel, type Prepared } from '../kernel.ts'

function preparedHandoff(payload: Buffer): Prepared {
  const arena = new SharedArena()
  const memory = createChannelMemory()
  const control = new Int32Array(memory.control)
  const submissions = new Uint32Array(memory.submissions)
  const completions = new Uint32Array(memory.completions)
  const pages = blocksOf(payload).length
  const [request, received] = [new ShardOp(), new ShardOp()]
  request.blockCount = pages
  let position = 0
  return {
    run: () => {
      request.payload = arena.acquire(pages)
      payload.copy(arena.bytes, request.payload)
      const at = entryAt(position)
      position = (position + 1) | 0
      writeSubmission(submissions, at, 7, request)
      Atomics.store(control, SUBMISSION_TAIL, position)
      Atomics.load(control, SUBMISSION_TAIL)
      const slot = readSubmission(submissions, at, received)
      writeCompletion(completions, at, slot, received)
      Atomics.store(control, COMPLETION_TAIL, position)
      Atomics.load(control, COMPLETION_TAIL)
      readCompletion(completions, at, request)
      arena.release(received.payload)
    },
    fingerprint: () => {
      const same = arena.bytes.compare(
        payload,
        0,
        payload.length,
        received.payload,
        received.payload + payload.length
      )
      return `${received.blockCount} ${same}`
    }
  }
}

export const handoff: Kernel = {
  name: 'handoff',
  what: 'arena pages, one copy of the payload, a submission and a completion',
  variants: [
    {
      name: 'src/handoff',
      native: false,
      prepare: async (payload) => preparedHandoff(payload)
    }
  ]
}
