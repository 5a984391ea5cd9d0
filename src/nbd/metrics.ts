/** Counters of the NBD server: plain numbers, raised on the data path, read by the admin layer. */
import { type HistogramSnapshot, LatencyHistogram } from '../core/histogram.ts'

/** Index is the NBD_CMD_ number; DISC has no reply and is not counted. */
const operationNames = [
  'read',
  'write',
  'disconnect',
  'flush',
  'trim',
  'cache',
  'write_zeroes',
  'block_status'
] as const

export interface OperationSnapshot {
  readonly operation: (typeof operationNames)[number]
  readonly requests: number
  readonly errors: number
  readonly bytes: number
  readonly latency: HistogramSnapshot
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
  /** How often a client got less memory than it asked for, or had to wait for it. */
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
  private readonly latencies = operationNames.map(() => new LatencyHistogram())

  /** A command was answered. `bytes` counts only what succeeded. */
  note(operation: number, failed: boolean, bytes: number, latencyMs: number): void {
    this.requests[operation]! += 1
    if (failed) this.errors[operation]! += 1
    else this.bytes[operation]! += bytes
    this.latencies[operation]!.recordMs(latencyMs)
  }

  operations(): OperationSnapshot[] {
    return operationNames
      .map((operation, index) => ({
        operation,
        requests: this.requests[index]!,
        errors: this.errors[index]!,
        bytes: this.bytes[index]!,
        latency: this.latencies[index]!.snapshot()
      }))
      .filter((each) => each.operation !== 'disconnect')
  }
}
