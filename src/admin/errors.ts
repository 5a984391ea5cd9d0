import { ErrorCode, errorCodeName, StoreError } from '../core/errors.ts'

/** How each failure reads over HTTP. */
export const httpStatusOf: Readonly<Record<ErrorCode, number>> = {
  [ErrorCode.Ok]: 200,
  [ErrorCode.ChecksumMismatch]: 500,
  [ErrorCode.StaleEpoch]: 409,
  [ErrorCode.NoQuorum]: 503,
  [ErrorCode.OutOfSpace]: 507,
  [ErrorCode.DiskFailure]: 500,
  [ErrorCode.ShardFailed]: 503,
  [ErrorCode.InvalidArgument]: 400,
  [ErrorCode.OutOfRange]: 400,
  [ErrorCode.NotFound]: 404,
  [ErrorCode.AlreadyExists]: 409,
  [ErrorCode.Busy]: 409,
  [ErrorCode.ReadOnly]: 409,
  [ErrorCode.UnknownVersion]: 500,
  [ErrorCode.Corrupt]: 500,
  [ErrorCode.Closed]: 503,
  [ErrorCode.LimitReached]: 429,
  [ErrorCode.Conflict]: 409,
  [ErrorCode.Unavailable]: 503,
  [ErrorCode.Forbidden]: 403,
  [ErrorCode.StaleGroup]: 503,
  [ErrorCode.PeerLost]: 503,
  [ErrorCode.SealBroken]: 500,
  [ErrorCode.Locked]: 423,
  [ErrorCode.TagsWanted]: 500,
  [ErrorCode.BaseUnknown]: 503
}

export interface ErrorBody {
  readonly error: { readonly code: string; readonly message: string }
}

export const errorBody = (code: string, message: string): ErrorBody => ({
  error: { code, message }
})

export interface HttpFailure {
  readonly status: number
  readonly body: ErrorBody
}

/** What the client is told of any thrown value; null for a bug, which tells nobody its insides. */
export function httpFailureOf(thrown: unknown): HttpFailure | null {
  if (thrown instanceof StoreError) {
    const body = errorBody(errorCodeName(thrown.code), thrown.message)
    return { status: httpStatusOf[thrown.code], body }
  }
  // Fastify's own: body too large, not JSON, unknown media type, …
  const status = (thrown as { statusCode?: unknown } | null)?.statusCode
  if (typeof status !== 'number' || status < 400 || status >= 500) return null
  if (status === 415) {
    const message = 'the body must be JSON, sent with the header "content-type: application/json"'
    return { status, body: errorBody(errorCodeName(ErrorCode.InvalidArgument), message) }
  }
  const code = status === 413 ? ErrorCode.LimitReached : ErrorCode.InvalidArgument
  return { status, body: errorBody(errorCodeName(code), (thrown as Error).message) }
}
