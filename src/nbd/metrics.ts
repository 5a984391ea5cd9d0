/** Counters of the NBD server: plain numbers, raised on the data path, read by the admin layer. */

/** Index is the NBD_CMD_ number; DISC has no reply and is not counted. */
export const operationNames = [
  'read',
  'write',
  'disconnect',
  'flush',
  'trim',
  'cache',
  'write_zeroes',
  'block_status'
] as const

/** Upper bounds of the latency buckets in milliseconds; the last bucket has none. */
export const LATENCY_BOUNDS_MS = [
  0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000
] as const
const BUCKETS = LATENCY_BOUNDS_MS.length + 1

export interface OperationSnapshot {
  readonly operation: (typeof operationNames)[number]
  readonly requests: number
  readonly errors: number
  readonly bytes: number
  /** Per bucket of LATENCY_BOUNDS_MS and one more, not cumulative. */
  readonly latencyCounts: readonly number[]
  readonly latencySumMs: number
}

export interface NbdSnapshot {
  readonly operations: readonly OperationSnapshot[]
  readonly connectionsOpen: number
  readonly connectionsTotal: number
  readonly connectionsRefused: number
  readonly connectionsTls: number
  readonly handshakeFailures: number
  readonly protocolErrors: number
  readonly stalledDisconnects: number
  /** Commands read and not answered, now. */
  readonly requestsInFlight: number
  readonly replyBuffersInUse: number
  /** How often a client had to wait for arena pages, a request or a reply buffer. */
  readonly memoryWaits: number
}

export class NbdMetrics {
  connectionsTotal = 0
  connectionsRefused = 0
  connectionsTls = 0
  handshakeFailures = 0
  protocolErrors = 0
  stalledDisconnects = 0
  private readonly requests = new Float64Array(operationNames.length)
  private readonly errors = new Float64Array(operationNames.length)
  private readonly bytes = new Float64Array(operationNames.length)
  private readonly latencySumMs = new Float64Array(operationNames.length)
  private readonly latencyCounts = new Float64Array(operationNames.length * BUCKETS)

  /** A command was answered. `bytes` counts only what succeeded. */
  note(operation: number, failed: boolean, bytes: number, latencyMs: number): void {
    this.requests[operation]! += 1
    if (failed) this.errors[operation]! += 1
    else this.bytes[operation]! += bytes
    this.latencySumMs[operation]! += latencyMs
    let bucket = 0
    while (bucket < BUCKETS - 1 && latencyMs > LATENCY_BOUNDS_MS[bucket]!) bucket++
    this.latencyCounts[operation * BUCKETS + bucket]! += 1
  }

  operations(): OperationSnapshot[] {
    return operationNames
      .map((operation, index) => ({
        operation,
        requests: this.requests[index]!,
        errors: this.errors[index]!,
        bytes: this.bytes[index]!,
        latencyCounts: Array.from(
          this.latencyCounts.subarray(index * BUCKETS, (index + 1) * BUCKETS)
        ),
        latencySumMs: this.latencySumMs[index]!
      }))
      .filter((each) => each.operation !== 'disconnect')
  }
}
