/** How every failure of the store reads to an NBD client. */
import { ErrorCode, errorCodeName } from '../core/errors.ts'
import {
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOSPC,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SESSION_OVER,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_UNKNOWN
} from './protocol.ts'

/** In the transmission phase: the error value of a reply. */
export const nbdErrorOf: Readonly<Record<ErrorCode, number>> = {
  [ErrorCode.Ok]: 0,
  [ErrorCode.ChecksumMismatch]: NBD_EIO,
  [ErrorCode.StaleEpoch]: NBD_EPERM,
  [ErrorCode.NoQuorum]: NBD_EIO,
  [ErrorCode.OutOfSpace]: NBD_ENOSPC,
  [ErrorCode.DiskFailure]: NBD_EIO,
  [ErrorCode.ShardFailed]: NBD_EIO,
  [ErrorCode.InvalidArgument]: NBD_EINVAL,
  [ErrorCode.OutOfRange]: NBD_EINVAL,
  [ErrorCode.NotFound]: NBD_EIO,
  [ErrorCode.AlreadyExists]: NBD_EINVAL,
  [ErrorCode.Busy]: NBD_EPERM,
  [ErrorCode.ReadOnly]: NBD_EPERM,
  [ErrorCode.UnknownVersion]: NBD_EIO,
  [ErrorCode.Corrupt]: NBD_EIO,
  [ErrorCode.Closed]: NBD_ESHUTDOWN,
  // Not ENOMEM: the specification wants it avoided, and clients take it for their own shortage.
  [ErrorCode.LimitReached]: NBD_EIO,
  [ErrorCode.Conflict]: NBD_EIO,
  [ErrorCode.Unavailable]: NBD_EIO,
  [ErrorCode.Forbidden]: NBD_EPERM,
  [ErrorCode.StaleGroup]: NBD_EIO,
  [ErrorCode.PeerLost]: NBD_EIO,
  [ErrorCode.SealBroken]: NBD_EIO,
  [ErrorCode.Locked]: NBD_EPERM,
  [ErrorCode.TagsWanted]: NBD_EIO,
  [ErrorCode.BaseUnknown]: NBD_EIO
}

/** In the handshake: the reply type when an export cannot be listed, described or opened. */
export const optionErrorOf: Readonly<Record<ErrorCode, number>> = {
  // Never asked for: there is no error to tell.
  [ErrorCode.Ok]: NBD_REP_ERR_INVALID,
  [ErrorCode.ChecksumMismatch]: NBD_REP_ERR_POLICY,
  [ErrorCode.StaleEpoch]: NBD_REP_ERR_SESSION_OVER,
  [ErrorCode.NoQuorum]: NBD_REP_ERR_POLICY,
  [ErrorCode.OutOfSpace]: NBD_REP_ERR_POLICY,
  [ErrorCode.DiskFailure]: NBD_REP_ERR_POLICY,
  [ErrorCode.ShardFailed]: NBD_REP_ERR_POLICY,
  // A name that no volume can have is a name that no volume has.
  [ErrorCode.InvalidArgument]: NBD_REP_ERR_UNKNOWN,
  [ErrorCode.OutOfRange]: NBD_REP_ERR_INVALID,
  [ErrorCode.NotFound]: NBD_REP_ERR_UNKNOWN,
  [ErrorCode.AlreadyExists]: NBD_REP_ERR_POLICY,
  [ErrorCode.Busy]: NBD_REP_ERR_POLICY,
  [ErrorCode.ReadOnly]: NBD_REP_ERR_POLICY,
  [ErrorCode.UnknownVersion]: NBD_REP_ERR_POLICY,
  [ErrorCode.Corrupt]: NBD_REP_ERR_POLICY,
  [ErrorCode.Closed]: NBD_REP_ERR_SHUTDOWN,
  [ErrorCode.LimitReached]: NBD_REP_ERR_POLICY,
  [ErrorCode.Conflict]: NBD_REP_ERR_POLICY,
  [ErrorCode.Unavailable]: NBD_REP_ERR_POLICY,
  [ErrorCode.Forbidden]: NBD_REP_ERR_POLICY,
  [ErrorCode.StaleGroup]: NBD_REP_ERR_POLICY,
  [ErrorCode.PeerLost]: NBD_REP_ERR_POLICY,
  [ErrorCode.SealBroken]: NBD_REP_ERR_POLICY,
  [ErrorCode.Locked]: NBD_REP_ERR_POLICY,
  [ErrorCode.TagsWanted]: NBD_REP_ERR_POLICY,
  [ErrorCode.BaseUnknown]: NBD_REP_ERR_POLICY
}

/** Dense forms for the hot path, indexed by code. */
export const nbdErrorByCode: readonly number[] = Array.from(
  { length: 1 + Math.max(...Object.values(ErrorCode)) },
  (_, code) => nbdErrorOf[code as ErrorCode]
)

/** Text of a structured error chunk, for the person who reads the client's message. */
export const errorMessageByCode: readonly Buffer[] = nbdErrorByCode.map((_, code) =>
  Buffer.from(errorCodeName(code))
)
