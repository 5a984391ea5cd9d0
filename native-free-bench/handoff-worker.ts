/** A worker that answers every op at once, for handoff.ts. */
import { type ShardTask, type ShardTaskEnd, shardTaskEnd } from '../src/handoff/shard-task.ts'
import { WorkerLoop } from '../src/handoff/worker-loop.ts'
import { ShardOp } from '../src/shard/op.ts'

const engine = {
  execute(): void {},
  background: (): boolean => false,
  nextWakeMs: (): number => Number.POSITIVE_INFINITY
}

export default function noOpShard(task: ShardTask): ShardTaskEnd {
  return shardTaskEnd(() => {
    new WorkerLoop(task.memory, task.bell, () => new ShardOp(), task.knobs).run(engine)
  })
}
