import type { Worker } from 'node:worker_threads'
import { Piscina } from 'piscina'
import type { ShardTask, ShardTaskEnd, WorkerLog } from './shard-task.ts'

/**
 * One life of a shard's worker: a Piscina pool of one thread with one long-running task.
 *
 * Each life has a pool of its own, so that every shard has its thread and a new life begins with a
 * fresh one. A pool that goes on after a thread died while starting never makes another, and its
 * queued task waits for ever; the first thread of a new pool takes its task at once.
 */
export class ShardThread {
  readonly worker: Worker
  private readonly piscina: Piscina<ShardTask, ShardTaskEnd>
  private readonly exited: Promise<void>

  constructor(filename: URL, log: (entry: WorkerLog) => void) {
    this.piscina = new Piscina({
      filename: filename.href,
      minThreads: 1,
      maxThreads: 1,
      // See OpenFiles.
      trackUnmanagedFds: false,
      recordTiming: false
    })
    this.piscina.on('message', log)
    // A thread that dies without a task, after ours has ended: nothing is lost with it.
    this.piscina.on('error', () => {})
    const [worker] = this.piscina.threads
    this.worker = worker!
    this.exited = new Promise((resolve) => this.worker.once('exit', () => resolve()))
  }

  /** Resolves when the task is over and nothing of it can touch shared memory any more. */
  async run(task: ShardTask): Promise<ShardTaskEnd> {
    try {
      return await this.piscina.run(task)
    } catch (error) {
      // The thread ended, or is about to: the error may be here before.
      await this.exited
      return { kind: 'crashed', message: error instanceof Error ? error.message : String(error) }
    }
  }

  /** Ends the thread, whatever it does. */
  async destroy(): Promise<void> {
    await this.piscina.destroy()
  }
}
