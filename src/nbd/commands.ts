/** What is wrong with a command, if anything: the border check of the transmission phase. */
import { BLOCK_BYTES } from '../core/limits.ts'
import { RequestKind } from '../volume/request.ts'
import { PAYLOAD_BYTES_MAX } from './limits.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN
} from './protocol.ts'
import { ReplyMode } from './replies.ts'

/** Why a command is not carried out. */
export interface Refusal {
  readonly error: number
  readonly message: Buffer
}

const refusal = (error: number, message: string): Refusal => ({
  error,
  message: Buffer.from(message)
})

export const refusals = {
  command: refusal(NBD_EINVAL, 'unknown command'),
  flags: refusal(NBD_EINVAL, 'a flag is unknown, not negotiated, or not for this command'),
  payloadFlag: refusal(NBD_EINVAL, 'with extended headers a write says that it has a payload'),
  flushRange: refusal(NBD_EINVAL, 'a flush has neither offset nor length'),
  zeroLength: refusal(NBD_EINVAL, 'length is zero'),
  range: refusal(NBD_EINVAL, 'reaches past the end of the export'),
  writeRange: refusal(NBD_ENOSPC, 'reaches past the end of the export'),
  readOnly: refusal(NBD_EPERM, 'the export is read-only'),
  tooLong: refusal(NBD_EINVAL, 'longer than the maximum payload'),
  tooLongStructured: refusal(NBD_EOVERFLOW, 'longer than the maximum payload'),
  notFast: refusal(NBD_ENOTSUP, 'holds no whole block: as slow as a write'),
  noContext: refusal(NBD_EINVAL, 'no metadata context was selected'),
  contextFilter: refusal(NBD_EINVAL, 'the payload names no, unknown or repeated contexts'),
  shutdown: refusal(NBD_ESHUTDOWN, 'the server is shutting down')
} as const

/** NBD_CMD_ number -> RequestKind; 0 where there is none. */
export const kindOfCommand: readonly number[] = [
  RequestKind.Read,
  RequestKind.Write,
  0,
  RequestKind.Flush,
  RequestKind.Trim,
  RequestKind.Cache,
  RequestKind.WriteZeroes,
  RequestKind.BlockStatus
]

/**
 * Flags each command may carry. "The server MUST accept all commands with [FUA] set", so every
 * one has it; PAYLOAD_LEN is added where it was negotiated.
 */
const flagsOfCommand: readonly number[] = [
  NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FUA,
  0,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE
]

export interface CommandRules {
  readonly mode: ReplyMode
  readonly readOnly: boolean
  /** Metadata contexts were selected. */
  readonly statusContexts: boolean
}

/** null when the command can be carried out on an export of `sizeBytes`. */
export function checkCommand(
  rules: CommandRules,
  sizeBytes: number,
  command: number,
  flags: number,
  offset: number,
  length: number
): Refusal | null {
  const kind = command < kindOfCommand.length ? kindOfCommand[command]! : 0
  if (kind === 0) return refusals.command
  if ((flags & ~allowedFlags(rules, command)) !== 0) return refusals.flags
  if (command === NBD_CMD_FLUSH) return offset === 0 && length === 0 ? null : refusals.flushRange
  if (command === NBD_CMD_BLOCK_STATUS && !rules.statusContexts) return refusals.noContext
  const writes =
    command === NBD_CMD_WRITE || command === NBD_CMD_TRIM || command === NBD_CMD_WRITE_ZEROES
  if (writes && rules.readOnly) return refusals.readOnly
  if (rules.mode === ReplyMode.Extended && command === NBD_CMD_WRITE) {
    if ((flags & NBD_CMD_FLAG_PAYLOAD_LEN) === 0) return refusals.payloadFlag
  }
  if (length === 0) return refusals.zeroLength
  // Both sides are exact: neither may be above 2^53.
  if (!(offset <= sizeBytes && length <= sizeBytes - offset)) {
    return writes && command !== NBD_CMD_TRIM ? refusals.writeRange : refusals.range
  }
  if (command === NBD_CMD_READ && length > PAYLOAD_BYTES_MAX) {
    return rules.mode === ReplyMode.Simple ? refusals.tooLong : refusals.tooLongStructured
  }
  if ((flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 && !holdsWholeBlock(offset, length)) {
    return refusals.notFast
  }
  return null
}

function allowedFlags(rules: CommandRules, command: number): number {
  let allowed = flagsOfCommand[command]!
  if (rules.mode === ReplyMode.Simple) allowed &= ~NBD_CMD_FLAG_DF
  if (rules.mode === ReplyMode.Extended) {
    if (command === NBD_CMD_WRITE) allowed |= NBD_CMD_FLAG_PAYLOAD_LEN
    if (command === NBD_CMD_BLOCK_STATUS && rules.statusContexts) {
      allowed |= NBD_CMD_FLAG_PAYLOAD_LEN
    }
  }
  return allowed
}

/** Zeroing whole blocks writes no payload; anything less is a read, a change and a write. */
const holdsWholeBlock = (offset: number, length: number): boolean =>
  Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES <= offset + length
